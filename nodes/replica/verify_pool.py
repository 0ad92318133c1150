"""Verifies frames before the event loop handles them: in the loop's thread or on several cores.

Signature checks release the interpreter's lock, so threads help a replica that has its own cores.
If several replicas share few cores (a loopback lab), handing work over only costs time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nodes.ports import Party
from nodes.replica.service import Verified

__all__ = ["POOLED_BYTES_MIN", "Frames", "VerifiedFrames", "VerifyPool", "default_threads"]

POOLED_BYTES_MIN = 16 * 1024  # waiting frames with fewer bytes are verified inline
_CHUNK_FRAMES = 16

Frames = list[tuple[Party, bytes]]
VerifiedFrames = list[tuple[Party, Verified]]


def default_threads() -> int:
    """0 (inline) on machines with one or two cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return cores if cores > 2 else 0


class VerifyPool:
    """Verifies frames in the order they came. `verify_all` (`Service.verify_all`) is pure."""

    def __init__(self, verify_all: Callable[[Frames], VerifiedFrames], threads: int) -> None:
        self.inline = verify_all
        self._pool = (
            ThreadPoolExecutor(max_workers=threads, thread_name_prefix="verify")
            if threads > 0
            else None
        )

    def pays(self, frames: Frames) -> bool:
        """Whether `spread` is faster than `inline` for these frames."""
        return self._pool is not None and sum(len(frame) for _, frame in frames) > POOLED_BYTES_MIN

    def spread(self, frames: Frames, done: Callable[[Future[VerifiedFrames]], None]) -> None:
        """Calls `done` from a worker thread when every frame is verified, or one failed."""
        assert self._pool is not None
        chunks = [frames[at : at + _CHUNK_FRAMES] for at in range(0, len(frames), _CHUNK_FRAMES)]
        futures = [self._pool.submit(self.inline, chunk) for chunk in chunks]
        self._pool.submit(_joined, futures).add_done_callback(done)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def _joined(parts: list[Future[VerifiedFrames]]) -> VerifiedFrames:
    return [verified for part in parts for verified in part.result()]
