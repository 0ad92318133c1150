"""Access requests: k members of the group accept, or the device is told why not."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from chain.errors import PeerFault
from chain.ledger.auth_group import members
from chain.ledger.endorsement import (
    LATER_MAX,
    OPEN_BLOCKS_MAX,
    OPEN_MAX,
    Endorser,
    EndorserEffect,
    is_access_request,
)
from chain.pbft.effects import Send
from chain.pbft.inputs import Received, Submitted
from chain.pbft.messages import (
    Busy,
    Denied,
    Endorsement,
    EndorseRequest,
    Signed,
    decode_body,
    encode,
    signed_bytes,
)
from chain.pbft.state_machine import Screening, VerifiedRequest
from chain.proofs.denial import check_verdicts
from tests.chain.world import Device, World, signer


class Endorsers:
    """An endorser at every replica of a world, linked; some replicas are silent."""

    def __init__(self, world: World, silent: Iterable[int] = ()) -> None:
        self.world = world
        self.silent = set(silent)
        self.outcomes: list[tuple[int, Submitted | Denied | Busy]] = []
        self.sent = 0
        self.endorsers = {
            each: Endorser(
                each,
                world.network,
                world.genesis.policy,
                signer=key,
                judge=world.ledger.registry.judge,
                open_item=world.open,
            )
            for each, key in world.replicas.items()
        }

    def submit(self, at: int, request: VerifiedRequest) -> None:
        self.run(at, self.endorsers[at].submit(request, self.world.ledger.membership))

    def executed(self) -> None:
        for each in sorted(self.endorsers):
            self.run(each, self.endorsers[each].executed(self.world.ledger.membership))

    def run(self, at: int, effects: list[EndorserEffect]) -> None:
        for effect in effects:
            if not isinstance(effect, Send):
                self.outcomes.append((at, effect))
            elif not {at, effect.to} & self.silent:
                self.sent += 1
                message = decode_body(effect.signed.body)
                received = Received(message=message, signed=effect.signed)
                membership = self.world.ledger.membership
                self.run(effect.to, self.endorsers[effect.to].receive(received, membership))


def ask(
    world: World, name: str = "alice", **changes: object
) -> tuple[VerifiedRequest, tuple[int, ...]]:
    device = Device(name)
    request = world.request(world.enrol(device, **changes), device, endorsed=False)
    assert is_access_request(request)
    return request, members(request.id, world.ledger.membership, 3)


@pytest.mark.parametrize("at", range(4))
def test_whichever_replica_collects_gets_a_request_that_every_replica_accepts(at: int) -> None:
    world = World()
    network = Endorsers(world)
    request, _ = ask(world)
    network.submit(at, request)
    [(endorser, outcome)] = network.outcomes
    assert endorser == at
    assert isinstance(outcome, Submitted)
    assert outcome.request.id == request.id
    assert world.open(outcome.request.item) == outcome.request, "as if it came over the wire"
    assert not is_access_request(outcome.request)
    assert world.ledger.screen(outcome.request) is Screening.READY
    assert world.block(outcome.request)[0].status == "ok"


def test_one_silent_member_of_three_changes_nothing() -> None:
    world = World()
    request, group = ask(world)
    for silent in group:
        network = Endorsers(world, {silent})
        network.submit(next(each for each in range(4) if each != silent), request)
        assert isinstance(network.outcomes[0][1], Submitted)


def test_a_request_submitted_again_asks_the_silent_members_again() -> None:
    world = World()
    request, group = ask(world)
    at = next(each for each in range(4) if each not in group)
    network = Endorsers(world, group[1:])
    network.submit(at, request)
    assert network.outcomes == []
    network.silent.clear()
    network.submit(at, request)
    [(_, outcome)] = network.outcomes
    assert isinstance(outcome, Submitted)


def test_the_first_authentication_refuses_with_the_reason_signed() -> None:
    world = World()
    network = Endorsers(world)
    request, _ = ask(world, privilege=9)
    network.submit(0, request)
    [(_, denied)] = network.outcomes
    assert isinstance(denied, Denied)
    assert (denied.request, denied.reason, network.sent) == (request.id, "privilege", 0)
    assert denied.endorsement is not None
    body = denied.endorsement.body
    spki = world.replicas[0].public
    signature = denied.endorsement.signature
    assert world.scheme.verify(spki, signed_bytes(world.network, body), signature)


def reject(world: World, replica: int, request: bytes, reason: str) -> Received[Endorsement]:
    message = Endorsement(0, replica, request=request, accepted=False, reason=reason)
    body = encode(message)
    signature = world.replicas[replica].sign(signed_bytes(world.network, body))
    return Received(message=message, signed=Signed(body, signature))


def test_more_than_m_minus_k_rejections_deny_and_fewer_do_not() -> None:
    world = World()
    request, group = ask(world)
    at = next(each for each in range(4) if each not in group)
    endorser = Endorsers(world, group).endorsers[at]
    membership = world.ledger.membership
    endorser.submit(request, membership)
    assert endorser.receive(reject(world, group[0], request.id, "spite"), membership) == []
    assert endorser.receive(reject(world, group[0], request.id, "spite"), membership) == []
    [denied] = endorser.receive(reject(world, group[1], request.id, "spite"), membership)
    assert isinstance(denied, Denied)
    assert denied.reason == "spite"


def test_a_member_that_is_behind_waits_for_the_block_that_is_named() -> None:
    world = World()
    behind = World()  # the same genesis, no block yet
    world.idle(1)
    request, _ = ask(world)
    network = Endorsers(world)
    late = members(request.id, world.ledger.membership, 3)[0]
    network.endorsers[late] = Endorser(
        late,
        world.network,
        world.genesis.policy,
        signer=world.replicas[late],
        judge=behind.ledger.registry.judge,
        open_item=world.open,
    )
    asked = EndorseRequest(0, (late + 1) % 4, request=request.item)
    received = Received(message=asked, signed=Signed(b"", bytes(64)))
    membership = world.ledger.membership
    assert network.endorsers[late].receive(received, membership) == []
    assert network.endorsers[late].executed(membership) == []
    behind.ledger.append(world.blocks[0], check_signatures=True)
    [answer] = network.endorsers[late].executed(membership)
    assert isinstance(answer, Send)
    endorsement = decode_body(answer.signed.body)
    assert isinstance(endorsement, Endorsement)
    assert endorsement.accepted


def test_a_request_that_stays_unknown_is_refused_after_some_blocks() -> None:
    world = World()
    network = Endorsers(world)
    request, _ = ask(world, with_voucher=signer("no voucher"))
    network.submit(0, request)
    assert network.outcomes == []
    for _ in range(4):
        network.executed()
    [(_, denied)] = network.outcomes
    assert isinstance(denied, Denied)
    assert denied.reason == "unknown-voucher"


def test_senseless_messages_are_the_sender_s_fault() -> None:
    world = World()
    request, group = ask(world)
    stranger = next(each for each in range(4) if each not in group)
    network = Endorsers(world, range(4))
    membership = world.ledger.membership
    network.endorsers[group[0]].submit(request, membership)
    none = Signed(b"", bytes(64))
    alice = world.admit("admitted")
    data = world.request(world.data(alice), alice)
    for at, received in (
        (group[0], reject(world, stranger, request.id, "not asked")),
        (stranger, Received(message=EndorseRequest(0, 0, request=request.item), signed=none)),
        (group[0], Received(message=EndorseRequest(0, 0, request=data.item), signed=none)),
        (group[0], Received(message=EndorseRequest(0, 0, request=b"noise"), signed=none)),
    ):
        with pytest.raises(PeerFault):
            network.endorsers[at].receive(received, membership)


def test_an_endorser_is_bounded_and_gives_up_in_time() -> None:
    world = World(vouchers=1)
    request, group = ask(world)
    endorser = Endorsers(world).endorsers[group[0]]
    membership = world.ledger.membership
    for number in range(OPEN_MAX):
        copy = msgspec.structs.replace(request, id=number.to_bytes(32, "big"))
        assert not [e for e in endorser.submit(copy, membership) if isinstance(e, Busy)]
    assert endorser.submit(request, membership) == [Busy(request.id)]
    for _ in range(OPEN_BLOCKS_MAX + 1):
        endorser.executed(membership)
    assert endorser.submit(request, membership) != [Busy(request.id)]


def test_one_asker_does_not_fill_the_room_of_those_that_wait() -> None:
    """Requests with vouchers that nobody heard of cost a treacherous replica nothing."""
    world = World()
    membership = world.ledger.membership
    member = Endorser(
        0,
        world.network,
        world.genesis.policy,
        signer=world.replicas[0],
        judge=lambda request: "unknown-voucher",
        open_item=world.open,
    )

    def asked(asker: int, number: int) -> list[EndorserEffect]:
        while True:
            device = Device(f"{asker}/{number}")
            operation = world.enrol(device, with_voucher=signer("no voucher"))
            request = world.request(operation, device, endorsed=False)
            if 0 in members(request.id, membership, 3):
                break
            number += 1000
        message = EndorseRequest(0, asker, request=request.item)
        signed = Signed(encode(message), bytes(64))
        return member.receive(Received(message=message, signed=signed), membership)

    for number in range(LATER_MAX + 10):
        asked(3, number)
    assert asked(1, 0) == [], "it waits for the block, nothing is refused"


# --- groups smaller than f+1 ---------------------------------------------------------------------


def provable(world: World, request: VerifiedRequest, denials: list[Denied], reason: str) -> bool:
    """Whether a device would believe it."""
    signed = {each.endorsement for each in denials if each.endorsement is not None}
    members_, network = world.ledger.membership, world.network
    try:
        check_verdicts(list(signed), request.id, members_, network, world.scheme, reason=reason)
    except PeerFault:
        return False
    return True


def test_a_small_group_of_liars_denies_without_proof_and_for_one_request_only() -> None:
    """One member, which lies. Its denial ends nothing. When the request is stale, all replicas say
    so, provably; the device then asks again, and that request draws another group."""
    world = World(group_size=1, group_accepts=1)
    alice = Device("alice")
    request = world.request(world.enrol(alice), alice, endorsed=False)
    (liar,) = members(request.id, world.ledger.membership, 1)
    denials = []
    for at in sorted({*range(4)} - {liar}):
        network = Endorsers(world, silent={liar})
        network.submit(at, request)
        lie = reject(world, liar, request.id, "privilege")
        network.run(at, network.endorsers[at].receive(lie, world.ledger.membership))
        [(_, denied)] = network.outcomes
        assert isinstance(denied, Denied)
        denials.append(denied)
    assert not provable(world, request, denials, "privilege"), "three replicas pass on one lie"

    world.idle(world.genesis.policy.enrol_window_blocks)
    network = Endorsers(world)
    for at in range(4):
        network.submit(at, request)
    stale = [each for _, each in network.outcomes if isinstance(each, Denied)]
    assert provable(world, request, stale, "stale-head")
    other = next(
        each
        for nonce in range(64)
        if members(
            (
                each := world.request(
                    world.enrol(alice, with_voucher=world.vouchers[0], nonce=bytes([nonce] * 16)),
                    alice,
                    endorsed=False,
                )
            ).id,
            world.ledger.membership,
            1,
        )
        != (liar,)
    )
    network.outcomes.clear()
    network.submit(liar, other)
    assert [type(each) for _, each in network.outcomes] == [Submitted]


def test_a_just_denial_is_proven_whatever_the_size_of_the_group() -> None:
    """Each replica that is asked judges for itself, and signs that."""
    world = World(group_size=1, group_accepts=1)
    request, _ = ask(world, privilege=9)
    network = Endorsers(world)
    for at in range(2):
        network.submit(at, request)
    denials = [each for _, each in network.outcomes if isinstance(each, Denied)]
    assert provable(world, request, denials, "privilege")
