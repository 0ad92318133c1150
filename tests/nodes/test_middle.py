"""What somebody in the middle makes of messages and frames: each another, none valid."""

from __future__ import annotations

from random import Random

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from chain.errors import PeerFault
from chain.keys import Es256, Es256Signer, digest, node_id
from chain.ledger.envelope import open_operation, sign_operation
from chain.ledger.operations import Data
from gateway.bridge.edge import denied_codec
from gateway.serial.frames import Frame, decode_line, encode_frame, frame_body
from gateway.serial.session import kind_reading
from gateway.serial.tinycbor import encode
from nodes.board.middle import LineMiddle
from nodes.switch.alterations import altered, downgraded, false_answer, request_of

NETWORK = digest(b"a network")


def request() -> bytes:
    signer = Es256Signer(ec.generate_private_key(ec.SECP256R1()))
    node = node_id(signer.public)
    data = Data(network=NETWORK, node=node, counter=7, service="telemetry", payload=b"21.5")
    return sign_operation(data, signer)


@pytest.mark.parametrize("change", [altered, downgraded])
def test_no_change_opens_as_the_signers_and_each_differs(change: object) -> None:
    """300 trials are 300 distinct ones; all ways of altering are among them."""
    assert callable(change)
    body, rng = request(), Random(3)
    own = open_operation(body, NETWORK, Es256())
    made = [change(body, rng) for _ in range(300)]
    assert len({changed for changed, _ in made} | {body}) > 295
    for changed, _ in made:
        try:
            opened = open_operation(changed, NETWORK, Es256())
        except PeerFault:
            continue
        assert opened.spki != own.spki, "it opens, but as somebody else's"


def test_the_id_of_a_request_is_read_without_knowing_the_network() -> None:
    body = request()
    assert request_of(body) == open_operation(body, NETWORK, Es256()).id
    assert request_of(b"anything") is None


def frame() -> bytes:
    payload = encode([1, 2, 3000, [215], [1, 1]])
    return encode_frame(frame_body(kind_reading, 1, 9, payload), bytes(range(16)))


def test_altered_frames_come_first_have_a_good_crc_and_differ() -> None:
    middle = LineMiddle("alter", seed=1, copies=20)
    moved = middle.from_board(b"hello\0" + frame())
    chunks = [each for each in moved.to_host.split(b"\0") if each]
    assert chunks[0] == b"hello"
    assert chunks[-1] == frame()[:-1], "the board's own frame comes last"
    assert len(set(chunks)) == len(chunks) == 22
    assert all(isinstance(decode_line(each), Frame) for each in chunks[1:])
    assert len(middle.sent) == 20


def test_frames_are_dropped_delayed_and_reflected_whole() -> None:
    dropping = LineMiddle("drop", seed=1, copies=1)
    first, second = frame()[:5], frame()[5:]
    assert dropping.from_board(first).to_host == b""
    assert dropping.from_board(second).to_host == b""
    assert len(dropping.sent) == 1
    assert LineMiddle("delay", seed=1, copies=1).from_board(frame()).later == frame()
    back = LineMiddle("reflect", seed=1, copies=1).from_host(frame())
    assert back.to_board == frame()
    assert back.to_host == b"\0" + frame()


def test_false_answers_differ_from_the_true_receipt_or_prove_nothing() -> None:
    of, asked = digest(b"of"), digest(b"asked")
    receipt = of + b"\x01" * 40
    made = [false_answer(asked, receipt, of, Random(seed)) for seed in range(100)]
    receipts = {payload for kind, payload in made if kind == "receipt"}
    renamed = asked + b"\x01" * 40
    assert {receipt, renamed} < receipts, "an old one, also under the name of this request"
    assert all(sum(map(int.__ne__, each, renamed)) == 1 for each in receipts - {receipt, renamed})
    denials = [denied_codec.decode(payload) for kind, payload in made if kind == "denied"]
    assert {each.id for each in denials} == {asked}
    assert not any(each.verdicts or each.record for each in denials)
    assert {kind for kind, _ in [false_answer(asked, b"", b"", Random(n)) for n in range(9)]} == {
        "denied"
    }
