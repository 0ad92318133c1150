"""`testbed unlock`: see `lock`, which it undoes."""

from __future__ import annotations

from testbed.commands.lock import unlock_app as app

__all__ = ["app"]
