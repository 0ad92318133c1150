"""The simulator's cheap signatures behave like the product's: one suite runs over both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chain.keys import SIGNATURE_BYTES, Es256, Es256Signer, Scheme, Signer, node_id
from testbed.simulate.scheme import HashScheme, HashSigner, malleated

_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Kind(NamedTuple):
    scheme: Scheme
    signers: tuple[Signer, Signer]
    other_form: Callable[[bytes], bytes]


def _negated(signature: bytes) -> bytes:
    s = int.from_bytes(signature[32:], "big")
    return signature[:32] + (_P256_ORDER - s).to_bytes(32, "big")


def _es256_signer(secret: int) -> Es256Signer:
    return Es256Signer(ec.derive_private_key(secret, ec.SECP256R1()))


KINDS = [
    pytest.param(Kind(Es256(), (_es256_signer(7), _es256_signer(8)), _negated), id="es256"),
    pytest.param(Kind(HashScheme(), (HashSigner("a"), HashSigner("b")), malleated), id="hash"),
]


@pytest.mark.parametrize("kind", KINDS)
class TestScheme:
    def test_a_signature_holds_for_its_key_and_data_only(self, kind: Kind) -> None:
        alice, bob = kind.signers
        signature = alice.sign(b"data")
        assert len(signature) == SIGNATURE_BYTES
        assert kind.scheme.verify(alice.public, b"data", signature)
        assert not kind.scheme.verify(bob.public, b"data", signature)
        assert not kind.scheme.verify(alice.public, b"datA", signature)

    def test_signing_is_deterministic(self, kind: Kind) -> None:
        alice, bob = kind.signers
        assert alice.sign(b"data") == alice.sign(b"data") != bob.sign(b"data")

    def test_every_flipped_bit_of_a_signature_is_seen(self, kind: Kind) -> None:
        alice, _ = kind.signers
        signature = alice.sign(b"data")
        for bit in range(SIGNATURE_BYTES * 8):
            flipped = bytearray(signature)
            flipped[bit // 8] ^= 1 << bit % 8
            assert not kind.scheme.verify(alice.public, b"data", bytes(flipped))

    def test_a_signature_is_malleable_and_so_never_an_identifier(self, kind: Kind) -> None:
        alice, _ = kind.signers
        signature = alice.sign(b"data")
        other = kind.other_form(signature)
        assert other != signature
        assert kind.other_form(other) == signature
        assert kind.scheme.verify(alice.public, b"data", other)

    def test_public_keys_are_der_p256_sized_and_distinct(self, kind: Kind) -> None:
        alice, bob = kind.signers
        prefix = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
        assert alice.public.startswith(prefix)
        assert len(alice.public) == len(prefix) + 64
        assert node_id(alice.public) != node_id(bob.public)

    @given(public=st.binary(max_size=100), data=st.binary(), signature=st.binary(max_size=70))
    def test_garbage_is_false_and_never_raises(
        self, kind: Kind, public: bytes, data: bytes, signature: bytes
    ) -> None:
        assert not kind.scheme.verify(public, data, signature)
