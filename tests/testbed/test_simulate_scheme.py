"""The simulator's cheap signatures behave like the product's: one suite runs over both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.keys import SIGNATURE_BYTES, Signer, node_id
from testbed.simulate.scheme import CHEAP, REAL, Signatures

KINDS = [
    pytest.param(REAL, id="es256"),
    pytest.param(CHEAP, id="cheap"),
]


def _pair(kind: Signatures) -> tuple[Signer, Signer]:
    return kind.signer("alice"), kind.signer("bob")


@pytest.mark.parametrize("kind", KINDS)
class TestScheme:
    def test_a_signature_holds_for_its_key_and_data_only(self, kind: Signatures) -> None:
        alice, bob = _pair(kind)
        signature = alice.sign(b"data")
        assert len(signature) == SIGNATURE_BYTES
        assert kind.scheme.verify(alice.public, b"data", signature)
        assert not kind.scheme.verify(bob.public, b"data", signature)
        assert not kind.scheme.verify(alice.public, b"datA", signature)

    def test_signing_is_deterministic(self, kind: Signatures) -> None:
        alice, bob = _pair(kind)
        assert alice.sign(b"data") == alice.sign(b"data") != bob.sign(b"data")

    def test_every_flipped_bit_of_a_signature_is_seen(self, kind: Signatures) -> None:
        alice, _ = _pair(kind)
        signature = alice.sign(b"data")
        for bit in range(SIGNATURE_BYTES * 8):
            flipped = bytearray(signature)
            flipped[bit // 8] ^= 1 << bit % 8
            assert not kind.scheme.verify(alice.public, b"data", bytes(flipped))

    def test_a_signature_is_malleable_and_so_never_an_identifier(self, kind: Signatures) -> None:
        alice, _ = _pair(kind)
        signature = alice.sign(b"data")
        other = kind.other_form(signature)
        assert other != signature
        assert kind.other_form(other) == signature
        assert kind.scheme.verify(alice.public, b"data", other)

    def test_public_keys_are_der_p256_sized_and_distinct(self, kind: Signatures) -> None:
        alice, bob = _pair(kind)
        prefix = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
        assert alice.public.startswith(prefix)
        assert len(alice.public) == len(prefix) + 64
        assert node_id(alice.public) != node_id(bob.public)

    @given(public=st.binary(max_size=100), data=st.binary(), signature=st.binary(max_size=70))
    def test_garbage_is_false_and_never_raises(
        self, kind: Signatures, public: bytes, data: bytes, signature: bytes
    ) -> None:
        assert not kind.scheme.verify(public, data, signature)
