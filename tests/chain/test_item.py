"""Batch items: the signed operation and its endorsements, every signature of which is checked."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from chain.ledger.envelope import sign_operation
from chain.ledger.item import ITEM_BYTES_MAX, cose_of, endorse, make_item, open_item, read_item
from chain.pbft.messages import Endorsement, Signed, encode, signed_bytes
from chain.pbft.state_machine import VerifiedRequest
from tests.chain.world import Device, World

WORLD = World()
ALICE = Device("alice")
COSE = sign_operation(WORLD.enrol(ALICE), ALICE.signer)
BARE = WORLD.open(make_item(COSE))


def verdict(
    replica: int = 0,
    *,
    by: int | None = None,
    epoch: int = 0,
    request: bytes = BARE.id,
    accepted: bool = True,
    attachment: bytes = b"",
) -> Signed:
    message = Endorsement(epoch, replica, request=request, accepted=accepted, reason="")
    body = encode(message)
    signer = WORLD.replicas[replica if by is None else by]
    return Signed(body, signer.sign(signed_bytes(WORLD.network, body)), attachment)


def test_an_item_becomes_the_request_that_the_core_orders() -> None:
    item = make_item(COSE, (verdict(0), verdict(2)))
    request = WORLD.open(item)
    assert (request.id, request.client, request.counter) == (BARE.id, ALICE.node, 0)
    assert request.item == item
    assert cose_of(item) == COSE
    assert endorse(BARE, WORLD.ledger.membership, (verdict(0), verdict(2))) == request


def test_reading_without_verifying_gives_the_same_request() -> None:
    for item in (make_item(COSE), make_item(COSE, (verdict(0), verdict(2)))):
        assert read_item(item, WORLD.network) == WORLD.open(item)


@pytest.mark.parametrize(
    ("what", "frames"),
    [
        ("a rejection", (verdict(accepted=False),)),
        ("another request's", (verdict(request=bytes(32)),)),
        ("signed by another", (verdict(0, by=1),)),
        ("the same member twice", (verdict(0), verdict(0))),
        ("out of order", (verdict(2), verdict(0))),
        ("bytes beside it", (verdict(attachment=b"x"),)),
        ("no message", (Signed(b"noise", bytes(64)),)),
    ],
)
def test_a_bad_endorsement_spoils_the_item(what: str, frames: tuple[Signed, ...]) -> None:
    with pytest.raises(PeerFault, match="bad-endorsement"):
        WORLD.open(make_item(COSE, frames))


def test_an_endorsement_of_another_epoch_blames_nobody() -> None:
    """An honest primary may have switched epochs before this replica, or not yet. The code is the
    one for frames that are dropped without blame."""
    with pytest.raises(PeerFault, match="unknown-epoch"):
        WORLD.open(make_item(COSE, (verdict(epoch=1),)))


def test_a_stranger_s_endorsement_is_none() -> None:
    stranger = World(replicas=5)
    message = Endorsement(0, 4, request=BARE.id, accepted=True, reason="")
    body = encode(message)
    frame = Signed(body, stranger.replicas[4].sign(signed_bytes(WORLD.network, body)))
    with pytest.raises(PeerFault, match="bad-endorsement"):
        WORLD.open(make_item(COSE, (frame,)))


@settings(max_examples=150)
@given(st.data())
def test_an_altered_item_is_refused_or_the_same_request(draw: st.DataObject) -> None:
    """Only MessagePack's own long forms can differ; what was signed cannot."""
    data = bytearray(make_item(COSE, (verdict(1), verdict(3))))
    bit = draw.draw(st.integers(0, len(data) * 8 - 1))
    data[bit // 8] ^= 1 << (bit % 8)
    try:
        request = WORLD.open(bytes(data))
    except PeerFault:
        return
    assert request.operation == WORLD.open(make_item(COSE, (verdict(1), verdict(3)))).operation


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_item(data: bytes) -> None:
    with pytest.raises(PeerFault):
        open_item(data, WORLD.network, WORLD.ledger.membership, WORLD.scheme)
    with pytest.raises(PeerFault):
        read_item(data, WORLD.network)


def test_an_oversize_item_is_refused_before_it_is_read() -> None:
    with pytest.raises(PeerFault, match="oversize"):
        WORLD.open(bytes(ITEM_BYTES_MAX + 1))


def test_only_opened_requests_are_endorsed() -> None:
    foreign = VerifiedRequest(id=bytes(32), client=b"", counter=0, item=b"", operation=None)
    with pytest.raises(Misuse):
        endorse(foreign, WORLD.ledger.membership, ())
    with pytest.raises(PeerFault):
        endorse(msgspec.structs.replace(BARE, item=b"x"), WORLD.ledger.membership, ())
