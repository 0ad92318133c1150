"""Was a bundle made here, by this user? Then `resume` may run the inventory that it names.

An inventory holds commands (power) and addresses. The manifest of a bundle that somebody sent may
name any file, also one that came with it, so what it names is used only with our mark: a keyed
digest of what was run, commands of the inventory included, with a key that never leaves this
account.
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
    """Of what `resume` takes from the manifest, of the moment when it was made, and of the whole
    inventory file that it names: another file of that name is not ours."""
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
