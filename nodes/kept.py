"""Verified state that a process keeps, so that its start does not verify the whole chain again.

The file is authenticated with a key that the process made for itself (0600, beside it) and is used
only by the same program for the same network. A file that does not fit is ignored: then the state
is built from the blocks again. A program that can read the key could also read the process's
memory.

The state is pickled, because it consists of objects of `chain` and `gateway`. Nothing is unpickled
before its authentication holds, and then only their classes and plain containers.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import pickle
import secrets
from functools import cache
from pathlib import Path
from typing import Any

import chain
import gateway
from nodes.disk import write_atomically

__all__ = ["KEEP_BLOCKS", "KeptState"]

KEEP_BLOCKS = 256  # after so many new blocks the state is kept again
STATE_BYTES_MAX = 256 * 1024 * 1024
_KEY_BYTES = 32
_MAC_BYTES = 32
_PLAIN = {
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "deque"),
    ("msgspec._utils", "rebuild"),
}


class KeptState:
    """`context` names what the state belongs to, as the network and the kind of state."""

    def __init__(self, path: Path, context: bytes) -> None:
        self._path = path
        self._key_path = path.with_name(path.name + ".key")
        self._context = context

    def load(self) -> Any:
        """What was saved last. None if there is nothing, or nothing that may be used."""
        try:
            key = self._key_path.read_bytes()
            if self._path.stat().st_size > STATE_BYTES_MAX or len(key) != _KEY_BYTES:
                return None
            data = self._path.read_bytes()
        except OSError:
            return None
        mac, state = data[:_MAC_BYTES], data[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(key, state)):
            return None
        return _Unpickler(io.BytesIO(state)).load()

    @staticmethod
    def pack(state: object) -> bytes:
        """Bytes for `write`. After this, `state` may change again."""
        return pickle.dumps(state)

    def write(self, data: bytes) -> None:
        """Raises OSError."""
        if not self._key_path.exists():
            write_atomically(self._key_path, secrets.token_bytes(_KEY_BYTES), mode=0o600)
        mac = self._mac(self._key_path.read_bytes(), data)
        write_atomically(self._path, mac + data, mode=0o600)

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)

    def _mac(self, key: bytes, state: bytes) -> bytes:
        message = _program() + hashlib.sha256(self._context).digest() + state
        return hmac.digest(key, message, "sha256")


@cache
def _program() -> bytes:
    """Identifies the program: another version of the rules may come to another state."""
    folders = [Path(str(each.__file__)).parent for each in (chain, gateway)]
    sources = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(each.read_bytes() for each in sources)).digest()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module.startswith(("chain.", "gateway.")) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not part of a kept state")
