"""What tests of several stores need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nodes.replica import sqlite_store


@pytest.fixture(scope="module")
def short_log() -> Iterator[None]:
    """Each store that is opened would write and sync 16 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_store, "WAL_BYTES", 65_536)
        yield
