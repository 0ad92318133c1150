"""What the driver does with each effect, and in which order it leaves. The core is scripted: it
asks for what the test says, and notes its inputs. Ledger, store and clients are real."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec
import pytest

from chain.block import Block, Head, Record
from chain.genesis import Membership
from chain.keys import digest
from chain.ledger.ledger import Ledger
from chain.pbft.effects import (
    Accuse,
    Broadcast,
    CancelTimer,
    Durable,
    Effect,
    Execute,
    Forget,
    Install,
    Observe,
    Persist,
    Refuse,
    Send,
    SendBatch,
    ServeBodies,
    ServeHeads,
    SetTimer,
    Sync,
    Timer,
)
from chain.pbft.inputs import Executed, Input, Installed, InstallFailed, Submitted, TimerFired
from chain.pbft.messages import (
    BODIES_BYTES_MAX,
    Batch,
    Bodies,
    Busy,
    CheckpointProof,
    ClientMessage,
    Commit,
    Denied,
    Heads,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Seal,
    Signed,
    decode_body,
    decode_signed,
    encode,
    sign,
    signed_bytes,
)
from chain.pbft.replica import Replica
from gateway.hops import Hop
from nodes.ports import Party, Stored
from nodes.replica import driver
from nodes.replica.clients import Clients
from nodes.replica.driver import BODIES_BLOCKS_MAX, SERVE_INTERVAL_US, Delayed, Driver
from nodes.replica.memory_store import MemoryStore
from nodes.replica.serving import PEER_BYTES_MAX, TURN_BYTES_MAX
from tests.chain.test_client import unsigned
from tests.chain.world import World
from tests.nodes.test_replica_hops import Kept

ME = 2
GATEWAY = "gateway"


def lively() -> World:
    """Four blocks: an admission, two readings in one block, an empty one, a reading."""
    world = World()
    alice = world.admit("alice")
    world.block(*(world.request(world.data(alice), alice) for _ in range(2)))
    world.block()
    world.run(world.data(alice), alice)
    return world


WORLD = lively()


class Core:
    """Asks for `next` once, whatever the input, and otherwise for what `asks` says."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self.epoch = membership.epoch
        self.taken: list[tuple[Input, int]] = []
        self.asks: Callable[[Input], list[Effect]] = lambda _: []
        self.next: list[Effect] = []

    def start(self, now_us: int) -> list[Effect]:
        effects, self.next = self.next, []
        return effects

    def handle(self, item: Input, now_us: int) -> list[Effect]:
        if self.next:
            return self.start(now_us)
        self.taken.append((item, now_us))
        return self.asks(item)

    def submit(self, submitted: Sequence[Submitted], now_us: int) -> list[Effect]:
        for each in submitted:
            self.taken.append((each, now_us))
        return []

    def inputs(self) -> list[Input]:
        return [item for item, _ in self.taken]


class Store(MemoryStore):
    def __init__(self, log: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.log = log

    def commit(self) -> None:
        self.log.append(("commit",))


class Stage:
    """A driver with its ports; `log` has what they were asked for, in order."""

    def __init__(self, world: World = WORLD, **options: Any) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.world = world
        self.jammed: set[Party] = set()
        self.monotonic = 0
        self.core = Core(world.genesis.membership)
        self.ledger = Ledger(world.genesis, world.scheme)
        self.store = Store(self.log)
        self.clients = Clients(ME, self.store, self, lambda: 0)
        self.driver = Driver(
            me=ME,
            network=world.network,
            signer=world.replicas[ME],
            core=cast("Replica", self.core),
            application=self.ledger,
            store=self.store,
            wire=self,
            clock=self,
            timers=self,
            events=self,
            clients=self.clients,
            **options,
        )

    # --- the ports ---

    def send(self, party: Party, frame: bytes) -> None:
        self.log.append(("send", party, frame))

    def congested(self, party: Party) -> bool:
        return party in self.jammed

    def set(self, name: str, delay_us: int) -> None:
        self.log.append(("set", name, delay_us))

    def cancel(self, name: str) -> None:
        self.log.append(("cancel", name))

    def emit(self, event: str, **fields: object) -> None:
        self.log.append(("emit", event, fields))

    def now_us(self) -> int:
        return 77

    def monotonic_us(self) -> int:
        return self.monotonic

    # --- a test's hands ---

    def step(self, *effects: Effect, fired: Sequence[str] = ()) -> None:
        """The core asks for these effects."""
        self.core.next = list(effects)
        self.driver.handle([TimerFired(Timer.VIEW)] if effects else (), fired=fired)
        self.driver.persist_and_send()

    def logged(self, kind: str) -> list[Any]:
        return [entry[1:] for entry in self.log if entry[0] == kind]

    def messages(self, to: Party) -> list[ReplicaMessage]:
        """What was sent to a replica, with good signatures of ours where we are the sender."""
        found = []
        for party, frame in self.logged("send"):
            if party != to:
                continue
            signed = decode_signed(frame)
            message = decode_body(signed.body)
            if message.sender == ME:
                covered = signed_bytes(self.world.network, signed.body)
                public = self.world.replicas[ME].public
                assert self.world.scheme.verify(public, covered, signed.signature)
            found.append(message)
        return found

    def answers(self) -> list[ClientMessage]:
        frames = [frame for party, frame in self.logged("send") if party == GATEWAY]
        return [msgspec.msgpack.decode(frame, type=ClientMessage) for frame in frames]

    def fill(self) -> None:
        """The store has all blocks of the world."""
        for height, block in enumerate(self.world.blocks, start=1):
            self.store.put_block(height, Stored(block, self.world.replicas[ME].sign(block.head)))


def vote(seq: int = 1) -> Signed:
    return sign(WORLD.replicas[ME], WORLD.network, Commit(0, ME, 0, seq, bytes(32)))


def execute(height: int, world: World = WORLD, epoch: int = 0) -> Execute:
    """The decision that made this block."""
    block = world.blocks[height - 1]
    items = tuple(record.item for record in block.records)
    time_us = world.genesis.time_us + height * 1_000_000
    requests = tuple(world.open(item) for item in items)
    return Execute(Proposal(height, time_us, 0, items), requests, epoch)


# --- order ---------------------------------------------------------------------------------------


def test_what_is_persisted_is_committed_before_anything_leaves_and_only_if_it_must_be() -> None:
    stage = Stage()
    fact = Durable("prepared", 0, 1, b"certificate")
    stage.step(Persist(fact), Send(1, vote()))
    assert stage.store.facts() == [fact]
    assert [kind for kind, *_ in stage.log] == ["send"]
    assert not stage.driver.must_sync
    stage.driver.handle((), [Send(1, vote()), Sync(), Send(3, vote(2))])
    assert stage.driver.must_sync
    with pytest.raises(AssertionError):
        stage.driver.release()
    stage.driver.persist_and_send()
    assert [kind for kind, *_ in stage.log] == ["send", "commit", "send", "send"]
    assert not stage.driver.must_sync
    stage.step()
    assert len(stage.log) == 4, "nothing twice"
    stage.driver.idle()
    assert stage.log[-1] == ("commit",)


def test_replies_and_the_trace_come_after_what_was_sent() -> None:
    trace = Kept()
    stage = Stage(trace=trace)
    stage.clients.subscribe(GATEWAY, 1, True)
    stage.driver.handle(
        (),
        [
            Observe("prepared", 4, 1),
            Sync(),
            Send(1, vote()),
            Observe("committed", 4, 1),
            execute(1),
            Observe("view-change", 5, 9),
        ],
    )
    assert stage.logged("send") == []
    stage.driver.commit()
    stage.driver.release()
    assert [party for party, _ in stage.logged("send")] == [1, GATEWAY]
    assert Hop.SEALED not in trace.hops()
    stage.driver.sent()
    block = [Hop.PREPARED, Hop.COMMITTED, Hop.EXECUTED, Hop.SYNCED, Hop.COMMIT_SENT, Hop.SEALED]
    assert [(hop, height) for hop, height, *_ in trace.noted] == [(hop, 1) for hop in block]
    assert [view for *_, view, _ in trace.noted] == [4] * 6
    ((event, fields),) = [entry for entry in stage.logged("emit") if entry[0] != "block"]
    assert (event, fields) == ("view-change", {"view": 5, "seq": 9, "epoch": 0})


def test_the_start_is_carried_out_and_answered_like_a_step() -> None:
    stage = Stage()
    stage.core.next = [Sync(), execute(1), Send(1, vote())]
    stage.driver.start()
    assert [type(each) for each in stage.core.inputs()] == [Executed]
    assert [kind for kind, *_ in stage.log] == ["emit", "commit", "send"]


# --- inputs --------------------------------------------------------------------------------------


def test_answers_come_before_other_inputs_and_submitted_requests_last() -> None:
    stage = Stage()
    failed = InstallFailed(1, 1, "")
    stage.core.asks = lambda item: [execute(1)] if item is failed else []
    submitted = [Submitted(request) for request in execute(2).requests]
    stage.driver.handle(
        [*submitted, failed, Installed(0, b"", 0)], [SetTimer(Timer.VIEW, 5)], ["status"]
    )
    assert stage.log[0] == ("set", "view", 5), "effects are first"
    kinds = [type(each) for each in stage.core.inputs()]
    assert kinds == [TimerFired, InstallFailed, Executed, Installed, Submitted, Submitted]
    assert stage.core.inputs()[0] == TimerFired(Timer.STATUS)
    assert {now_us for _, now_us in stage.core.taken} == {77}


# --- effects -------------------------------------------------------------------------------------


def test_timers_are_the_host_s() -> None:
    stage = Stage()
    stage.step(SetTimer(Timer.HEARTBEAT, 7), CancelTimer(Timer.VIEW))
    assert stage.log == [("set", "heartbeat", 7), ("cancel", "view")]


def test_a_broadcast_goes_to_every_other_member_and_to_one_that_is_being_added() -> None:
    world = World()
    world.add_replica(4)
    stage = Stage(world)
    stage.step(Send(1, vote(2)), Broadcast(vote()))
    sent = [(1, encode(vote(2))), *((party, encode(vote())) for party in (0, 1, 3))]
    assert stage.logged("send") == sent
    stage.log.clear()
    for height in range(1, len(world.blocks) + 1):
        stage.step(execute(height, world))
    stage.step(Broadcast(vote()))
    assert [party for party, _ in stage.logged("send")] == [0, 1, 3, 4]
    stage.log.clear()
    stage.core.membership = Membership(1, world.genesis.members[:3])
    stage.step(Broadcast(vote()))
    assert [party for party, _ in stage.logged("send")] == [0, 1, 3, 4]


def test_an_accusation_is_logged_with_what_was_signed() -> None:
    stage = Stage()
    stage.step(Accuse(3, "equivocation", vote(1), vote(2)), Accuse(1, "bad", vote(1)))
    both, one = [encode(vote(1)), encode(vote(2))], [encode(vote(1))]
    assert stage.logged("emit") == [
        ("accuse", {"culprit": 3, "reason": "equivocation", "evidence": both}),
        ("accuse", {"culprit": 1, "reason": "bad", "evidence": one}),
    ]


def test_a_refusal_goes_to_who_submitted() -> None:
    stage = Stage()
    for name in (b"a", b"b"):
        stage.clients.submitted(digest(name), GATEWAY)
    stage.step(Refuse(digest(b"a"), "busy"), Refuse(digest(b"b"), "done"))
    assert stage.answers() == [Busy(digest(b"a")), Denied(digest(b"b"), "done", None)]


def test_a_decision_becomes_a_block_that_is_kept_answered_and_sent_to_gateways() -> None:
    stage = Stage()
    stage.clients.subscribe(GATEWAY, 1, True)
    decided = execute(1)
    stage.clients.submitted(decided.requests[0].id, GATEWAY)
    stage.step(decided)
    head = Head.decode(WORLD.blocks[0].head)
    assert stage.core.inputs() == [Executed(1, WORLD.blocks[0].hash, head.time_us)]
    (kept,) = stage.store.blocks(1, 9)
    assert kept.block == WORLD.blocks[0]
    assert WORLD.scheme.verify(WORLD.replicas[ME].public, kept.block.head, kept.signature)
    assert stage.answers() == [Seal(ME, 0, kept.block.head, kept.signature, kept.block)]
    stage.step(Refuse(decided.requests[0].id, "done"))
    assert len(stage.answers()) == 1, "what was executed cannot be refused any more"


def test_blocks_that_were_fetched_are_kept_like_ones_that_were_decided() -> None:
    stage = Stage()
    stage.clients.subscribe(GATEWAY, 1, True)
    stage.step(Install(tuple(WORLD.blocks[:3]), 1))
    head = Head.decode(WORLD.blocks[2].head)
    assert stage.core.inputs() == [Installed(3, WORLD.blocks[2].hash, head.time_us)]
    assert [each.block for each in stage.store.blocks(1, 9)] == WORLD.blocks[:3]
    assert len(stage.answers()) == 3
    assert stage.logged("emit") == [("installed", {"height": 3, "source": 1})]


def test_the_first_fetched_block_that_does_not_fit_ends_an_installation() -> None:
    lie = Block(WORLD.blocks[1].head, ())
    stage = Stage()
    stage.step(Install((WORLD.blocks[0], lie, *WORLD.blocks[1:]), 3))
    first, failed = stage.core.inputs()
    assert isinstance(first, Installed)
    assert first.seq == 1
    assert failed == InstallFailed(3, 2, "bad-body: count of height 2")
    assert stage.store.height == 1
    stage.step(Install((lie,), 1))
    assert stage.core.inputs()[2:] == [InstallFailed(1, 2, "bad-body: count of height 2")]


def test_fetched_blocks_need_no_second_check_of_devices_signatures() -> None:
    """q replicas checked them; here they took one that is forged."""
    world = unsigned()
    stage = Stage(world)
    stage.step(Install(tuple(world.blocks), 1))
    assert [type(each) for each in stage.core.inputs()] == [Installed]


@pytest.mark.parametrize("fetched", [True, False])
def test_the_block_that_changes_the_members_names_the_next_ones_once(fetched: bool) -> None:
    world = World()
    world.add_replica(4)
    world.idle(1)
    stage = Stage(world)
    for height, block in enumerate(world.blocks, start=1):
        stage.step(Install((block,), 1) if fetched else execute(height, world))
    reports = [each for each in stage.core.inputs() if isinstance(each, Executed | Installed)]
    assert [each.membership for each in reports] == [None, world.ledger.decided_membership, None]


def test_facts_of_what_is_stable_may_go() -> None:
    stage = Stage()
    stage.step(*(Persist(Durable("prepared", 0, seq, b"")) for seq in (1, 2, 3)), Forget(2))
    assert [fact.seq for fact in stage.store.facts()] == [3]


def test_old_blocks_are_pruned_once_they_are_old_and_proven() -> None:
    """Of four blocks the first two may lose data, and only below a stable checkpoint."""
    plain = Stage()
    stage = Stage(keep_data_blocks=2)
    new = Stage(keep_data_blocks=0)
    new.step(execute(1))
    assert new.store.pruned == 0, "nothing is proven yet"
    for height in range(1, 4):
        for each in (stage, plain):
            each.step(execute(height), Forget(1))
    assert (stage.store.pruned, plain.store.pruned) == (1, 0)
    stage.step(Forget(3))
    assert stage.store.pruned == 1, "with the next block"
    stage.step(execute(4))
    assert stage.store.pruned == 2


# --- effects that are replaced or held back ------------------------------------------------------


def test_a_rewrite_replaces_effects_and_may_hold_some_back() -> None:
    held = [Delayed(Send(1, vote(1)), 500), Delayed(Broadcast(vote(2)), 600)]
    stage = Stage(rewrite=lambda effects: held if effects else ())
    stage.step(Send(3, vote()))
    (first, after), (second, later) = stage.logged("set")
    assert (after, later) == (500, 600)
    assert first != second
    assert stage.logged("send") == []
    stage.step(fired=[first])
    assert stage.logged("send") == [(1, encode(vote(1)))]
    stage.step(fired=[second])
    assert [party for party, _ in stage.logged("send")] == [1, 0, 1, 3]
    assert stage.core.taken == [], "these timers are the driver's own"


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_DELAYED_MAX", 2)
    stage = Stage(rewrite=lambda effects: [Delayed(Send(1, vote()), 5)] if effects else ())
    for _ in range(3):
        stage.step(Sync())
    assert len(stage.logged("set")) == 2


# --- what peers ask for --------------------------------------------------------------------------


def proof(seq: int) -> bytes:
    votes = tuple(vote(number) for number in range(3))
    return msgspec.msgpack.encode(CheckpointProof(seq, bytes(32), votes))


def test_heads_are_served_up_to_the_next_proven_checkpoint() -> None:
    stage = Stage()
    stage.fill()
    stage.step(ServeHeads(1, 1))
    assert stage.log == [], "nothing is proven"
    for seq in (3, 4):
        stage.store.put_fact(Durable("stable", 0, seq, proof(seq)))
    stage.step(ServeHeads(1, 2))
    heads = tuple(block.head for block in WORLD.blocks[1:3])
    votes = tuple(vote(number) for number in range(3))
    assert stage.messages(1) == [Heads(0, ME, 2, heads, votes)]
    stage.core.epoch = 7
    stage.step(ServeHeads(0, 4))
    assert stage.messages(0) == [Heads(7, ME, 4, (WORLD.blocks[3].head,), votes)]


def test_heads_that_we_lack_ourselves_are_not_served() -> None:
    stage = Stage()
    stage.fill()
    stage.store.put_fact(Durable("stable", 0, 5, proof(5)))
    stage.step(ServeHeads(1, 3))
    assert stage.log == []


def test_blocks_are_served_as_they_were_asked_for() -> None:
    stage = Stage()
    stage.fill()
    stage.step(ServeBodies(1, 2, 3), ServeBodies(3, 5, 9))
    assert stage.messages(1) == [Bodies(0, ME, 2, tuple(WORLD.blocks[1:3]), 0)]
    assert stage.messages(3) == [], "we have none"
    stage.store.prune(2)
    stage.step(ServeBodies(0, 4, 4))
    assert stage.messages(0) == [Bodies(0, ME, 4, (WORLD.blocks[3],), 2)]


def of_size(*sizes: int) -> Stage:
    """A store with blocks whose bodies have these sizes."""
    stage = Stage()
    for height, size in enumerate(sizes, start=1):
        block = Block(WORLD.blocks[0].head, (Record(bytes(size - 1), b"x"),))
        stage.store.put_block(height, Stored(block, bytes(64)))
    return stage


@pytest.mark.parametrize(
    ("sizes", "served"),
    [
        ((BODIES_BYTES_MAX + 1, 1), 1),  # the first one in any case
        ((1, BODIES_BYTES_MAX), 1),
        ((1, BODIES_BYTES_MAX - 1), 2),
        ((1, BODIES_BYTES_MAX - 2, 1, 1), 3),
    ],
)
def test_an_answer_has_as_many_blocks_as_fit(sizes: tuple[int, ...], served: int) -> None:
    stage = of_size(*sizes)
    stage.step(ServeBodies(1, 1, 9))
    (bodies,) = stage.messages(1)
    assert isinstance(bodies, Bodies)
    assert len(bodies.blocks) == served


def test_an_answer_has_no_more_blocks_than_a_frame_may_name() -> None:
    stage = of_size(*[1] * (BODIES_BLOCKS_MAX + 3))
    stage.step(ServeBodies(1, 2, BODIES_BLOCKS_MAX + 3), ServeBodies(3, 3, 2 + BODIES_BLOCKS_MAX))
    for each in (1, 3):
        (bodies,) = stage.messages(each)
        assert isinstance(bodies, Bodies)
        assert len(bodies.blocks) == BODIES_BLOCKS_MAX


def test_a_peer_that_takes_nothing_is_served_nothing() -> None:
    stage = Stage()
    stage.fill()
    stage.store.put_fact(Durable("stable", 0, 4, proof(4)))
    stage.jammed.add(1)
    stage.step(ServeHeads(1, 1), ServeBodies(1, 1, 1))
    assert stage.log == []


def test_a_batch_is_handed_on_with_its_pre_prepare_or_alone() -> None:
    stage = Stage()
    signed = sign(WORLD.replicas[0], WORLD.network, PrePrepare(0, 0, 3, 2, bytes(32)), b"batch")
    stage.store.put_fact(Durable("proposal", 3, 2, encode(signed)))
    bare = Signed(signed.body, signed.signature)
    stage.step(SendBatch(1, 3, 2, None), SendBatch(3, 3, 2, bare), SendBatch(0, 2, 3, None))
    assert stage.messages(1) == [Batch(0, ME, b"batch")]
    assert stage.logged("send")[1:] == [(3, encode(signed))]


def test_a_turn_answers_its_share_and_a_timer_brings_the_next() -> None:
    large = TURN_BYTES_MAX
    stage = of_size(large // 2, large, large)
    for to in (0, 1, 3):
        stage.driver.handle((), [ServeBodies(to, 1, 1)])
    assert stage.logged("set") == [], "half a turn each"
    stage.driver.persist_and_send()
    stage.log.clear()
    stage.step(*(ServeBodies(to, 2, 2) for to in (0, 1)))
    assert [party for party, _ in stage.logged("send")] == [0]
    assert stage.logged("set") == [("driver/serve", 0)]
    stage.log.clear()
    stage.step(fired=["driver/serve"])
    assert [party for party, _ in stage.logged("send")] == [1]
    assert stage.logged("set") == []
    assert stage.core.taken == []


@pytest.mark.parametrize(("left", "answered"), [(0, [0]), (1, [0, 1])])
def test_a_turn_goes_on_while_a_byte_of_its_share_is_left(left: int, answered: list[int]) -> None:
    """Frames that are not answers do not count."""
    stage = of_size(TURN_BYTES_MAX // 2)
    stage.step(ServeBodies(0, 1, 1))
    ((_, frame),) = stage.logged("send")
    stage = of_size(TURN_BYTES_MAX - (len(frame) - TURN_BYTES_MAX // 2) - left)
    other = Signed(vote().body, vote().signature, bytes(TURN_BYTES_MAX))
    stage.step(Send(3, other), *(ServeBodies(to, 1, 1) for to in (0, 1)))
    (_, first), *answers = stage.logged("send")
    assert first == encode(other)
    assert len(answers[0][1]) == TURN_BYTES_MAX - left
    assert [party for party, _ in answers] == answered


def test_a_peer_that_has_used_its_budget_waits_for_the_next_interval() -> None:
    stage = of_size(BODIES_BYTES_MAX)
    answers = PEER_BYTES_MAX // BODIES_BYTES_MAX
    for _ in range(answers):
        stage.step(*[ServeBodies(1, 1, 1)] * 2)
    assert len(stage.messages(1)) == answers
    assert stage.logged("set")[-1] == ("driver/serve", SERVE_INTERVAL_US)
    stage.step(fired=["driver/serve"])
    stage.monotonic += SERVE_INTERVAL_US
    assert len(stage.messages(1)) == answers
    stage.step(fired=["driver/serve"])
    assert len(stage.messages(1)) == answers + 1
