"""A replica's turns: verify the frames that wait, handle them, commit, send.

One turn verifies a share of the waiting frames together, handles them in one step and sends after
one commit. Under load, batches grow. Between turns, subscribers that lag get blocks piece by piece.
`service` has the step; sockets and timers are in `nodes.wire` and `timers`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from nodes.replica.service import Service
from nodes.replica.timers import LoopTimers
from nodes.replica.verify_pool import VerifiedFrames, VerifyPool
from nodes.wire.inbox import Inbox

__all__ = ["COMMIT_ELSEWHERE_S_MIN", "VERIFIED_BYTES_MAX", "VERIFIED_FRAMES_MAX", "EventLoop"]

VERIFIED_FRAMES_MAX = 4096  # verified frames that wait for a commit
VERIFIED_BYTES_MAX = 8 * 1024 * 1024  # of the same; one more share of every party may be on its way
COMMIT_ELSEWHERE_S_MIN = 0.001  # commits that take longer on average run in another thread
COMMITS_AVERAGED = 16
PUMP_S = 0.02  # between two pieces for a subscriber whose link is full


class EventLoop:
    """`resume` lets the wire read again from parties that were full. `together(release)` writes at
    once what `release` sends. `on_failure` gets the exception that ended the turns."""

    def __init__(
        self,
        *,
        service: Service,
        pool: VerifyPool,
        inbox: Inbox,
        timers: LoopTimers,
        resume: Callable[[], None],
        together: Callable[[Callable[[], None]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._pool = pool
        self._inbox = inbox
        self._timers = timers
        self._resume = resume
        self._together = together
        self._on_failure = on_failure
        self._committer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._commit_s = 0.0  # a running average
        self.syncs = 0
        self.syncs_s = 0.0
        self._came_ns: list[int] = []  # when the frames that are being verified arrived
        self._verified: VerifiedFrames = []
        self._verified_bytes = 0  # of frames taken since the last step
        self._running = False
        self._turning = False
        self._verifying = False
        self._committing = False
        self._pumping = False

    def start(self) -> None:
        self._running = True
        self._guarded(self._service.start)
        self.wake()

    def stop(self) -> None:
        """Ends the turns. A commit that has begun is completed."""
        self._running = False

    def close(self) -> None:
        """Waits for the threads."""
        self._committer.shutdown(wait=True)
        self._pool.close()

    def idle(self) -> None:
        """To be called now and then: commits the blocks that wait for a commit."""
        if self._running and not self._committing:
            self._guarded(self._service.driver.idle)

    def wake(self) -> None:
        if self._running and not self._turning:
            self._turning = True
            self._loop.call_soon(self._guarded, self._turn)

    def _turn(self) -> None:
        """Takes one share of the inbox. Frames stay there while other threads verify, and while
        enough verified frames wait for a commit: so their order is kept."""
        self._turning = False
        if not self._running or self._verifying or self._full:
            return
        frames = self._inbox.take()
        self._came_ns = self._inbox.came_ns
        self._verified_bytes += sum(len(frame) for _, frame in frames)
        self._resume()
        if self._pool.pays(frames):
            self._verifying = True
            self._pool.spread(frames, self._verified_elsewhere)
            return
        self._take(self._pool.inline(frames))
        if self._inbox:
            self.wake()

    @property
    def _full(self) -> bool:
        return (
            len(self._verified) > VERIFIED_FRAMES_MAX or self._verified_bytes > VERIFIED_BYTES_MAX
        )

    def _verified_elsewhere(self, done: Future[VerifiedFrames]) -> None:
        self._loop.call_soon_threadsafe(self._guarded, lambda: self._collect(done))

    def _collect(self, done: Future[VerifiedFrames]) -> None:
        self._verifying = False
        if self._running:
            self._take(done.result())
            self.wake()

    def _take(self, verified: VerifiedFrames) -> None:
        self._service.arrived(self._came_ns, verified)
        self._verified += verified
        self._step()

    def _step(self) -> None:
        if not self._running or self._committing:
            return
        verified, self._verified, self._verified_bytes = self._verified, [], 0
        service = self._service
        service.handle(verified)
        # Timers come after the frames that had arrived when they fired: those may set them again.
        if not self._verifying and (fired := self._timers.take(self._inbox.taken)):
            service.handle((), fired)
        if service.driver.must_sync and self._commit_s > COMMIT_ELSEWHERE_S_MIN:
            # A slow disk: meanwhile this thread verifies what comes next.
            self._committing = True
            self._committer.submit(self._commit).add_done_callback(self._committed_elsewhere)
        else:
            self._commit()
            self._release()

    def _commit(self) -> None:
        if self._service.driver.must_sync:
            start_s = time.perf_counter()
            self._service.driver.commit()
            took_s = time.perf_counter() - start_s
            self.syncs += 1
            self.syncs_s += took_s
            self._commit_s += (took_s - self._commit_s) / COMMITS_AVERAGED

    def _committed_elsewhere(self, done: Future[None]) -> None:
        self._loop.call_soon_threadsafe(self._guarded, lambda: self._committed(done))

    def _committed(self, done: Future[None]) -> None:
        self._committing = False
        done.result()
        if self._running:
            self._release()
            self._step()
            self.wake()

    def _release(self) -> None:
        self._together(self._service.driver.release)
        self._service.driver.sent()
        if self._service.clients.lagging and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._guarded, self._pump)

    def _pump(self) -> None:
        """Each lagging subscriber gets a piece."""
        self._pumping = False
        if not self._running:
            return
        more = not self._committing and self._service.clients.pump()
        if self._service.clients.lagging:
            self._pumping = True
            self._loop.call_later(0 if more else PUMP_S, self._guarded, self._pump)

    def _guarded(self, work: Callable[[], object]) -> None:
        """Every entry from the loop. A replica that cannot keep its votes, or has a bug, stops:
        nothing more leaves it."""
        try:
            work()
        except Exception as error:
            self._running = False
            self._on_failure(error)
