"""A replica without an event loop: four of them on a bus of lists, their driver and ports."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.genesis import Genesis, Member
from chain.keys import Es256, Es256Signer
from chain.ledger.envelope import read_operation, sign_operation
from chain.ledger.item import make_item, open_items
from chain.pbft.inputs import Received
from chain.pbft.messages import (
    Batch,
    ClientMessage,
    Commit,
    Denied,
    Prepare,
    PrePrepare,
    Proposal,
    Seal,
    Signed,
    StatusMessage,
    Submit,
    Subscribe,
    decode_body,
    decode_signed,
    encode,
    sign,
    signed_bytes,
)
from chain.pbft.verify import Verifier
from gateway.hops import NO_TRACE, Trace
from nodes.events import NoEvents
from nodes.ports import Party, StoreFull
from nodes.replica.abstention import Abstention
from nodes.replica.clients import PIECE_BLOCKS_MAX, SUBMITTED_MAX
from nodes.replica.clock import SystemClock
from nodes.replica.ledger_file import Damaged
from nodes.replica.memory_store import MemoryStore
from nodes.replica.service import Service, Superfluous, Verified
from nodes.replica.verify_pool import POOLED_BYTES_MIN, VerifiedFrames, VerifyPool
from testbed.bench.load import BenchDevice, bench_policy, devices

GATEWAY = "gateway"
SIGNERS = [Es256Signer(ec.derive_private_key(n + 1, ec.SECP256R1())) for n in range(4)]


class Store(MemoryStore):
    """Counts commits; can be full."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.log = log
        self.full = False

    def commit(self) -> None:
        if self.full:
            raise StoreFull("no space")
        self.log.append("commit")


class Node:
    """One service; `log` shows commits and sends in their order."""

    def __init__(self, me: int, genesis: Genesis, bus: Bus, trace: Trace = NO_TRACE) -> None:
        self.me = me
        self.log: list[str] = []
        self.store = Store(self.log)
        self.bus = bus
        self.jammed: set[Party] = set()
        self.service = Service(
            me=me,
            genesis=genesis,
            signer=SIGNERS[me],
            scheme=Es256(),
            store=self.store,
            wire=self,
            clock=bus.clock,
            timers=self,
            events=NoEvents(),
            trace=trace,
        )
        self.service.start()

    def send(self, party: Party, frame: bytes) -> None:
        self.log.append(_kind(frame) if isinstance(party, int) else "Seal")
        self.bus.frames.append((self.me, party, frame))

    def congested(self, party: Party) -> bool:
        return party in self.jammed

    def set(self, name: str, delay_us: int) -> None: ...

    def cancel(self, name: str) -> None: ...

    def give(self, party: Party, frame: bytes) -> Verified:
        verified = self.service.verify(party, frame)
        self.service.arrived([1], [(party, verified)])
        self.service.step([(party, verified)])
        return verified


def _kind(frame: bytes) -> str:
    return type(decode_body(decode_signed(frame).body)).__name__


class StoppableClock(SystemClock):
    """The machine's clock; its steady time stands still after `stop`."""

    def __init__(self) -> None:
        self._stopped_us: int | None = None

    def stop(self) -> None:
        self._stopped_us = self.monotonic_us()

    def monotonic_us(self) -> int:
        return super().monotonic_us() if self._stopped_us is None else self._stopped_us


class Bus:
    def __init__(self, identities: int = 2, traces: Sequence[Trace] = (NO_TRACE,) * 4) -> None:
        self.clock = StoppableClock()
        self.devices: list[BenchDevice] = devices(identities)
        self.genesis = Genesis(
            name="bus",
            time_us=SystemClock().now_us() - 1,
            members=tuple(Member(n, each.public) for n, each in enumerate(SIGNERS)),
            policy=bench_policy(self.devices),
        )
        self.frames: deque[tuple[int, Party, bytes]] = deque()
        self.heard: list[tuple[int, ClientMessage]] = []
        self.nodes = [Node(n, self.genesis, self, trace) for n, trace in enumerate(traces)]

    def run(self) -> None:
        while self.frames:
            sender, party, frame = self.frames.popleft()
            if isinstance(party, int):
                self.nodes[party].give(sender, frame)
            else:
                self.heard.append((sender, msgspec.msgpack.decode(frame, type=ClientMessage)))

    def submit(self, cose: bytes, to: int = 0) -> None:
        self.nodes[to].give(GATEWAY, encode(Submit(cose)))
        self.run()

    def admit(self, device: int = 0) -> None:
        head = self.nodes[0].service.ledger.head_hash
        each = self.devices[device]
        self.submit(sign_operation(each.enrol(self.genesis.network, head), each.signer))

    def data(self, device: int = 0) -> None:
        each = self.devices[device]
        self.submit(sign_operation(each.data(self.genesis.network, b"21.5"), each.signer))

    def seals(self) -> list[Seal]:
        return [message for _, message in self.heard if isinstance(message, Seal)]


def test_a_device_is_admitted_and_its_data_become_one_chain() -> None:
    bus = Bus()
    bus.admit()
    bus.data()
    heads = {node.service.ledger.head_hash for node in bus.nodes}
    assert len(heads) == 1
    assert bus.nodes[0].service.ledger.height == 2


def test_persist_comes_before_send() -> None:
    """In the log of every replica, a commit stands before the COMMITs and before the reply. It is
    the only one: a PRE-PREPARE or PREPARE needs none."""
    bus = Bus()
    bus.admit()
    bus.nodes[2].give(GATEWAY, encode(Subscribe(2, False)))
    for node in bus.nodes:
        node.log.clear()
    bus.data()
    votes = {0: ["PrePrepare"] * 3, 1: ["Prepare"] * 3, 2: ["Prepare"] * 3, 3: ["Prepare"] * 3}
    for node in bus.nodes:
        reply = ["Seal"] if node.me == 2 else []
        assert node.log == [*votes[node.me], "commit", *["Commit"] * 3, *reply]


def test_a_reply_waits_for_the_commit_of_its_own_step() -> None:
    """All votes come in one step. In it the replica votes too, so the block is final by its own
    COMMIT, whose certificate is not on the disk before the step's commit."""
    bus = Bus()
    bus.admit()
    node = bus.nodes[2]
    node.give(GATEWAY, encode(Subscribe(2, False)))
    held: list[tuple[Party, Verified]] = []
    node.give = lambda party, frame: _hold(node, held, party, frame)  # type: ignore[method-assign]
    node.log.clear()
    bus.data()
    node.service.step(held)
    assert node.log == ["commit", *["Prepare"] * 3, *["Commit"] * 3, "Seal"]


def _hold(node: Node, held: list[tuple[Party, Verified]], party: Party, frame: bytes) -> Verified:
    held.append((party, node.service.verify(party, frame)))
    return held[-1][1]


def test_where_an_abstention_ends_is_noted_when_it_is_known() -> None:
    """So a restart does not forget it. The simulator finds that too seldom, because a replica that
    restarts leaves its view in any case."""
    bus = Bus()
    notes: list[int | None] = []
    service = Service(
        me=2,
        genesis=bus.genesis,
        signer=SIGNERS[2],
        scheme=Es256(),
        store=MemoryStore(),
        wire=bus.nodes[2],
        clock=bus.clock,
        timers=bus.nodes[2],
        events=NoEvents(),
        abstention=Abstention(bus.genesis.consensus, None),
        on_abstention=notes.append,
    )
    service.start()
    for sender in (0, 1, 3):
        status = StatusMessage(0, sender, 0, True, 0, 5)
        frame = encode(sign(SIGNERS[sender], bus.genesis.network, status))
        service.step([(sender, service.verify(sender, frame))])
    assert notes[-1] == 5 + bus.genesis.consensus.log_window


def test_a_store_that_is_full_lets_nothing_out() -> None:
    bus = Bus()
    bus.admit()
    backup = bus.nodes[2]
    backup.store.full = True
    backup.log.clear()
    with pytest.raises(StoreFull):
        bus.data()
    assert backup.log == ["Prepare"] * 3


def test_a_subscriber_gets_what_it_missed_in_bounded_pieces_and_then_what_comes() -> None:
    bus = Bus()
    bus.admit()
    for _ in range(PIECE_BLOCKS_MAX + 10):
        bus.data()
    node = bus.nodes[1]
    node.give(GATEWAY, encode(Subscribe(1, True)))
    assert node.service.clients.lagging
    assert node.service.clients.pump()
    bus.run()
    assert len(bus.seals()) == PIECE_BLOCKS_MAX
    while node.service.clients.pump():
        pass
    bus.data()
    seals = bus.seals()
    assert not node.service.clients.lagging
    assert len(seals) == node.service.ledger.height
    for seal in seals:
        assert seal.block is not None
        assert Es256().verify(SIGNERS[1].public, seal.head, seal.signature)


def test_a_subscriber_that_takes_nothing_is_sent_nothing_until_it_does() -> None:
    bus = Bus()
    bus.admit()
    node = bus.nodes[1]
    node.give(GATEWAY, encode(Subscribe(1, False)))
    node.jammed.add(GATEWAY)
    bus.data()
    node.service.clients.pump()
    assert bus.seals() == []
    node.jammed.clear()
    node.service.clients.pump()
    bus.run()
    assert len(bus.seals()) == 2


def test_a_device_that_wants_too_much_is_denied_with_the_reason() -> None:
    bus = Bus()
    device = bus.devices[0]
    head = bus.nodes[0].service.ledger.head_hash
    greedy = msgspec.structs.replace(device.enrol(bus.genesis.network, head), privilege=200)
    bus.submit(sign_operation(greedy, device.signer))
    ((_, denied),) = bus.heard
    assert isinstance(denied, Denied)
    assert denied.reason
    assert denied.endorsement is not None


def test_who_submitted_is_forgotten_with_the_block_and_the_oldest_when_too_many_wait() -> None:
    """What is remembered of submitters is bounded by what waits, not by what was ever sent."""
    bus = Bus()
    bus.admit()
    clients = bus.nodes[0].service.clients
    for number in range(SUBMITTED_MAX + 1):
        clients.submitted(number.to_bytes(32, "big"), GATEWAY)
    each = bus.devices[0]
    cose = sign_operation(each.data(bus.genesis.network, b"21.5"), each.signer)
    bus.submit(cose)  # the oldest but one is forgotten for it
    bus.heard.clear()
    for request in (
        *(number.to_bytes(32, "big") for number in range(4)),
        read_operation(cose, bus.genesis.network).id,
    ):
        clients.refused(request, "test")
    bus.run()
    assert [message.request for _, message in bus.heard if isinstance(message, Denied)] == [
        number.to_bytes(32, "big") for number in (2, 3)
    ]


def test_a_vote_on_what_is_decided_is_dropped_and_one_that_contradicts_is_not() -> None:
    """A forged repetition costs and harms nothing; a forged contradiction is blamed on whoever
    hands it on."""
    bus = Bus()
    bus.admit()
    node = bus.nodes[1]
    slot = node.service.core.log.get(1)
    assert slot is not None
    assert slot.committed is not None
    view, digest = slot.committed
    repeated = encode(Signed(encode(Commit(0, 2, view, 1, digest)), bytes(64)))
    assert isinstance(node.give(2, repeated), Superfluous)
    assert not node.service.faults
    other = encode(Signed(encode(Commit(0, 2, view, 1, bytes(32))), bytes(64)))
    assert isinstance(node.give(3, other), PeerFault)
    assert node.service.faults[3, "bad-signature"] == 1


@pytest.mark.parametrize("forged", [False, True])
def test_of_votes_opened_together_only_those_that_count_are_verified(forged: bool) -> None:
    """Our own COMMIT is there, two more are wanted; one that is handed on and does not hold is none
    of them."""
    bus = Bus()
    node = bus.nodes[1]
    held: list[tuple[Party, bytes]] = []
    head = node.service.ledger.head_hash
    enrol = bus.devices[0].enrol(bus.genesis.network, head)
    bus.nodes[0].give(GATEWAY, encode(Submit(sign_operation(enrol, bus.devices[0].signer))))
    while bus.frames:
        sender, party, frame = bus.frames.popleft()
        if party == 1 and isinstance(decode_body(decode_signed(frame).body), Commit):
            held.append((sender, frame))
        elif isinstance(party, int):
            bus.nodes[party].give(sender, frame)
    assert len(held) == 3
    if forged:
        assert held[0][0] != 3
        held[0] = 3, encode(Signed(decode_signed(held[0][1]).body, bytes(64)))
    verified = node.service.verify_all(held)
    first, last = (PeerFault, Received) if forged else (Received, Superfluous)
    assert [type(each) for _, each in verified] == [first, Received, last]
    node.service.step(verified)
    assert node.service.ledger.height == 1


@pytest.mark.parametrize(
    ("kind", "trick"),
    [
        *((Prepare, trick) for trick in ("contradicting", "older", "of the primary", "both")),
        *((Commit, trick) for trick in ("again", "contradicting", "older", "both")),
    ],
)
def test_a_vote_that_does_not_count_leaves_room_for_those_that_do(
    kind: type[Prepare | Commit], trick: str
) -> None:
    """A treacherous replica says again what it said, or what never counts, in front of others'
    votes: theirs are still wanted, in every turn."""
    bus = Bus()
    node = bus.nodes[1]
    liar = 0 if trick == "of the primary" else 2
    held: list[tuple[Party, bytes]] = []
    enrol = bus.devices[0].enrol(bus.genesis.network, node.service.ledger.head_hash)
    bus.nodes[0].give(GATEWAY, encode(Submit(sign_operation(enrol, bus.devices[0].signer))))
    while bus.frames:
        sender, party, frame = bus.frames.popleft()
        if not isinstance(party, int):
            continue
        message = decode_body(decode_signed(frame).body)
        if party == 1 and isinstance(message, Prepare | Commit) and isinstance(message, kind):
            held.append((sender, frame))
            vote = message
            continue
        bus.nodes[party].give(sender, frame)
    assert {2, 3} <= {sender for sender, _ in held}

    def said(**changes: object) -> bytes:
        body = encode(msgspec.structs.replace(vote, sender=liar, **changes))
        signature = SIGNERS[liar].sign(signed_bytes(bus.genesis.network, body))
        return encode(Signed(body, signature))

    contradiction = said(digest=bytes(32))
    earlier = {"again": said(), "contradicting": contradiction, "older": said(view=4)}
    if trick in earlier:
        node.give(liar, earlier[trick])
    frames: list[tuple[Party, bytes]] = [(liar, contradiction)] if trick == "both" else []
    frames += [(liar, said()), *((sender, frame) for sender, frame in held if sender != liar)]
    verified = node.service.verify_all(frames)
    node.service.step(verified)
    slot = node.service.core.log.get(1)
    assert slot is not None
    assert slot.prepared
    assert kind is Prepare or node.service.ledger.height == 1


def test_a_block_that_does_not_follow_from_the_genesis_is_damage() -> None:
    bus = Bus()
    bus.admit()
    bus.data()
    node = bus.nodes[0]
    store = MemoryStore()
    for height, stored in enumerate(reversed(list(node.store.blocks(1, node.store.height))), 1):
        store.put_block(height, stored)
    with pytest.raises(Damaged, match="block 1"):
        Service(
            me=0,
            genesis=bus.genesis,
            signer=SIGNERS[0],
            scheme=Es256(),
            store=store,
            wire=node,
            clock=SystemClock(),
            timers=node,
            events=NoEvents(),
        )


def test_threads_open_the_same_in_the_same_order() -> None:
    bus = Bus()
    each = bus.devices[0]
    frames: list[tuple[Party, bytes]] = [
        (
            GATEWAY,
            encode(Submit(sign_operation(each.data(bus.genesis.network, bytes(200)), each.signer))),
        )
        for _ in range(80)
    ]
    frames[7] = (GATEWAY, b"garbage")
    pool = VerifyPool(bus.nodes[0].service.verify_all, threads=2)
    assert sum(len(frame) for _, frame in frames) > POOLED_BYTES_MIN
    assert pool.pays(frames)
    results: list[list[tuple[Party, Verified]]] = []
    done = threading.Event()

    def collect(result: Future[VerifiedFrames]) -> None:
        results.append(result.result())
        done.set()

    pool.spread(frames, collect)
    assert done.wait(30)
    pool.close()
    inline = pool.inline(frames)
    assert [str(verified) for _, verified in results[0]] == [
        str(verified) for _, verified in inline
    ]


SHARED = Bus()


@settings(max_examples=200)
@given(st.sampled_from([1, 2, 3, GATEWAY]), st.binary(max_size=200))
def test_any_bytes_are_a_blamed_fault_at_most(party: Party, data: bytes) -> None:
    """Whatever a peer or a gateway sends, the replica lives and says whose fault it was."""
    node = SHARED.nodes[0]
    assert isinstance(node.give(party, data), PeerFault)
    assert any(blamed == party for blamed, _ in node.service.faults)


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError, RuntimeError, AssertionError])
def test_what_no_reader_foresaw_is_a_refusal_of_that_frame_alone(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """A library raises more than its documentation lists; no replica may end for it."""
    bus = Bus()
    bus.admit()
    node, device = bus.nodes[0], bus.devices[0]
    cose = sign_operation(device.data(bus.genesis.network, b"x"), device.signer)
    good = (GATEWAY, encode(Submit(cose)))
    bad = encode(Submit(b"bad"))
    right = open_items

    def surprised(items: Sequence[bytes], *context: Any) -> Any:
        if any(b"bad" in item for item in items):
            raise kind("unforeseen")
        return right(items, *context)

    monkeypatch.setattr("nodes.replica.service.open_items", surprised)
    together = [good, (GATEWAY, bad), good]
    kinds = [type(each).__name__ for _, each in node.service.verify_all(together)]
    assert kinds == ["VerifiedRequest", "PeerFault", "VerifiedRequest"]

    def surprising(frame: bytes) -> Any:
        raise kind("unforeseen")

    monkeypatch.setattr("nodes.replica.service.decode_signed", surprising)
    assert isinstance(node.give(1, b"frame"), PeerFault)
    assert node.service.faults[1, "unreadable"] == 1


def good_frames() -> list[tuple[Party, bytes]]:
    device, network = SHARED.devices[0], SHARED.genesis.network
    cose = sign_operation(device.data(network, b"x"), device.signer)
    body = encode(Commit(0, 2, 0, 5, bytes(32)))
    vote = Signed(body, SIGNERS[2].sign(signed_bytes(network, body)))
    return [(GATEWAY, encode(Submit(cose))), (2, encode(vote))]


GOOD = good_frames()


@settings(max_examples=150)
@given(st.sampled_from(GOOD), st.integers(0, 1000), st.integers(1, 255))
def test_any_change_to_a_good_frame_is_refused_or_harmless(
    good: tuple[Party, bytes], at: int, flip: int
) -> None:
    """One byte of a real message changed: whatever it is now, nothing is raised."""
    party, frame = good
    changed = bytearray(frame)
    changed[at % len(frame)] ^= flip
    SHARED.nodes[3].give(party, bytes(changed))


@pytest.mark.parametrize("proposed", [False, True])
def test_a_batch_that_nobody_asked_for_is_not_verified(
    proposed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its items cost a signature check each, thousands in a frame, true or not. Every replica is
    the primary of some view."""
    bus = Bus()
    node = bus.nodes[1]
    each = bus.devices[0]
    data = sign_operation(each.data(bus.genesis.network, b"21.5"), each.signer)
    batch = Proposal(1, 1, 0, (make_item(data[:-1]),) * 100).encode()
    digest = Proposal.digest_of(batch)
    body = encode(PrePrepare(0, 2, 2, 1, digest) if proposed else Batch(0, 2, batch))
    signature = SIGNERS[2].sign(signed_bytes(bus.genesis.network, body))
    verified: list[int] = []
    monkeypatch.setattr(Verifier, "open_all", lambda _, items: verified.append(len(items)))
    frame = encode(Signed(body, signature, batch if proposed else b""))
    assert isinstance(node.give(2, frame), Superfluous)
    assert not verified
