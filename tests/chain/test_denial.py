"""Denials are proven: f+1 signed rejections, or the record that ended the key. Nothing less."""

from __future__ import annotations

import msgspec
import pytest

from chain.errors import PeerFault
from chain.keys import Es256, digest
from chain.ledger.operations import Revoke
from chain.ledger.statement import decode_leaf
from chain.pbft.messages import Endorsement, Signed, encode, signed_bytes
from chain.proofs.denial import check_verdicts, ended_by
from tests.chain.registry_support import renewal
from tests.chain.world import Device, World

WORLD = World()
REQUEST = digest(b"a request")


def verdict(replica: int, reason: str = "privilege", by: int | None = None) -> Signed:
    """`replica` rejects; `by` whose key signs, if not its own."""
    message = Endorsement(0, replica, request=REQUEST, accepted=False, reason=reason)
    return signed(message, replica if by is None else by)


def signed(message: Endorsement, by: int) -> Signed:
    body = encode(message)
    return Signed(body, WORLD.replicas[by].sign(signed_bytes(WORLD.network, body)))


def check(*verdicts: Signed, reason: str = "privilege", request: bytes = REQUEST) -> None:
    members, scheme = WORLD.genesis.membership, Es256()
    check_verdicts(verdicts, request, members, WORLD.network, scheme, reason=reason)


def test_f_plus_1_replicas_that_reject_prove_a_denial() -> None:
    check(verdict(0), verdict(2))
    check(verdict(3, reason="service"), verdict(1), verdict(0))
    check(*(verdict(each) for each in range(4)))


ACCEPT = Endorsement(0, 2, request=REQUEST, accepted=True, reason="")
LATER = Endorsement(1, 2, request=REQUEST, accepted=False, reason="privilege")


@pytest.mark.parametrize(
    ("what", "verdicts"),
    [
        ("nobody", ()),
        ("one replica", (verdict(0),)),
        ("one replica twice", (verdict(0), verdict(0))),
        ("one replica with two reasons", (verdict(0), verdict(0, reason="service"))),
        ("another that rejects for now only", (verdict(0), verdict(2, reason="stale-head"))),
        ("an attachment", (verdict(0), msgspec.structs.replace(verdict(2), attachment=b"more"))),
        ("one in another's name", (verdict(0), verdict(2, by=0))),
        ("an accept", (verdict(0), signed(ACCEPT, 2))),
        ("another epoch", (verdict(0), signed(LATER, 2))),
        ("nonsense", (verdict(0), Signed(b"nonsense", bytes(64)))),
        ("more than there are replicas", tuple(verdict(0) for _ in range(5))),
    ],
)
def test_less_proves_nothing(what: str, verdicts: tuple[Signed, ...]) -> None:
    with pytest.raises(PeerFault):
        check(*verdicts)


def test_another_request_or_reason_is_not_proven() -> None:
    for changes in ({"request": bytes(32)}, {"reason": "revoked"}):
        with pytest.raises(PeerFault, match="bad-denial"):
            check(verdict(0), verdict(2), **changes)


def test_only_the_record_that_ended_the_key_says_so() -> None:
    world = World()
    alice, heir, other = world.admit("alice"), Device("heir"), world.admit("other")
    renewed = world.run(renewal(world, alice, heir), alice)
    assert ended_by(renewed, alice.node) == "renewed"
    assert ended_by(renewed, heir.node) is None
    kept = world.run(renewal(world, heir, heir), heir)
    assert ended_by(kept, heir.node) is None
    revoked = world.run(world.signed(Revoke, heir, target=alice.node, reason="lost"), heir)
    assert ended_by(revoked, heir.node) == "revoked"
    assert ended_by(revoked, other.node) is None
    assert ended_by(msgspec.structs.replace(revoked, status="pending"), heir.node) is None
    assert ended_by(decode_leaf(world.blocks[0].records[0].leaf), alice.node) is None
