"""The X.509 carrier: OpenSSL sees possession, our verifier issuance, and nobody a CA."""

from __future__ import annotations

import base64
import contextlib
import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import assume, given
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from chain.ledger.possession import factory_key
from chain.proofs.certificate import PROOF_OID, carrier_certificate, proof_of, verify_carrier
from chain.proofs.proof import Proof, make_inclusion
from tests.chain.manufacturer import factory_refusal
from tests.chain.world import SECOND_US, START_US, World, private_key

HOUR_US = 3600 * SECOND_US


def issued() -> tuple[World, Proof]:
    world = World()
    world.admit("alice")
    block = world.blocks[0]
    return world, Proof(record=make_inclusion(block, 0, world.seals(block, 1, 2)), epochs=())


WORLD, PROOF = issued()
KEY = private_key("alice")
PEM = carrier_certificate(KEY, PROOF)
CARRIER = x509.load_pem_x509_certificate(PEM)


def test_the_carrier_says_what_the_chain_certified() -> None:
    statement = verify_carrier(PEM, WORLD.genesis)
    assert statement.kind == "mobile"
    subject = {each.oid: each.value for each in CARRIER.subject}
    assert subject == {
        NameOID.COMMON_NAME: statement.node.hex(),
        NameOID.SERIAL_NUMBER: f"{statement.certificate:x}",
    }
    assert CARRIER.issuer == CARRIER.subject
    assert CARRIER.serial_number == statement.certificate
    assert proof_of(CARRIER) == PROOF
    assert not CARRIER.extensions.get_extension_for_oid(PROOF_OID).critical


def test_openssl_accepts_it_as_the_device_s_own(tmp_path: Path) -> None:
    file = tmp_path / "dev.pem"
    file.write_bytes(PEM)
    command = ["openssl", "verify", "-no_check_time", "-purpose", "sslclient"]
    verified = subprocess.run(
        [*command, "-CAfile", str(file), str(file)], capture_output=True, text=True, check=True
    )
    assert verified.stdout.endswith("OK\n")


def test_validity_is_checked_when_a_time_is_given() -> None:
    start = START_US + SECOND_US
    verify_carrier(PEM, WORLD.genesis, at_us=start)
    verify_carrier(PEM, WORLD.genesis, at_us=start + HOUR_US)
    for at_us in (start - 1, start + HOUR_US + 1):
        with pytest.raises(PeerFault, match="expired"):
            verify_carrier(PEM, WORLD.genesis, at_us=at_us)


def rebuilt(key: Any = KEY, **changes: Any) -> bytes:
    """A certificate like the carrier, but for the changes, signed by `key`."""
    name = changes.get("name", CARRIER.subject)
    shift = changes.get("longer", datetime.timedelta())
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(changes.get("serial", CARRIER.serial_number))
        .not_valid_before(CARRIER.not_valid_before_utc)
        .not_valid_after(CARRIER.not_valid_after_utc + shift)
        .add_extension(
            x509.BasicConstraints(ca=changes.get("ca", False), path_length=None), critical=True
        )
        .add_extension(
            x509.ExtendedKeyUsage([changes.get("usage", ExtendedKeyUsageOID.CLIENT_AUTH)]),
            critical=False,
        )
    )
    value = changes.get("value", CARRIER.extensions.get_extension_for_oid(PROOF_OID).value)
    if value is not None:
        builder = builder.add_extension(value, critical=changes.get("critical", False))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def other_name() -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ab" * 32)])


def two_names() -> x509.Name:
    return x509.Name([*CARRIER.subject, *other_name()])


@pytest.mark.parametrize(
    ("what", "pem"),
    [
        ("CA:TRUE", rebuilt(ca=True)),
        ("another CN", rebuilt(name=other_name())),
        ("two CNs", rebuilt(name=two_names())),
        ("another key", rebuilt(key=private_key("mallory"))),
        ("another serial", rebuilt(serial=5)),
        ("a longer validity", rebuilt(longer=datetime.timedelta(seconds=1))),
        ("server use", rebuilt(usage=ExtendedKeyUsageOID.SERVER_AUTH)),
        ("no proof", rebuilt(value=None)),
        ("a critical proof", rebuilt(critical=True)),
        ("not DER", rebuilt(value=x509.UnrecognizedExtension(PROOF_OID, b"\x30\x00"))),
        ("an empty value", rebuilt(value=x509.UnrecognizedExtension(PROOF_OID, b""))),
        ("no certificate", b"nonsense"),
        ("oversize", bytes(1_000_000)),
    ],
)
def test_what_the_chain_did_not_certify_is_refused(what: str, pem: bytes) -> None:
    with pytest.raises(PeerFault):
        verify_carrier(pem, WORLD.genesis)


def test_the_rebuilt_certificate_without_changes_would_pass() -> None:
    assert verify_carrier(rebuilt(), WORLD.genesis).status == "ok"


def altered_certificate(der: bytes, draw: st.DataObject) -> bytes:
    """One or two bytes changed, or some cut out."""
    altered = bytearray(der)
    for _ in range(draw.draw(st.integers(1, 2))):
        altered[draw.draw(st.integers(0, len(altered) - 1))] ^= draw.draw(st.integers(1, 255))
    start = draw.draw(st.integers(0, len(altered)))
    del altered[start : start + draw.draw(st.sampled_from((0, 0, 1, 3)))]
    return bytes(altered)


@given(st.data())
def test_an_altered_carrier_is_refused_by_a_typed_error(draw: st.DataObject) -> None:
    altered = altered_certificate(CARRIER.public_bytes(serialization.Encoding.DER), draw)
    assume(altered != CARRIER.public_bytes(serialization.Encoding.DER))
    body = base64.encodebytes(altered)
    with pytest.raises(PeerFault):
        verify_carrier(
            b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n", WORLD.genesis
        )


@pytest.mark.parametrize("version", [1, 3, 16, 127])
def test_an_unheard_of_version_is_refused_too(version: int) -> None:
    """The library has an own error for it, outside ValueError."""
    der = CARRIER.public_bytes(serialization.Encoding.DER)
    at = der.index(b"\xa0\x03\x02\x01\x02") + 4
    body = base64.encodebytes(der[:at] + bytes([version]) + der[at + 1 :])
    pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
    with pytest.raises(PeerFault, match="bad-certificate"):
        verify_carrier(pem, WORLD.genesis)
    with pytest.raises(PeerFault, match="bad-voucher"):
        factory_key(der[:at] + bytes([version]) + der[at + 1 :])


@given(st.data())
def test_an_altered_factory_certificate_is_a_key_or_a_peer_fault(draw: st.DataObject) -> None:
    altered = altered_certificate(CARRIER.public_bytes(serialization.Encoding.DER), draw)
    with contextlib.suppress(PeerFault):
        factory_key(altered)
    assert factory_refusal((altered,), (altered,), START_US) in (
        None,
        "factory-chain",
        "factory-early",
        "factory-expired",
    )


def test_a_device_cannot_make_a_carrier_of_another_s_proof() -> None:
    with pytest.raises(Misuse):
        carrier_certificate(private_key("mallory"), PROOF)
