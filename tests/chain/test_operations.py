"""Signed operations: COSE_Sign1 that other implementations read and write, strict and fresh."""

from __future__ import annotations

from typing import Any

import cbor2
import cwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from chain.keys import Es256, digest, node_id
from chain.ledger.envelope import (
    COSE_BYTES_MAX,
    encode_operation,
    open_operation,
    read_operation,
    sign_operation,
)
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    CloseSession,
    Data,
    Enrol,
    EnrolBoard,
    Grant,
    OpenSession,
    Operation,
    RemoveReplica,
    Renew,
    Revoke,
    Token,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.possession import board_statement, renewal_statement, voucher_statement
from tests.chain.world import private_key, signer

NETWORK = digest(b"network")
SCHEME = Es256()
ALICE = signer("alice")
NEW = signer("alice's next key")
VOUCHER = signer("voucher")
NODE = node_id(ALICE.public)
RIGHTS: dict[str, Any] = {"privilege": 3, "services": ("telemetry",)}


def made(kind: type[Any], /, **fields: Any) -> Any:
    return kind(network=NETWORK, node=NODE, counter=7, **fields)


def enrolment() -> Enrol:
    statement = voucher_statement(NETWORK, ALICE.public, bytes(32))
    return Enrol(
        network=NETWORK,
        key=ALICE.public,
        kind="mobile",
        service="telemetry",
        privilege=1,
        validity_s=60,
        head=bytes(32),
        nonce=bytes(16),
        voucher=Token(key=VOUCHER.public, signature=VOUCHER.sign(statement)),
    )


DATA = made(Data, service="telemetry", payload=b"21.5 C", time_us=5, clock="ntp", board=bytes(32))
EVERY: list[Operation] = [
    enrolment(),
    DATA,
    made(
        EnrolBoard,
        board=b"\x01",
        firmware=bytes(32),
        key_check=bytes(8),
        service="telemetry",
        head=bytes(32),
        key=NEW.public,
        possession=NEW.sign(board_statement(NETWORK, NODE, b"\x01", bytes(32))),
    ),
    made(OpenSession, service="valve"),
    made(CloseSession, session=65_536),
    made(
        Renew,
        key=NEW.public,
        validity_s=60,
        possession=NEW.sign(renewal_statement(NETWORK, NODE, NEW.public)),
    ),
    made(Revoke, target=bytes(32), reason="lost"),
    made(Grant, target=bytes(32), privilege=3, services=("telemetry", "valve")),
    made(AddVoucher, voucher=bytes(32), kind="mobile", not_after_us=2**62, **RIGHTS),
    made(WithdrawVoucher, voucher=bytes(32)),
    made(AddFactoryRoot, certificate=bytes(2048), kinds=("mobile", "environment"), **RIGHTS),
    made(WithdrawFactoryRoot, root=bytes(32)),
    made(BarFactory, factory=bytes(32)),
    made(AddAdministrator, key=signer("administrator").public),
    made(AddReplica, replica=4, key=signer("replica 4").public),
    made(RemoveReplica, replica=3),
]


@pytest.mark.parametrize("operation", EVERY, ids=lambda each: type(each).__name__)
def test_every_operation_is_signed_and_opened(operation: Operation) -> None:
    opened = open_operation(sign_operation(operation, ALICE), NETWORK, SCHEME)
    assert opened.operation == operation
    assert opened.spki == ALICE.public
    assert opened.id == read_operation(sign_operation(operation, ALICE), NETWORK).id


@pytest.mark.parametrize("operation", EVERY, ids=lambda each: type(each).__name__)
def test_an_independent_cose_library_verifies_ours(operation: Operation) -> None:
    pem = (
        private_key("alice")
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    key = cwt.COSEKey.from_pem(pem, alg="ES256")
    cose = sign_operation(operation, ALICE)
    protected, unprotected, payload = cwt.COSE.new().decode_with_headers(cose, key)
    assert protected == {1: -7}
    assert unprotected == {-65537: ALICE.public}
    assert payload == encode_operation(operation)
    assert cbor2.dumps(cbor2.loads(payload), canonical=True) == payload


def test_we_open_what_an_independent_cose_library_signs() -> None:
    pem = private_key("alice").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key = cwt.COSEKey.from_pem(pem, alg="ES256")
    payload = cbor2.dumps(
        {
            "op": "data",
            "network": NETWORK,
            "node": NODE,
            "counter": 9,
            "service": "telemetry",
            "payload": b"from elsewhere",
        },
        canonical=True,
    )
    cose = cwt.COSE.new().encode_and_sign(
        payload, key, protected={1: -7}, unprotected={-65537: ALICE.public}
    )
    opened = open_operation(cose, NETWORK, SCHEME)
    assert isinstance(opened.operation, Data)
    assert opened.operation.payload == b"from elsewhere"


def test_the_signature_is_no_identifier() -> None:
    """(r, n-s) verifies too (ECDSA is malleable): the id stays the same."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    cose = sign_operation(DATA, ALICE)
    twisted = cose[:-32] + (order - int.from_bytes(cose[-32:], "big")).to_bytes(32, "big")
    assert open_operation(twisted, NETWORK, SCHEME).id == open_operation(cose, NETWORK, SCHEME).id


def fault_of(cose: bytes, network: bytes = NETWORK) -> str:
    with pytest.raises(PeerFault) as fault:
        open_operation(cose, network, SCHEME)
    return fault.value.code


def test_misplaced_and_altered_operations_are_refused_by_name() -> None:
    cose = sign_operation(DATA, ALICE)
    assert fault_of(cose, digest(b"another network")) == "wrong-network"
    assert fault_of(sign_operation(DATA, NEW)) == "wrong-node"
    assert fault_of(cose[:-1] + bytes([cose[-1] ^ 1])) == "bad-signature"
    assert fault_of(cose + b"\x00") == "bad-cose"
    assert fault_of(b"") == "bad-cose"
    assert fault_of(bytes(COSE_BYTES_MAX + 1)) == "oversize"
    assert fault_of(bytes(10_000_000)) == "oversize"


def test_an_intercepted_voucher_serves_no_other_key_head_or_network() -> None:
    genuine = enrolment()
    thief = msgspec.structs.replace(genuine, key=NEW.public)
    assert fault_of(sign_operation(thief, NEW)) == "bad-voucher"
    later = msgspec.structs.replace(genuine, head=digest(b"another head"))
    assert fault_of(sign_operation(later, ALICE)) == "bad-voucher"
    elsewhere = digest(b"another network")
    moved = msgspec.structs.replace(genuine, network=elsewhere)
    assert fault_of(sign_operation(moved, ALICE), elsewhere) == "bad-voucher"


def test_a_renewal_needs_the_new_key_s_own_signature() -> None:
    stolen = made(Renew, key=NEW.public, validity_s=60, possession=ALICE.sign(b"anything"))
    assert fault_of(sign_operation(stolen, ALICE)) == "bad-possession"


@given(st.sampled_from(EVERY), st.data())
def test_no_altered_bit_is_ever_accepted(operation: Operation, draw: st.DataObject) -> None:
    cose = bytearray(sign_operation(operation, ALICE))
    at = draw.draw(st.integers(0, len(cose) - 1))
    cose[at] ^= 1 << draw.draw(st.integers(0, 7))
    with pytest.raises(PeerFault):
        open_operation(bytes(cose), NETWORK, SCHEME)


@given(st.binary(max_size=300), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_peer_faults(data: bytes, dressed: bool) -> None:
    cose = sign_operation(DATA, ALICE)
    with pytest.raises(PeerFault):
        open_operation(cose[:100] + data + cose[-64:] if dressed else data, NETWORK, SCHEME)


def test_payloads_have_a_limit() -> None:
    big = made(Data, service="telemetry", payload=bytes(4096))
    assert open_operation(sign_operation(big, ALICE), NETWORK, SCHEME).operation == big
    bigger = made(Data, service="telemetry", payload=bytes(4097))
    assert fault_of(sign_operation(bigger, ALICE)) == "bad-cbor"
    with pytest.raises(Misuse):
        sign_operation(made(Data, service="telemetry", payload=bytes(17_000)), ALICE)
