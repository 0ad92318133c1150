"""Decides whether a bundle was made here, by this user. Then `resume` may use the inventory that it
names.

An inventory has commands (power) and addresses. The manifest of a bundle from a stranger may name
any file, even one that came with it. So the named file is used only if the bundle has our mark: a
keyed digest of the inputs of the run, including commands of the inventory. The key never leaves
this account.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from testbed.manifest import Manifest

__all__ = ["is_ours", "mark"]

KEY_BYTES = 32


def mark(manifest: Manifest) -> str:
    """The mark covers what `resume` takes from the manifest, the time when it was made, and the
    whole inventory file that it names, so another file with that name does not fit."""
    name, inventory = manifest.inventory_file, b""
    if name is not None:
        with suppress(OSError):
            inventory = Path(name).expanduser().read_bytes()
    parts = (manifest.run, manifest.started, name, manifest.schedule_sha256)
    text = "\0".join(map(repr, (*parts, hashlib.sha256(inventory).hexdigest()))).encode()
    return hmac.new(_key(), text, hashlib.sha256).hexdigest()


def is_ours(manifest: Manifest) -> bool:
    return hmac.compare_digest(manifest.mark.encode(), mark(manifest).encode())


def _key() -> bytes:
    """Made at the first call. Raises OSError."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    path = Path(base).expanduser() / "m2m-testbed" / "bundles.key"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
    except FileExistsError:
        pass
    return path.read_bytes()
