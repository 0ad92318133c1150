"""What a traced process counts: messages by kind and party, signatures, its own use."""

from __future__ import annotations

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chain.keys import Es256, Es256Signer
from chain.pbft.messages import (
    Batch,
    Busy,
    Commit,
    PrePrepare,
    Signed,
    Submit,
    Subscribe,
    encode,
)
from nodes.usage import CountedScheme, CountedSigner, usage
from nodes.wire.tally import OTHER, Tally, kind_of

SIGNATURE = bytes(64)


def test_the_kind_of_a_frame_is_that_of_its_message() -> None:
    commit = Commit(0, 1, 2, 3, bytes(32))
    proposal = PrePrepare(0, 1, 2, 3, bytes(32))
    large = Signed(encode(Batch(0, 1, bytes(70_000))), SIGNATURE)
    assert kind_of(encode(Signed(encode(commit), SIGNATURE))) == "Commit"
    assert kind_of(encode(Signed(encode(proposal), SIGNATURE, bytes(300)))) == "PrePrepare"
    assert kind_of(encode(large)) == "Batch"
    for message in (Submit(bytes(500)), Subscribe(1, False), Busy(bytes(32))):
        assert kind_of(encode(message)) == type(message).__name__
    body = msgspec.msgpack.encode(["S", *[0] * 14])  # the most fields with a head of one byte
    assert kind_of(encode(Signed(body, SIGNATURE))) == "StatusMessage"


@given(st.binary(max_size=80))
def test_any_bytes_have_a_kind(frame: bytes) -> None:
    assert kind_of(frame)


def test_a_stranger_s_kinds_do_not_make_the_table_grow() -> None:
    tally = Tally()
    for number in range(100):
        tally.add(tally.received, 3, msgspec.msgpack.encode([f"kind {number}"]))
    tally.add(tally.sent, "gateway", encode(Busy(bytes(32))))
    assert list(tally.received) == [(3, OTHER)]
    fields = tally.as_fields()
    assert fields["received"][f"3/{OTHER}"][0] == 100
    assert fields["sent"] == {"gateway/Busy": [1, len(encode(Busy(bytes(32))))]}


def test_signatures_are_counted_and_what_they_say_stays() -> None:
    signer = CountedSigner(Es256Signer(ec.generate_private_key(ec.SECP256R1())))
    scheme = CountedScheme(Es256())
    signature = signer.sign(b"data")
    assert scheme.verify(signer.public, b"data", signature)
    assert not scheme.verify(signer.public, b"other", signature)
    assert (signer.made, scheme.checked) == (1, 2)


def test_a_process_knows_its_own_use() -> None:
    used = usage()
    assert isinstance(used["cpu_s"], float)
    assert isinstance(used["rss_mb"], float)
    assert 0 < used["rss_mb"] <= used["rss_max_mb"] * 1.05
