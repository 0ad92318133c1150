"""A process's use of its machine: processor time, memory, signatures.

A process that writes traces logs it every few seconds and at its end, in the event `usage`.
"""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

from chain.keys import Scheme, Signer

__all__ = ["USAGE_S", "CountedScheme", "CountedSigner", "usage"]

USAGE_S = 5.0  # between two events
_STATUS = Path("/proc/self/status")
_SIZE = re.compile(r"^(VmRSS|VmHWM):\s+(\d+) kB$", re.MULTILINE)


def usage() -> dict[str, float]:
    """Since the start of the process; memory now and at most."""
    # Not getrusage: its largest size may be that of the parent.
    sizes = dict(_SIZE.findall(_STATUS.read_text())) if _STATUS.exists() else {}
    return {
        "cpu_s": round(time.process_time(), 3),
        "rss_mb": round(int(sizes.get("VmRSS", 0)) * 1024 / 1e6, 1),
        "rss_max_mb": round(int(sizes.get("VmHWM", 0)) * 1024 / 1e6, 1),
    }


class CountedSigner:
    """Counts the signatures that it makes."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self.public = signer.public
        self.made = 0

    def sign(self, data: bytes) -> bytes:
        self.made += 1
        return self._signer.sign(data)


class CountedScheme:
    """Counts the signatures that it checks, in all threads."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self._lock = threading.Lock()
        self.checked = 0

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        with self._lock:
            self.checked += 1
        return self._scheme.verify(public, data, signature)
