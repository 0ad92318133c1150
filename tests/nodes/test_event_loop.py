"""A replica's turns: during a commit nothing leaves, but what arrives is verified."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest

from chain.ledger.envelope import sign_operation
from chain.pbft.messages import Submit, encode
from nodes.replica import event_loop as module
from nodes.replica.event_loop import EventLoop
from nodes.replica.timers import TURNS_MAX, LoopTimers
from nodes.replica.verify_pool import Frames, VerifiedFrames, VerifyPool
from nodes.wire.inbox import PEER_FRAMES_MAX, TURN_BYTES_MAX, TURN_FRAMES_MAX, Inbox
from tests.nodes.cluster import until
from tests.nodes.test_service import GATEWAY, Bus, Node


class Stage:
    """A primary whose disk waits for us."""

    def __init__(self, threads: int) -> None:
        self.bus = Bus(identities=1)
        self.bus.admit()
        self.node: Node = self.bus.nodes[0]
        self.disk = threading.Event()
        self.committing = False
        self.commits = 0
        self.verified = 0
        self.failures: list[Exception] = []
        self.inbox = Inbox()
        self.timers = LoopTimers(asyncio.get_running_loop(), lambda: self.inbox.arrived, self.wake)
        self.node.store.commit = self.commit  # type: ignore[method-assign]
        self.event_loop = EventLoop(
            service=self.node.service,
            pool=VerifyPool(self.open, threads),
            inbox=self.inbox,
            timers=self.timers,
            resume=lambda: None,
            together=lambda release: release(),
            on_failure=self.failures.append,
        )
        self.event_loop._running = True  # the service was started by the bus

    def wake(self) -> None:
        self.event_loop.wake()

    def commit(self) -> None:
        self.committing = True
        assert self.disk.wait(30)
        self.commits += 1

    def open(self, frames: Frames) -> VerifiedFrames:
        self.verified += len(frames)
        return self.node.service.verify_all(frames)

    def prepare(self) -> None:
        """The PREPAREs of its proposal arrive: its COMMIT needs the disk."""
        self.node.give(GATEWAY, self.request())
        proposed = [frame for _, to, frame in self.bus.frames if to == 1]
        self.bus.frames.clear()
        for backup in self.bus.nodes[1:3]:
            backup.give(0, proposed[-1])
        votes = [(source, frame) for source, to, frame in self.bus.frames if to == 0]
        self.bus.frames.clear()
        for source, frame in votes:
            self.inbox.put(source, frame)
        self.event_loop.wake()

    def arrive(self) -> None:
        self.inbox.put(GATEWAY, self.request())
        self.event_loop.wake()

    def request(self) -> bytes:
        device = self.bus.devices[0]
        cose = sign_operation(device.data(self.bus.genesis.network, bytes(200)), device.signer)
        return encode(Submit(cose))


def play(story: Callable[[], object]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [0, 2])
def test_nothing_leaves_before_the_disk_has_it(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(module, "COMMIT_ELSEWHERE_S_MIN", -1.0)

    async def story() -> None:
        stage = Stage(threads)
        stage.prepare()
        await until(lambda: stage.committing, "a commit on its way")
        for _ in range(100):
            stage.arrive()
        await until(lambda: stage.verified == 102, "what arrived meanwhile is verified")
        assert not stage.bus.frames
        stage.disk.set()
        await until(lambda: stage.bus.frames, "the COMMIT leaves")
        stage.event_loop.stop()
        stage.event_loop.close()
        assert stage.commits >= 1
        assert stage.failures == []

    play(story)


@pytest.mark.parametrize("threads", [0, 2])
def test_while_the_disk_hangs_a_peers_long_frames_stay_in_its_own_queue(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """There the wire stops reading; what was verified keeps its bytes until it has been handled."""
    monkeypatch.setattr(module, "COMMIT_ELSEWHERE_S_MIN", -1.0)

    async def story() -> None:
        stage = Stage(threads)
        stage.prepare()
        await until(lambda: stage.committing, "a commit on its way")
        while not stage.inbox.full(1):
            stage.inbox.put(1, bytes(TURN_BYTES_MAX))
            assert stage.inbox.taken < 100, "a hundred MiB are in our hands"
            stage.event_loop.wake()
            # Between two turns nothing changes that could be waited for.
            await until(
                lambda: not (stage.event_loop._turning or stage.event_loop._verifying), "a turn"
            )
        stage.disk.set()
        await until(lambda: not stage.inbox, "it goes on")
        stage.event_loop.stop()
        stage.event_loop.close()
        assert stage.failures == []

    play(story)


def test_after_a_failure_nothing_more_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is raised, on the loop or in the commit's thread, ends the turns."""
    monkeypatch.setattr(module, "COMMIT_ELSEWHERE_S_MIN", -1.0)

    async def story() -> None:
        stage = Stage(0)

        def broken() -> None:
            raise ValueError("a bug")

        stage.node.store.commit = broken  # type: ignore[method-assign]
        stage.prepare()
        await until(lambda: stage.failures, "the failure is reported")
        stage.arrive()
        await asyncio.sleep(0)  # a turn, if there were one
        stage.event_loop.close()  # its commit, in the other thread
        await asyncio.sleep(0)  # a second report would come now
        assert not stage.bus.frames
        assert [str(failure) for failure in stage.failures] == ["a bug"]

    play(story)


@pytest.mark.parametrize(
    ("waiting", "handled"),
    [
        (3 * PEER_FRAMES_MAX, 3 * PEER_FRAMES_MAX),
        (12 * TURN_FRAMES_MAX, TURNS_MAX * PEER_FRAMES_MAX),
    ],
    ids=["behind", "flooded"],
)
def test_timers_are_judged_after_what_had_arrived_but_no_flood_puts_them_off(
    waiting: int, handled: int
) -> None:
    """What a peer had sent before comes first, for as many turns as an honest one can need."""

    async def story() -> None:
        stage = Stage(0)
        order: list[str] = []
        handle = stage.node.service.handle

        def watched(arrived: VerifiedFrames, fired: Sequence[str] = ()) -> None:
            order.extend(["frame"] * sum(party == 1 for party, _ in arrived))
            order.extend(fired)
            handle(arrived, fired)

        stage.node.service.handle = watched  # type: ignore[assignment,method-assign]
        stage.disk.set()
        for _ in range(waiting):
            stage.inbox.put(1, b"garbage")
        # The loop would handle some of them while a timer that was set runs out.
        stage.timers._fired.add("status", stage.inbox.arrived)
        while "status" not in order:
            stage.inbox.put(2, b"more")
            stage.event_loop.wake()
            await asyncio.sleep(0)
        assert order.index("status") == handled
        stage.event_loop.close()

    play(story)


def test_a_timer_that_was_set_again_by_what_arrived_is_not_judged() -> None:
    async def story() -> None:
        stage = Stage(0)
        fired: list[None] = []
        timers = LoopTimers(asyncio.get_running_loop(), lambda: 7, lambda: fired.append(None))
        timers.set("view", 0)
        timers.set("status", 0)
        await until(lambda: len(fired) == 2, "both fired")
        assert timers.take(6) == []
        timers.set("view", 1_000_000)
        assert timers.take(7) == ["status"]
        timers.close()
        stage.event_loop.close()

    play(story)
