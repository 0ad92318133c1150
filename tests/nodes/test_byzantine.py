"""Each trick of a lying replica: what comes out instead of an honest replica's effects."""

from __future__ import annotations

import random

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chain.block import Block, genesis_head
from chain.genesis import Member, Membership
from chain.keys import Es256, Es256Signer
from chain.pbft.effects import Broadcast, Durable, Effect, Execute, Persist, Send
from chain.pbft.messages import (
    Bodies,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    encode,
    signed_bytes,
)
from nodes.byzantine.config import Trick
from nodes.byzantine.conspiracy import Conspiracy
from nodes.byzantine.tricks import ACTS
from nodes.byzantine.wrapper import Misbehaviour
from nodes.replica.driver import Delayed
from tests.chain.world import World

NETWORK = bytes(32)
SIGNERS = [Es256Signer(ec.derive_private_key(n + 1, ec.SECP256R1())) for n in range(4)]
MEMBERSHIP = Membership(0, tuple(Member(n, each.public) for n, each in enumerate(SIGNERS)))


def sign(message: ReplicaMessage, attachment: bytes = b"") -> Signed:
    body = encode(message)
    return Signed(body, SIGNERS[0].sign(signed_bytes(NETWORK, body)), attachment)


def proposal() -> Broadcast:
    raw = Proposal(5, 1000, 0, (b"one", b"two")).encode()
    return Broadcast(sign(PrePrepare(0, 0, 0, 5, Proposal.digest_of(raw)), raw))


def vote(kind: type[Prepare | Commit]) -> Broadcast:
    return Broadcast(sign(kind(0, 0, 0, 5, bytes(32))))


def misbehaving(trick: Trick, **options: object) -> Misbehaviour:
    return Misbehaviour(
        ACTS[trick],
        me=0,
        network=NETWORK,
        signer=SIGNERS[0],
        membership=lambda: MEMBERSHIP,
        rng=random.Random(1),
        **options,  # type: ignore[arg-type]
    )


def frames(effects: list[Effect | Delayed]) -> list[Signed]:
    return [effect.signed for effect in effects if isinstance(effect, Send | Broadcast)]


def holds(signed: Signed) -> bool:
    return Es256().verify(SIGNERS[0].public, signed_bytes(NETWORK, signed.body), signed.signature)


def message(signed: Signed) -> ReplicaMessage:
    decoded: ReplicaMessage = msgspec.msgpack.decode(signed.body, type=ReplicaMessage)
    return decoded


@pytest.mark.parametrize("trick", Trick)
def test_what_is_not_sent_stays_honest(trick: Trick) -> None:
    """Only messages are touched: facts are kept and blocks executed as always."""
    own: list[Effect] = [
        Persist(Durable("prepared", 0, 5, b"")),
        Execute(Proposal.null(5), (), 0),
    ]
    assert misbehaving(trick).rewrite(own) == own


@pytest.mark.parametrize("trick", Trick)
def test_it_begins_when_it_is_told_to(trick: Trick) -> None:
    honest: list[Effect] = [proposal(), vote(Prepare)]
    assert misbehaving(trick, active=lambda: False).rewrite(honest) == honest


def test_silent_says_nothing_and_can_be_narrowed_to_one_kind() -> None:
    assert misbehaving(Trick.SILENT).rewrite([proposal(), vote(Commit)]) == []
    assert misbehaving(Trick.SILENT, message="C").rewrite([proposal(), vote(Commit)]) == [
        proposal()
    ]


def test_delay_sends_everything_late() -> None:
    out = misbehaving(Trick.DELAY, delay_us=5).rewrite([proposal()])
    assert out == [Delayed(proposal(), 5)]


def test_withhold_proposes_but_does_not_vote() -> None:
    out = misbehaving(Trick.WITHHOLD).rewrite([proposal(), vote(Prepare), vote(Commit)])
    assert out == [proposal()]


def test_bad_signatures_do_not_hold() -> None:
    (signed,) = frames(misbehaving(Trick.BAD_SIGNATURE).rewrite([vote(Prepare)]))
    assert not holds(signed)


def test_a_wrong_digest_is_properly_signed() -> None:
    (signed,) = frames(misbehaving(Trick.WRONG_DIGEST).rewrite([vote(Commit)]))
    assert holds(signed)
    lie = message(signed)
    assert isinstance(lie, Commit)
    assert lie.digest != bytes(32)


def test_equivocation_sends_two_valid_proposals_to_two_halves() -> None:
    out = misbehaving(Trick.EQUIVOCATE).rewrite([proposal()])
    assert [effect.to for effect in out if isinstance(effect, Send)] == [1, 2, 3]
    stories = {signed.body for signed in frames(out)}
    assert len(stories) == 2
    for signed in frames(out):
        sent = message(signed)
        assert holds(signed)
        assert isinstance(sent, PrePrepare)
        assert sent.digest == Proposal.digest_of(signed.attachment)


def test_conspirators_send_the_deceived_another_proposal_and_vote_for_both() -> None:
    """Primary and accomplice derive the same second proposal, each by itself."""
    digests: dict[type[ReplicaMessage], dict[int, bytes]] = {}
    pre_prepare = proposal().signed
    digest = message(pre_prepare).digest  # type: ignore[union-attr]
    for me, own in enumerate((proposal(), Broadcast(sign(Prepare(0, 1, 0, 5, digest))))):
        actor = misbehaving(
            Trick.CONSPIRE, conspiracy=Conspiracy(frozenset({0, 1}), frozenset({3}))
        )
        actor.me = me
        kept = Persist(Durable("proposal", 0, 5, encode(pre_prepare)))
        sends = [out for out in actor.rewrite([kept, own]) if isinstance(out, Send)]
        digests[type(message(own.signed))] = {
            out.to: message(out.signed).digest  # type: ignore[union-attr]
            for out in sends
        }
    assert digests[Prepare][2] == digests[PrePrepare][2]
    assert digests[Prepare][3] == digests[PrePrepare][3] != digests[PrePrepare][2]


def test_what_an_honest_primary_proposed_has_no_second_version() -> None:
    actor = misbehaving(Trick.CONSPIRE, conspiracy=Conspiracy(frozenset({1, 2}), frozenset({3})))
    kept = Persist(Durable("proposal", 0, 5, encode(proposal().signed)))
    digest = message(proposal().signed).digest  # type: ignore[union-attr]
    own = Broadcast(sign(Commit(0, 0, 0, 5, digest)))
    assert actor.rewrite([kept, own]) == [kept, own]


def test_one_client_is_censored_or_all() -> None:
    world = World()
    mine, other = world.admit("phone"), world.admit("other phone")
    items = tuple(world.request(world.data(device), device).item for device in (mine, other))
    raw = Proposal(5, 1000, 0, items).encode()
    honest = Broadcast(sign(PrePrepare(0, 0, 0, 5, Proposal.digest_of(raw)), raw))

    def passed(client: bytes | None) -> tuple[bytes, ...]:
        actor = misbehaving(Trick.CENSOR, client=client)
        actor.network = world.network
        (signed,) = frames(actor.rewrite([honest]))
        return msgspec.msgpack.decode(signed.attachment, type=Proposal).items

    assert passed(mine.node) == items[1:]
    assert passed(other.node) == items[:1]
    assert passed(None) == ()
    assert passed(bytes(32)) == items


def test_acts_are_counted() -> None:
    actor = misbehaving(Trick.SILENT, message="C")
    actor.rewrite([proposal(), vote(Commit), vote(Commit)])
    assert actor.acts == 2


def test_old_messages_are_repeated_as_they_were() -> None:
    actor = misbehaving(Trick.OLD_MESSAGES)
    actor.rewrite([proposal()])
    out = frames(actor.rewrite([vote(Prepare)]))
    assert out == [vote(Prepare).signed, proposal().signed]


def test_a_flood_is_many_times_as_much_half_of_it_garbage() -> None:
    out = frames(misbehaving(Trick.FLOOD).rewrite([vote(Prepare)]))
    assert len(out) > 20
    assert 0 < sum(holds(signed) for signed in out) < len(out)


def test_a_dribbling_source_serves_one_block_and_late() -> None:
    blocks = tuple(Block(genesis_head(NETWORK, time_us), ()) for time_us in (1, 2))
    answer = Send(2, sign(Bodies(0, 0, 7, blocks)))
    (late,) = misbehaving(Trick.DRIBBLE, delay_us=5).rewrite([answer])
    assert isinstance(late, Delayed)
    assert late.delay_us == 5
    assert isinstance(late.effect, Send)
    assert holds(late.effect.signed)
    assert message(late.effect.signed) == Bodies(0, 0, 7, blocks[:1])
    assert misbehaving(Trick.DRIBBLE).rewrite([vote(Commit)]) == [vote(Commit)]


def test_who_equivocates_late_is_honest_until_its_epoch_is_over() -> None:
    actor = misbehaving(Trick.LATE_EQUIVOCATION)
    first = [proposal(), vote(Prepare), vote(Commit)]
    assert actor.rewrite(list(first)) == first
    later = Broadcast(sign(Commit(1, 0, 0, 9, bytes(32))))
    out = frames(actor.rewrite([later]))
    assert out[0] == later.signed
    assert all(holds(signed) for signed in out)
    lies = [message(signed) for signed in out[1:]]
    assert all(lie.epoch == 0 for lie in lies)
    assert {type(lie) for lie in lies} == {PrePrepare, Prepare, Commit}
    said = [message(each.signed) for each in first]
    assert not any(lie in said for lie in lies)
    assert any(isinstance(lie, Commit) and lie.seq == 9 for lie in lies)  # dated back


@pytest.mark.parametrize("trick", Trick)
def test_the_same_seed_misbehaves_the_same(trick: Trick) -> None:
    def once() -> list[Effect | Delayed]:
        actor = misbehaving(trick, probability=0.5)
        return [out for _ in range(20) for out in actor.rewrite([proposal(), vote(Commit)])]

    assert once() == once()
