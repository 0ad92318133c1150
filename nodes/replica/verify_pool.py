"""Verification before the loop: in this thread, or spread over the cores when that pays.

Signature checks release the interpreter's lock, so threads help where one replica has cores to
itself. Where several share few cores (a loopback lab) handing work over only costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nodes.ports import Party
from nodes.replica.service import Opened

__all__ = ["POOLED_BYTES_MIN", "Frames", "Opener", "Result", "default_threads"]

POOLED_BYTES_MIN = 16 * 1024  # waiting frames with fewer bytes are not worth handing over
_CHUNK_FRAMES = 16

Frames = list[tuple[Party, bytes]]
Result = list[tuple[Party, Opened]]


def default_threads() -> int:
    """0 (inline) on machines with one or two cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return cores if cores > 2 else 0


class Opener:
    """Opens frames in the order they came; `open_all` (`Service.open_all`) is pure."""

    def __init__(self, open_all: Callable[[Frames], Result], threads: int) -> None:
        self.inline = open_all
        self._pool = (
            ThreadPoolExecutor(max_workers=threads, thread_name_prefix="verify")
            if threads > 0
            else None
        )

    def pays(self, frames: Frames) -> bool:
        """Whether `spread` is the better way for these."""
        return self._pool is not None and sum(len(frame) for _, frame in frames) > POOLED_BYTES_MIN

    def spread(self, frames: Frames, done: Callable[[Result], None]) -> None:
        """Calls `done` from a worker thread when every frame is opened."""
        assert self._pool is not None
        chunks = [frames[at : at + _CHUNK_FRAMES] for at in range(0, len(frames), _CHUNK_FRAMES)]
        futures = [self._pool.submit(self.inline, chunk) for chunk in chunks]

        def gather(last: Future[Result]) -> None:
            if all(future.done() for future in futures) and not collected:
                collected.append(True)
                done([opened for future in futures for opened in future.result()])

        collected: list[bool] = []
        for future in futures:
            future.add_done_callback(gather)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
