"""The verifier: nothing unsigned, unbound or incomplete reaches the core, whatever the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.genesis import Member, Membership
from chain.pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    FetchHeads,
    Forward,
    Heads,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    StatusMessage,
    ViewChange,
    encode,
)
from chain.pbft.state_machine import VerifiedRequest
from chain.pbft.verify import GenerationalCache, Verifier
from tests.chain.fakes import NETWORK, FakeScheme, item, open_items, sign, signer_of, verified

A, B = b"a" * 32, b"b" * 32


class CountingScheme(FakeScheme):
    def __init__(self) -> None:
        self.count = 0

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        self.count += 1
        return super().verify(public, data, signature)


class World:
    """Epoch 0: replicas 0..3; epoch 1: replica 4 too."""

    def __init__(self) -> None:
        members = tuple(Member(i, signer_of(i).public) for i in range(5))
        self.memberships = {0: Membership(0, members[:4]), 1: Membership(1, members)}
        self.scheme = CountingScheme()
        self.opened: list[bytes] = []
        self.verifier = Verifier(NETWORK, self.scheme, self.memberships.get, self.open)

    def open(self, items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
        self.opened += items
        return open_items(items)

    def refuses(self, signed: Signed, sender: int, code: str) -> None:
        with pytest.raises(PeerFault) as caught:
            verified(self.verifier, encode(signed), sender)
        assert caught.value.code == code


def signed(message: ReplicaMessage, attachment: bytes = b"") -> Signed:
    return sign(signer_of(message.sender), message, attachment)


def proposed(seq: int = 1, items: tuple[bytes, ...] = (item("a"),), view: int = 0) -> Signed:
    raw = Proposal(seq, 7, view, items).encode()
    primary = view % 4
    return signed(PrePrepare(0, primary, view, seq, Proposal.digest_of(raw)), raw)


def certificate(seq: int = 1, digest: bytes = A) -> PreparedProof:
    first = signed(PrePrepare(0, 0, 0, seq, digest))
    return PreparedProof(first, tuple(signed(Prepare(0, i, 0, seq, digest)) for i in (1, 2)))


def checkpoints(seq: int = 8, senders: tuple[int, ...] = (0, 1, 2)) -> tuple[Signed, ...]:
    return tuple(signed(Checkpoint(0, i, seq, A)) for i in senders)


def view_change(sender: int, view: int = 1, **changes: object) -> ViewChange:
    whole = ViewChange(0, sender, view, 8, A, checkpoints(), (certificate(9), certificate(10, B)))
    return msgspec.structs.replace(whole, **changes)


def new_view(**changes: object) -> NewView:
    votes = tuple(signed(view_change(i)) for i in (0, 1, 2))
    ordered = (signed(PrePrepare(0, 1, 1, 9, A)), signed(PrePrepare(0, 1, 1, 10, B)))
    return msgspec.structs.replace(NewView(0, 1, 1, votes, ordered), **changes)


def test_what_is_true_passes_with_its_contents() -> None:
    world = World()
    verify = partial(verified, world.verifier)
    assert verify(encode(proposed()), 0).requests[0].operation == "a"
    assert verify(encode(signed(Forward(0, 2, item("b")))), 2).requests[0].operation == "b"
    ordered = verify(encode(proposed()), 0).proposal
    assert ordered is not None
    assert ordered.seq == 1
    handed_on = verify(encode(signed(Batch(0, 2, proposed().attachment))), 2)
    assert handed_on.proposal == ordered
    assert handed_on.requests[0].operation == "a"
    prepared = verify(encode(signed(view_change(3))), 3).prepared
    assert [pre_prepare.seq for pre_prepare in prepared] == [9, 10]
    received = verify(encode(signed(new_view())), 1)
    assert len(received.view_changes) == 3
    assert [entry.seq for entry in received.pre_prepares] == [9, 10]


VOTE = Prepare(0, 1, 0, 1, A)
REFUSED: list[tuple[str, Signed, int, str]] = [
    ("a changed body", Signed(signed(VOTE).body[:-1] + b"b", signed(VOTE).signature), 1,
     "bad-signature"),
    ("another's key", sign(signer_of(2), VOTE), 1, "bad-signature"),
    ("a stranger", signed(Prepare(0, 9, 0, 1, A)), 9, "not-a-member"),
    ("a member of the next epoch only", signed(Prepare(0, 4, 0, 1, A)), 4, "not-a-member"),
    ("an unknown epoch", signed(Prepare(7, 1, 0, 1, A)), 1, "unknown-epoch"),
    ("status over another's link", signed(StatusMessage(0, 1, 0, True, 0, 0)), 2, "wrong-sender"),
    ("an attachment nobody signed", signed(VOTE, b"x"), 1, "bad-frame"),
    ("no batch", signed(PrePrepare(0, 0, 0, 1, A)), 0, "no-batch"),
    ("another batch", Signed(proposed().body, proposed().signature,
                             Proposal(1, 8, 0, ()).encode()), 0, "bad-digest"),
    ("a batch of another number", signed(
        PrePrepare(0, 0, 0, 2, Proposal.digest_of(proposed().attachment)),
        proposed().attachment), 0, "bad-proposal"),
    ("a proposal of a backup", signed(
        PrePrepare(0, 2, 0, 1, Proposal.digest_of(proposed().attachment)),
        proposed().attachment), 2, "not-primary"),
    ("a forged request in a batch", proposed(items=(b"forged",)), 0, "bad-signature"),
    ("a forged request forwarded", signed(Forward(0, 1, b"forged")), 1, "bad-signature"),
    ("a batch that is none", signed(Batch(0, 1, b"\xc1")), 1, "bad-proposal"),
    ("heads without a proof", signed(Heads(0, 1, 1, (), ())), 1, "bad-certificate"),
    ("heads proven by too few", signed(Heads(0, 1, 1, (), checkpoints()[:2])), 1,
     "bad-certificate"),
    ("heads proven by one twice", signed(Heads(0, 1, 1, (), checkpoints(8, (0, 1, 1)))), 1,
     "bad-certificate"),
    ("checkpoint without proof", signed(view_change(3, stable_proof=())), 3, "bad-certificate"),
    ("checkpoint of others", signed(view_change(3, stable_seq=16)), 3, "bad-certificate"),
    ("checkpoint by too few", signed(view_change(3, stable_proof=checkpoints()[1:])), 3,
     "bad-certificate"),
    ("mixed checkpoints", signed(view_change(
        3, stable_proof=(*checkpoints()[:2], signed(Checkpoint(0, 2, 8, B))))), 3,
     "bad-certificate"),
    ("certificate by too few", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, certificate().prepares[:1]),))), 3,
     "bad-certificate"),
    ("certificate by one twice", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, certificate().prepares[:1] * 2),))), 3,
     "bad-certificate"),
    ("certificate with the primary's PREPARE", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, (
            signed(Prepare(0, 0, 0, 1, A)), certificate().prepares[0])),))), 3,
     "bad-certificate"),
    ("certificate of two digests", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, certificate(1, B).prepares),))), 3,
     "bad-certificate"),
    ("certificate of a view not yet left", signed(view_change(3, view=0)), 3, "bad-certificate"),
    ("certificate with COMMITs", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, tuple(
            signed(Commit(0, i, 0, 1, A)) for i in (1, 2))),))), 3, "bad-certificate"),
    ("certificate with a forged vote", signed(view_change(3, prepared=(
        PreparedProof(certificate().pre_prepare, (
            certificate().prepares[0], sign(signer_of(0), Prepare(0, 2, 0, 1, A)))),))), 3,
     "bad-signature"),
    ("a new view of a backup", signed(msgspec.structs.replace(new_view(), sender=2)), 2,
     "bad-new-view"),
    ("too few view changes", signed(new_view(view_changes=new_view().view_changes[:2])), 1,
     "bad-new-view"),
    ("one view change twice", signed(new_view(
        view_changes=(*new_view().view_changes[:2], new_view().view_changes[0]))), 1,
     "bad-new-view"),
    ("a stale view change", signed(new_view(
        view_changes=(*new_view().view_changes[:2], signed(view_change(3, view=5))))), 1,
     "bad-new-view"),
    ("another's pre-prepare in O", signed(new_view(
        pre_prepares=(signed(PrePrepare(0, 2, 1, 9, A)),))), 1, "bad-new-view"),
    ("a checkpoint proven by another epoch", signed(view_change(3, stable_proof=tuple(
        signed(Checkpoint(1, i, 8, A)) for i in range(4)))), 3, "bad-certificate"),
    ("a checkpoint proven by two epochs", signed(view_change(
        3, stable_proof=(*checkpoints()[:2], signed(Checkpoint(1, 2, 8, A))))), 3,
     "bad-certificate"),
    ("heads proven by two epochs", signed(Heads(
        0, 1, 1, (), (*checkpoints()[:2], signed(Checkpoint(1, 2, 8, A))))), 1,
     "bad-certificate"),
    ("certificate with another epoch's pre-prepare", signed(view_change(3, prepared=(
        PreparedProof(signed(PrePrepare(1, 0, 0, 9, A)), certificate(9).prepares),))), 3,
     "bad-certificate"),
    ("certificate with another epoch's vote", signed(view_change(3, prepared=(
        PreparedProof(certificate(9).pre_prepare, (
            certificate(9).prepares[0], signed(Prepare(1, 2, 0, 9, A)))),))), 3,
     "bad-certificate"),
    ("heads proven by one", signed(Heads(0, 1, 1, (), checkpoints()[:1])), 1, "bad-certificate"),
    ("another epoch's view change", signed(new_view(view_changes=(
        *new_view().view_changes[:2],
        signed(view_change(2, epoch=1, prepared=()))))), 1, "bad-certificate"),
    ("another epoch's pre-prepare in O", signed(new_view(
        pre_prepares=(signed(PrePrepare(1, 1, 1, 9, A)),))), 1, "bad-certificate"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "frame", "sender", "code"), REFUSED, ids=[r[0] for r in REFUSED])
def test_what_is_not_true_is_a_fault_of_its_sender(
    what: str, frame: Signed, sender: int, code: str
) -> None:
    World().refuses(frame, sender, code)


def test_votes_may_be_handed_on_by_others() -> None:
    """They speak for themselves (retransmission); questions and answers do not."""
    world = World()
    for message in (VOTE, Commit(0, 1, 0, 1, A), Checkpoint(0, 1, 8, A), view_change(1)):
        assert verified(world.verifier, encode(signed(message)), 3).message == message


def test_a_replica_that_is_being_added_may_ask_in_any_epoch() -> None:
    world = World()
    for epoch in (0, 1, 9):
        verified(world.verifier, encode(signed(FetchHeads(epoch, 4, 1))), 4)


def test_nothing_is_verified_twice() -> None:
    """Nested statements, relayed votes and requests are remembered."""
    world = World()
    for entry in (proposed(), signed(VOTE), signed(view_change(0)), signed(new_view())):
        verified(world.verifier, encode(entry), decode_sender(entry))
    count, opened = world.scheme.count, len(world.opened)
    for entry in (proposed(), signed(VOTE), signed(view_change(0)), signed(new_view())):
        verified(world.verifier, encode(entry), decode_sender(entry))
    assert (world.scheme.count, len(world.opened)) == (count, opened)
    world.verifier.open(item("a"))
    assert len(world.opened) == opened


def decode_sender(entry: Signed) -> int:
    return int(msgspec.msgpack.decode(entry.body)[2])


def test_a_bad_signature_is_not_remembered_as_good() -> None:
    world = World()
    forged = sign(signer_of(2), VOTE)
    world.refuses(forged, 1, "bad-signature")
    world.refuses(forged, 1, "bad-signature")


WHOLE = [
    encode(entry)
    for entry in (proposed(), signed(VOTE), signed(view_change(3)), signed(new_view()))
]


@given(st.binary(max_size=300))
@example(b"")
@example(b"\x93")
@example(b"\xdd\xff\xff\xff\xff")
def test_any_bytes_give_a_peer_fault(data: bytes) -> None:
    """Malformed bit array halts the network (CometBFT): fuzz every decoder."""
    with pytest.raises(PeerFault):
        verified(World().verifier, data, 1)


@given(st.sampled_from(WHOLE), st.integers(0), st.integers(1, 255), st.integers(0, 3))
def test_any_changed_byte_gives_a_peer_fault(
    frame: bytes, where: int, change: int, sender: int
) -> None:
    where %= len(frame)
    spoilt = frame[:where] + bytes([frame[where] ^ change]) + frame[where + 1 :]
    with pytest.raises(PeerFault):
        verified(World().verifier, spoilt, sender)


@given(st.sampled_from(range(17)), st.binary(max_size=200))
def test_any_signed_body_gives_a_peer_fault_or_a_message(kind: int, data: bytes) -> None:
    """A Byzantine member signs whatever it likes: it still is a typed message or refused."""
    tags = ["PP", "P", "C", "CP", "VC", "NV", "S", "F", "FP", "DP", "FH", "DH", "FB", "DB", "ER",
            "E", "?"]  # fmt: skip
    body = b"\x93" + msgspec.msgpack.encode(tags[kind]) + data
    covered = b"m2m/1/replica\0" + NETWORK + body
    frame = encode(Signed(body, signer_of(1).sign(covered)))
    with suppress(PeerFault):
        verified(World().verifier, frame, 1)


def test_a_replica_that_starts_after_many_epochs_hears_its_peers() -> None:
    """Its host remembers only the last memberships, not the first."""
    world = World()
    members = world.memberships[1].members
    world.memberships = {epoch: Membership(epoch, members) for epoch in range(100, 164)}
    verifier = Verifier(NETWORK, world.scheme, world.memberships.get, world.open, 163)
    for sender in range(5):
        status = signed(StatusMessage(163, sender, 0, True, 0, 0))
        assert verified(verifier, encode(status), sender).message.sender == sender
    with pytest.raises(PeerFault, match="not-a-member"):
        verified(verifier, encode(signed(StatusMessage(163, 5, 0, True, 0, 0))), 5)


def unsigned(message: ReplicaMessage) -> Signed:
    return Signed(encode(message), bytes(64))


def test_a_commit_over_its_senders_own_link_counts_and_is_checked_before_others_see_it() -> None:
    world = World()
    verified(world.verifier, encode(signed(Commit(0, 1, 0, 1, A))), 1)
    verified(world.verifier, encode(unsigned(Commit(0, 2, 0, 1, A))), 2)
    assert world.scheme.count == 0
    assert world.verifier.holds(signed(Commit(0, 1, 0, 1, A)))
    assert not world.verifier.holds(unsigned(Commit(0, 2, 0, 1, A)))
    assert world.scheme.count == 2


def test_nothing_else_counts_without_its_signature() -> None:
    world = World()
    world.refuses(unsigned(Commit(0, 2, 0, 1, A)), 1, "bad-signature")
    world.refuses(unsigned(Commit(0, 4, 0, 1, A)), 4, "not-a-member")
    world.refuses(unsigned(Prepare(0, 2, 0, 1, A)), 2, "bad-signature")
    world.refuses(unsigned(Checkpoint(0, 2, 8, A)), 2, "bad-signature")


def test_a_memory_keeps_the_newest_half_and_never_more_than_it_may() -> None:
    memory = GenerationalCache[int](6)
    for number in range(1, 50):
        memory.put(bytes([number]), number)
        newest = range(max(1, number - 3), number + 1)
        assert [memory.get(bytes([each])) for each in newest] == list(newest)
        assert sum(memory.get(bytes([each])) is not None for each in range(1, 50)) <= 6


def test_a_commit_that_holds_is_checked_once() -> None:
    world = World()
    for _ in range(2):
        assert world.verifier.holds(signed(Commit(0, 1, 0, 1, A)))
    assert world.scheme.count == 1


def test_requests_that_are_known_are_not_opened_and_none_may_be_missing() -> None:
    calls = []

    def open_some(items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
        calls.append(len(items))
        return open_items(items[:1])

    verifier = Verifier(NETWORK, FakeScheme(), World().memberships.get, open_some)
    verifier.open_all([item("a")])
    verifier.open_all([item("a")])
    assert calls == [1]
    with pytest.raises(ValueError, match="shorter"):
        verifier.open_all([item("b"), item("c")])


def test_members_of_any_known_epoch_may_ask() -> None:
    """Each of the last two is a member of one epoch only."""
    members = tuple(Member(i, signer_of(i).public) for i in range(6))
    epochs = {0: members[:4], 1: members[:4], 2: members[:5], 3: (*members[:4], members[5])}
    memberships = {epoch: Membership(epoch, each) for epoch, each in epochs.items()}
    verifier = Verifier(NETWORK, FakeScheme(), memberships.get, open_items)
    for sender in range(6):
        assert verified(verifier, encode(signed(FetchHeads(0, sender, 1))), sender)
    alone = Verifier(NETWORK, FakeScheme(), {0: memberships[0]}.get, open_items)
    assert verified(alone, encode(signed(FetchHeads(0, 1, 1))), 1)


def test_a_checkpoint_is_proven_by_one_epoch_its_own_or_the_one_before() -> None:
    """Of two epochs of one size, no vote of one counts for the other."""
    members = tuple(Member(i, signer_of(i).public) for i in range(5))
    epochs = {0: members[:4], 1: (*members[:3], members[4]), 2: members[:4]}
    memberships = {epoch: Membership(epoch, each) for epoch, each in epochs.items()}
    verifier = Verifier(NETWORK, FakeScheme(), memberships.get, open_items)

    def frame(*of: int, epoch: int = 1) -> bytes:
        proof = tuple(signed(Checkpoint(epoch, i, 8, A)) for i, epoch in enumerate(of))
        return encode(signed(ViewChange(epoch, 1, 1, 8, A, proof, ())))

    assert verified(verifier, frame(1, 1, 1), 1)
    assert verified(verifier, frame(0, 0, 0), 1)
    for mixed in ((0, 1, 1), (1, 0, 0), (0, 0, 1)):
        with pytest.raises(PeerFault, match="bad-certificate"):
            verified(verifier, frame(*mixed), 1)
    assert verified(verifier, frame(1, 1, 1, epoch=2), 1)
    with pytest.raises(PeerFault, match="bad-certificate"):
        verified(verifier, frame(0, 0, 0, epoch=2), 1)


def test_a_new_view_may_bring_the_view_change_of_everyone() -> None:
    votes = tuple(signed(view_change(i)) for i in range(4))
    received = verified(World().verifier, encode(signed(new_view(view_changes=votes))), 1)
    assert len(received.view_changes) == 4
