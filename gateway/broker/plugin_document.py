"""The security document of Mosquitto's plugin: a file in memory, copied to the disk.

The plugin (2.0.11) replaces its file without checking the write. On a full disk nothing is left of
the document, and Mosquitto never starts again. So the plugin's file is in memory, and this module
copies each change to the disk; it tries again until the disk takes it. After a kill, the broker
starts with the file in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from gateway.broker.store import SecurityFileError, SecurityStore

__all__ = ["PluginDocument"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


class PluginDocument:
    """`path` is the plugin's file, `kept` the one on the disk. Raises SecurityFileError and
    OSError."""

    def __init__(self, kept: Path) -> None:
        self._kept = kept
        self._pointer = kept.with_name(kept.name + ".memory")  # names the directory in memory
        self._seen_ns = 0
        self.path = self._left_in_memory() or self._new()

    def _left_in_memory(self) -> Path | None:
        """The file in memory of a killed broker; it may be newer than the one on disk."""
        try:
            folder = Path(self._pointer.read_text())
            path = folder / self._kept.name
            SecurityStore.load(path)
            return path if folder.stat().st_uid == os.getuid() else None
        except (OSError, SecurityFileError):
            return None

    def _new(self) -> Path:
        SecurityStore.load(self._kept)
        folder = Path(tempfile.mkdtemp(prefix="m2m-", dir=_MEMORY if _MEMORY.is_dir() else None))
        try:
            path = Path(shutil.copy(self._kept, folder))
            path.chmod(0o600)
            self._pointer.write_text(str(folder))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return path

    def keep(self) -> bool:
        """Writes changes to the disk. It syncs, so call it off the event loop. Returns whether
        there were any."""
        changed_ns = self.path.stat().st_mtime_ns
        if changed_ns == self._seen_ns:
            return False
        document = self.path.read_bytes()
        SecurityStore.load(self.path)
        SecurityStore(self._kept).write(document)
        self._seen_ns = changed_ns
        return True

    def close(self) -> None:
        """Keeps the document at the end. If the disk does not take it, the file in memory
        stays for the next start."""
        self.keep()
        shutil.rmtree(self.path.parent, ignore_errors=True)
        self._pointer.unlink(missing_ok=True)
