"""A replica's turns on the event loop: open what waits, handle it, commit, let out.

Frames that wait are opened together, handled in one step and answered after one sync: batches
form from what arrived meanwhile. Beside the turns, subscribers that lag are served piece by piece.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nodes.replica.service import Service
from nodes.replica.timers import LoopTimers
from nodes.replica.verify_pool import Opener, Result
from nodes.wire.inbox import Inbox

__all__ = ["COMMIT_ELSEWHERE_S_MIN", "OPENED_BYTES_MAX", "OPENED_FRAMES_MAX", "Turns"]

OPENED_FRAMES_MAX = 4096  # verified and waiting for a commit
OPENED_BYTES_MAX = 8 * 1024 * 1024  # of the same; one more share of every party may be on its way
COMMIT_ELSEWHERE_S_MIN = 0.001  # commits that take longer on average leave this thread
COMMITS_AVERAGED = 16
PUMP_S = 0.02  # between pieces for a subscriber whose link is full


class Turns:
    """`resume` lets the wire read again from parties that were full, `flush` lets out what was
    sent; `on_failure` is told the exception after which nothing more is done."""

    def __init__(
        self,
        *,
        service: Service,
        opener: Opener,
        inbox: Inbox,
        timers: LoopTimers,
        resume: Callable[[], None],
        flush: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._opener = opener
        self._inbox = inbox
        self._timers = timers
        self._resume = resume
        self._flush = flush
        self._on_failure = on_failure
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._commit_s = 0.0  # a running average
        self._opened: Result = []
        self._opened_bytes = 0  # of frames taken since the last step
        self._running = False
        self._turning = False
        self._opening = False
        self._committing = False
        self._pumping = False

    def start(self) -> None:
        self._running = True
        self._guarded(self._service.start)
        self.wake()

    def stop(self) -> None:
        """No further turn; what is on its way to the disk still gets there."""
        self._running = False

    def close(self) -> None:
        """Waits for the threads."""
        self._committer.shutdown(wait=True)
        self._opener.close()

    def idle(self) -> None:
        """Now and then: blocks that wait for a commit get one."""
        if self._running and not self._committing:
            self._guarded(self._service.host.idle)

    def wake(self) -> None:
        if self._running and not self._turning:
            self._turning = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One share of what arrived. Frames are opened in order; while some are being opened
        elsewhere, or a commit is on its way and enough wait for it, the others stay where they
        are."""
        self._turning = False
        if not self._running or self._opening or self._full:
            return
        frames = self._inbox.take()
        self._opened_bytes += sum(len(frame) for _, frame in frames)
        self._resume()
        if self._opener.pays(frames):
            self._opening = True
            self._opener.spread(frames, self._opened_elsewhere)
            return
        self._opened += self._opener.inline(frames)
        self._step()
        if self._inbox:
            self.wake()

    @property
    def _full(self) -> bool:
        return len(self._opened) > OPENED_FRAMES_MAX or self._opened_bytes > OPENED_BYTES_MAX

    def _opened_elsewhere(self, result: Result) -> None:
        self._loop.call_soon_threadsafe(self._collect, result)

    def _collect(self, result: Result) -> None:
        self._opening = False
        self._opened += result
        self._step()
        self.wake()

    def _step(self) -> None:
        if not self._running or self._committing:
            return
        opened, self._opened, self._opened_bytes = self._opened, [], 0
        service = self._service
        handled = self._guarded(lambda: service.handle(opened))
        # After what had arrived when they fired; handling that may have set them again.
        if handled and not self._opening and (fired := self._timers.take(self._inbox.taken)):
            self._guarded(lambda: service.handle((), fired))
        if service.host.must_sync and self._commit_s > COMMIT_ELSEWHERE_S_MIN:
            # A slow disk: meanwhile this thread verifies what comes next.
            self._committing = True
            self._committer.submit(self._commit).add_done_callback(
                lambda done: self._loop.call_soon_threadsafe(self._committed, done)
            )
        else:
            self._guarded(self._commit)
            self._guarded(self._let_out)

    def _commit(self) -> None:
        if self._service.host.must_sync:
            start_s = time.perf_counter()
            self._service.host.commit()
            took_s = time.perf_counter() - start_s
            self._commit_s += (took_s - self._commit_s) / COMMITS_AVERAGED

    def _committed(self, done: Future[None]) -> None:
        self._committing = False
        if self._guarded(done.result) and self._running:
            self._guarded(self._let_out)
            self._step()
            self.wake()

    def _let_out(self) -> None:
        if not self._running:
            return  # the store failed: nothing leaves any more
        self._service.host.release()
        self._flush()
        if self._service.clients.lagging and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Lagging subscribers get a piece now and then, between turns."""
        self._pumping = False
        if not self._running:
            return
        more = False
        if not self._committing:
            more = self._guarded(self._service.clients.pump)
        if self._service.clients.lagging:
            self._pumping = True
            self._loop.call_later(0 if more else PUMP_S, self._pump)

    def _guarded(self, work: Callable[[], object]) -> bool:
        """False if it failed or gave False. A replica that cannot keep its votes, or has a bug,
        stops: nothing more leaves it."""
        try:
            return work() is not False
        except Exception as error:
            self._running = False
            self._on_failure(error)
        return False
