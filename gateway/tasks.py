"""Background tasks that never end unseen. All code here and in `nodes` starts its tasks with this.

If a plain asyncio task raises, this is only logged, if at all, and the process goes on without the
task. Here a task that raises ends the block that owns it, with the same exception. An owner that
wants to go on catches the exception and starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

__all__ = ["Tasks", "first_of", "set_within"]


class Tasks:
    """Tasks that live as long as an `async with` block, at most.

    When one of them raises, the block is cancelled and raises the same. When the block is left, the
    tasks that still run are cancelled and awaited. An owner without a block passes `on_failure`,
    which gets the first error, and calls `stop` at its end.
    """

    def __init__(self, on_failure: Callable[[BaseException], None] | None = None) -> None:
        self._on_failure = on_failure or _log
        self._tasks: set[asyncio.Task[None]] = set()
        self._owner: asyncio.Task[Any] | None = None
        self._error: BaseException | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work`. It may end by itself; then nothing happens."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def fail(self, error: BaseException) -> None:
        """As if a task had raised `error`. Only the first one counts."""
        if self._error is not None:
            return
        self._error = error
        if self._owner is None:
            self._on_failure(error)
        else:
            self._owner.cancel()

    async def stop(self) -> None:
        """Cancels what still runs and waits for its end."""
        while tasks := list(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def __aenter__(self) -> Self:
        self._owner = asyncio.current_task()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        owner, self._owner = self._owner, None
        assert owner is not None, "entered"
        self._on_failure = _ignore  # errors of tasks while they are stopped
        failed = self._error is not None
        if failed:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # takes our cancellation, if the block had no await after it
            if owner.uncancel() > 0:
                error = asyncio.CancelledError()  # somebody else cancelled too: that counts
        await self.stop()
        if isinstance(error, asyncio.CancelledError) and owner.cancelling() > 0:
            raise error
        if self._error is not None and (failed or error is None):
            raise self._error

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)


async def first_of(*work: Coroutine[Any, Any, object]) -> None:
    """Runs all until one of them ends; cancels the others and ends as it did."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Waits for the event, at most so long. Whether it is set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _log(error: BaseException) -> None:
    asyncio.get_running_loop().call_exception_handler(
        {"message": "a background task failed", "exception": error}
    )


def _ignore(error: BaseException) -> None:
    del error
