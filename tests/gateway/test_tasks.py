"""No background task ends unseen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.tasks import Tasks, first_of


class BrokenError(Exception):
    pass


async def breaks() -> None:
    await asyncio.sleep(0)
    raise BrokenError("a bug")


async def waits(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("cancelled")


def play(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(bounded())


def test_a_task_that_fails_ends_its_block_and_the_other_tasks() -> None:
    async def story() -> None:
        ended: list[str] = []

        async def block() -> None:
            async with Tasks() as tasks:
                tasks.start(waits(ended))
                tasks.start(breaks())
                await asyncio.Event().wait()

        with pytest.raises(BrokenError):
            await block()
        assert ended == ["cancelled"]
        await asyncio.sleep(0)  # the cancellation was for the block only

    play(story)


def test_a_task_that_ends_by_itself_ends_nothing() -> None:
    async def story() -> None:
        async with Tasks() as tasks:
            await tasks.start(asyncio.sleep(0))
            await asyncio.sleep(0)
            assert len(tasks) == 0

    play(story)


def test_when_a_block_is_cancelled_its_tasks_are_and_it_stays_cancelled() -> None:
    async def story() -> None:
        ended: list[str] = []

        async def block() -> None:
            async with Tasks() as tasks:
                tasks.start(waits(ended))
                await asyncio.Event().wait()

        running = asyncio.ensure_future(block())
        await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended == ["cancelled"]

    play(story)


def test_what_the_block_raises_itself_comes_out() -> None:
    async def story() -> None:
        async def block() -> None:
            async with Tasks() as tasks:
                tasks.start(waits([]))
                await asyncio.sleep(0)
                raise ValueError("own")

        with pytest.raises(ValueError, match="own"):
            await block()

    play(story)


def test_an_owner_that_is_no_block_is_called() -> None:
    async def story() -> None:
        failures: list[BaseException] = []
        tasks = Tasks(failures.append)
        tasks.start(breaks())
        tasks.start(breaks())
        await asyncio.sleep(0.01)
        await tasks.stop()
        assert [str(each) for each in failures] == ["a bug"]

    play(story)


def test_the_first_that_ends_decides() -> None:
    async def story() -> None:
        ended: list[str] = []
        await first_of(waits(ended), asyncio.sleep(0))
        with pytest.raises(BrokenError):
            await first_of(waits(ended), breaks())
        assert ended == ["cancelled"] * 2

    play(story)


def test_a_failure_after_the_last_await_of_the_block_is_not_lost() -> None:
    async def story() -> None:
        async def block() -> None:
            async with Tasks() as tasks:
                await asyncio.sleep(0)
                tasks.fail(BrokenError())

        with pytest.raises(BrokenError):
            await block()
        await asyncio.sleep(0)

    play(story)
