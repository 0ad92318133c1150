"""What travels over MQTT: one encoding each, and hostile bytes are a PeerFault and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from gateway.bridge.edge import (
    Admitted,
    Ask,
    Denial,
    Part,
    Stamped,
    SyncRequest,
    admitted_codec,
    ask_codec,
    denied_codec,
    part_codec,
    stamped_codec,
    sync_codec,
)
from gateway.broker.credentials import open_password, seal_password
from tests.chain.world import private_key, signer

EXAMPLES: list[tuple[Any, Any]] = [
    (ask_codec, Ask(kind="op", body=b"signed")),
    (ask_codec, Ask(kind="op", body=b"signed", tries=1)),
    (stamped_codec, Stamped(n=7, boot=3, at_ms=1, body=b"signed", tries=255)),
    (stamped_codec, Stamped(n=7, boot=3, at_ms=1, body=b"signed")),
    (sync_codec, SyncRequest(start=5, bodies=True)),
    (admitted_codec, Admitted(receipt=b"proof", sealed_password=b"sealed")),
    (denied_codec, Denial(id=bytes(32), layer="group", reason="used-voucher")),
    (part_codec, Part(start=1, stop=2, tip=3, part=0, parts=1, data=b"blocks")),
]


@pytest.mark.parametrize(("codec", "value"), EXAMPLES)
def test_each_message_is_plain_deterministic_cbor(codec: Any, value: Any) -> None:
    """An independent CBOR library reads it as a map, and writes the same bytes."""
    encoded = codec.encode(value)
    plain = cbor2.loads(encoded)
    fields = type(value).__struct_fields__
    assert set(plain) == {name for name in fields if getattr(value, name) is not None}
    assert cbor2.dumps(plain, canonical=True) == encoded
    assert codec.decode(encoded) == value


@given(st.sampled_from(EXAMPLES), st.binary(max_size=300))
def test_any_bytes_are_a_message_or_a_peer_fault(example: tuple[Any, Any], junk: bytes) -> None:
    codec, _ = example
    with contextlib.suppress(PeerFault):
        assert codec.encode(codec.decode(junk)) == junk


@given(st.sampled_from(EXAMPLES), st.data())
def test_bent_messages_too(example: tuple[Any, Any], data: st.DataObject) -> None:
    codec, value = example
    good = codec.encode(value)
    at = data.draw(st.integers(0, len(good) - 1))
    bent = good[:at] + bytes((data.draw(st.integers(0, 255)),)) + good[at + 1 :]
    cut = bent[: data.draw(st.integers(0, len(bent)))]
    with contextlib.suppress(PeerFault):
        assert codec.encode(codec.decode(cut)) == cut


@pytest.mark.parametrize(("codec", "value"), EXAMPLES)
def test_ten_megabytes_are_refused_by_their_length(codec: Any, value: Any) -> None:
    del value
    with pytest.raises(PeerFault) as fault:
        codec.decode(bytes(10 * 1024 * 1024))
    assert fault.value.code == "oversize"


@given(st.binary(max_size=200))
def test_a_sealed_password_opens_with_its_key_and_nothing_else(junk: bytes) -> None:
    sealed = seal_password("password", signer("phone").public)
    assert open_password(sealed, private_key("phone")) == "password"
    for wrong, key in ((sealed, "other"), (junk, "phone"), (sealed[:-1], "phone")):
        with pytest.raises(PeerFault):
            open_password(wrong, private_key(key))
