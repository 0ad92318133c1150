"""Keys: ES256 as others know it, deterministic, and strict about what is a key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.keys import SIGNATURE_BYTES, Es256, Es256Signer, digest, node_id, pem_of, spki_of
from tests.chain.world import private_key, signer

ALICE = signer("alice")
SCHEME = Es256()


def test_a_signature_is_deterministic_and_verifies() -> None:
    signature = ALICE.sign(b"data")
    assert signature == signer("alice").sign(b"data")
    assert len(signature) == SIGNATURE_BYTES
    assert SCHEME.verify(ALICE.public, b"data", signature)


def test_the_rfc_6979_vector_comes_out() -> None:
    """RFC 6979, appendix A.2.5: P-256, SHA-256, message "sample"."""
    secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
    signature = Es256Signer(ec.derive_private_key(secret, ec.SECP256R1())).sign(b"sample")
    assert signature.hex().upper() == (
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"
    )


@given(st.binary(max_size=80), st.binary(max_size=100), st.binary(max_size=40))
def test_verifying_garbage_is_false_and_never_raises(
    signature: bytes, key: bytes, data: bytes
) -> None:
    assert not SCHEME.verify(ALICE.public, data, signature)
    assert not SCHEME.verify(key, data, ALICE.sign(data))


@given(st.binary(max_size=40), st.integers(0, SIGNATURE_BYTES * 8 - 1))
def test_no_altered_bit_of_a_signature_verifies(data: bytes, bit: int) -> None:
    altered = bytearray(ALICE.sign(data))
    altered[bit // 8] ^= 1 << (bit % 8)
    assert not SCHEME.verify(ALICE.public, data, bytes(altered))


def test_a_key_has_one_encoding() -> None:
    """The compressed point is the same key, but would be another node id."""
    numbers = private_key("alice").public_key()
    compressed = numbers.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
    )
    algorithm = ALICE.public[2:23]
    bits = b"\x03" + bytes([len(compressed) + 1]) + b"\x00" + compressed
    other = b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits
    assert serialization.load_der_public_key(other) == numbers
    assert not SCHEME.verify(other, b"data", ALICE.sign(b"data"))


def test_other_curves_are_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(PeerFault, match="bad-key"):
        Es256Signer(other)
    assert not SCHEME.verify(spki_of(other.public_key()), b"data", ALICE.sign(b"data"))


def test_a_node_id_is_the_hash_of_the_key_and_openssl_reads_its_pem(tmp_path: Path) -> None:
    assert node_id(ALICE.public) == digest(ALICE.public)
    (tmp_path / "key.pem").write_bytes(pem_of(ALICE.public))
    command = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "key.pem"), "-outform", "DER"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == ALICE.public


def test_a_signer_does_not_print_its_secret() -> None:
    secret = private_key("alice").private_numbers().private_value
    assert repr(ALICE) == f"Es256Signer({node_id(ALICE.public).hex()[:16]})"
    assert str(secret) not in repr(vars(ALICE))
