"""What devices, administrators and operators sign: closed operations in COSE_Sign1 envelopes.

An envelope (RFC 9052, section 4.2) has one form and is cut by offset:

    18([ h'a10126',                  protected: {1: -7}, ES256
         {-65537: h'<SPKI DER>'},    unprotected: the signer's key, label from the private range
         h'<payload>',               deterministic CBOR map with text keys and an "op" tag
         h'<signature>' ])           64 bytes, r || s, over the Sig_structure; empty external_aad

The id of a request is the SHA-256 of its Sig_structure, because a signature is malleable. What an
operation does is in `rules`; batch items and endorsements are in `item`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import msgspec

from chain.canonical import Codec
from chain.errors import Misuse, PeerFault
from chain.fields import (
    Counter,
    Der,
    DeviceKind,
    Hash,
    Kinds,
    Privilege,
    ReplicaId,
    Services,
    Signature,
    Spki,
    Text,
    Time,
)
from chain.keys import SIGNATURE_BYTES, Scheme, Signer, digest, node_id
from chain.ledger.possession import (
    board_statement,
    factory_key,
    renewal_statement,
    voucher_statement,
)

__all__ = [
    "COSE_BYTES_MAX",
    "DATA_BYTES_MAX",
    "SPKI_HEADER",
    "AddAdministrator",
    "AddFactoryRoot",
    "AddReplica",
    "AddVoucher",
    "BarFactory",
    "Claim",
    "CloseSession",
    "Data",
    "Enrol",
    "EnrolBoard",
    "Factory",
    "Grant",
    "OpenSession",
    "Opened",
    "Operation",
    "RemoveReplica",
    "Renew",
    "Revoke",
    "Token",
    "WithdrawFactoryRoot",
    "WithdrawVoucher",
    "encode_operation",
    "false_claim",
    "open_operation",
    "read_claims",
    "read_operation",
    "sign_operation",
    "signed_content",
    "voucher_key",
]

DATA_BYTES_MAX = 4096
COSE_BYTES_MAX = 16_384
SPKI_HEADER = -65537


class Token(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="by",
    tag="token",
):
    """A single-use enrolment token: the holder of `key` vouches for one device key."""

    key: Spki
    signature: Signature


class Factory(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="by",
    tag="factory",
):
    """An IDevID (IEEE 802.1AR): DER certificates, the device's first, up to below the root."""

    chain: Annotated[tuple[Der, ...], msgspec.Meta(min_length=1, max_length=3)]
    signature: Signature


class _Operation(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="op",
    tag=True,
    gc=False,
):
    network: Hash


class _Signed(_Operation, frozen=True, kw_only=True):
    """Signed by an identity on the chain. `counter` is higher than any that it used before."""

    node: Hash
    counter: Counter


class Enrol(_Operation, frozen=True, kw_only=True, tag="enrol"):
    """Asks for access. `head` is recent, which makes it fresh; the nonce makes its id unique."""

    key: Spki
    kind: DeviceKind
    service: Text
    privilege: Privilege
    validity_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    head: Hash
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    voucher: Token | Factory

    @property
    def node(self) -> bytes:
        return node_id(self.key)

    @property
    def counter(self) -> int:
        """Enrolments have none; 0 is below every counter that is used."""
        return 0


class EnrolBoard(_Signed, frozen=True, kw_only=True, tag="enrol-board"):
    """An environmental device sponsors a sensor board. It will sign the board's readings. `board`
    is what people call it. `key` is derived from the secret that board and device share, and signs
    `possession`: without the secret nobody enrols the board."""

    board: Annotated[bytes, msgspec.Meta(min_length=1, max_length=32)]
    firmware: Hash
    key_check: Annotated[bytes, msgspec.Meta(min_length=8, max_length=32)]
    service: Text
    head: Hash
    key: Spki
    possession: Signature


class Data(_Signed, frozen=True, kw_only=True, tag="data"):
    """A reading. `board` is the node id of the board that it came from. `time_us` and `clock` are
    the device's claim; the record also has the consensus time."""

    service: Text
    payload: Annotated[bytes, msgspec.Meta(max_length=DATA_BYTES_MAX)]
    board: Hash | None = None
    time_us: Time | None = None
    clock: Literal["none", "boot", "ntp", "rtc"] | None = None


class OpenSession(_Signed, frozen=True, kw_only=True, tag="open"):
    service: Text


class CloseSession(_Signed, frozen=True, kw_only=True, tag="close"):
    """`session` is the serial in the record that opened it."""

    session: Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Renew(_Signed, frozen=True, kw_only=True, tag="renew"):
    """The old key hands over to `key`, which may be the same. The new key signs `possession`."""

    key: Spki
    validity_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    possession: Signature


class Revoke(_Signed, frozen=True, kw_only=True, tag="revoke"):
    """Ends a device, under whatever key it is now: `target` is any node id that it ever had. Or
    ends a board."""

    target: Hash
    reason: Text


class Grant(_Signed, frozen=True, kw_only=True, tag="grant"):
    """Replaces a device's privilege and services; its certificate is issued anew, for the key that
    it has by then. `target` is any node id that it ever had."""

    target: Hash
    privilege: Privilege
    services: Services


class AddVoucher(_Signed, frozen=True, kw_only=True, tag="add-voucher"):
    """`voucher` is the SHA-256 of the token's SPKI. It admits one device of `kind`."""

    voucher: Hash
    kind: DeviceKind
    privilege: Privilege
    services: Services
    not_after_us: Time


class WithdrawVoucher(_Signed, frozen=True, kw_only=True, tag="withdraw-voucher"):
    voucher: Hash


class AddFactoryRoot(_Signed, frozen=True, kw_only=True, tag="add-root"):
    """Devices with a factory certificate that leads to this root may enrol."""

    certificate: Der
    kinds: Kinds
    privilege: Privilege
    services: Services


class WithdrawFactoryRoot(_Signed, frozen=True, kw_only=True, tag="withdraw-root"):
    """`root` is the SHA-256 of the certificate. Devices that it admitted stay."""

    root: Hash


class BarFactory(_Signed, frozen=True, kw_only=True, tag="bar-factory"):
    """The factory identity `factory` (`ledger.factory.factory_id`) admits nobody any more."""

    factory: Hash


class AddAdministrator(_Signed, frozen=True, kw_only=True, tag="add-admin"):
    key: Spki


class AddReplica(_Signed, frozen=True, kw_only=True, tag="add-replica"):
    replica: ReplicaId
    key: Spki


class RemoveReplica(_Signed, frozen=True, kw_only=True, tag="remove-replica"):
    replica: ReplicaId


Operation = (
    Enrol
    | EnrolBoard
    | Data
    | OpenSession
    | CloseSession
    | Renew
    | Revoke
    | Grant
    | AddVoucher
    | WithdrawVoucher
    | AddFactoryRoot
    | WithdrawFactoryRoot
    | BarFactory
    | AddAdministrator
    | AddReplica
    | RemoveReplica
)


class Opened(msgspec.Struct, frozen=True, gc=False):
    """An operation out of its envelope. `id` is the request id, `spki` the signer's key."""

    operation: Operation
    spki: bytes
    id: bytes


_codec: Codec[Operation] = Codec(Operation, COSE_BYTES_MAX)
encode_operation = _codec.encode

_ENVELOPE = b"\xd2\x84\x43\xa1\x01\x26\xa1\x3a\x00\x01\x00\x00\x58"
_SPKI_AT = len(_ENVELOPE) + 1
_SIGNATURE_HEAD = b"\x58\x40"
_SIG_STRUCTURE = b"\x84\x6aSignature1\x43\xa1\x01\x26\x40"


def _bstr(data: bytes) -> bytes:
    """A payload's header and bytes; payloads are 24 to 65,535 bytes long."""
    width = 1 if len(data) < 0x100 else 2
    return bytes((0x57 + width,)) + len(data).to_bytes(width, "big") + data


def sign_operation(operation: Operation, signer: Signer) -> bytes:
    """The COSE_Sign1 envelope of `operation`. Raises Misuse if it is oversize."""
    payload = _bstr(_codec.encode(operation))
    spki = signer.public
    signature = signer.sign(_SIG_STRUCTURE + payload)
    cose = _ENVELOPE + bytes((len(spki),)) + spki + payload + _SIGNATURE_HEAD + signature
    if len(cose) > COSE_BYTES_MAX:
        raise Misuse(f"{len(cose)} bytes, at most {COSE_BYTES_MAX}")
    return cose


def _cut(cose: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """SPKI, payload with its CBOR header, bare payload, signature."""
    if len(cose) > COSE_BYTES_MAX:
        raise PeerFault("oversize", f"{len(cose)} bytes, at most {COSE_BYTES_MAX}")
    end = len(cose) - SIGNATURE_BYTES - len(_SIGNATURE_HEAD)
    if end < _SPKI_AT + 2 or not cose.startswith(_ENVELOPE):
        raise PeerFault("bad-cose", "not the one form of COSE_Sign1 that is used here")
    start = _SPKI_AT + cose[_SPKI_AT - 1]
    spki = cose[_SPKI_AT:start]
    header = cose[start:end]
    skip = 2 if header[:1] == b"\x58" else 3
    payload = header[skip:]
    if (
        start + skip > end
        or len(spki) < 32
        or cose[end : end + 2] != _SIGNATURE_HEAD
        or _bstr(payload) != header
    ):
        raise PeerFault("bad-cose", "lengths do not match")
    return spki, header, payload, cose[end + 2 :]


def signed_content(cose: bytes) -> tuple[bytes, bytes]:
    """The Sig_structure that the signer signed and the 64-byte signature. Raises PeerFault."""
    _, header, _, signature = _cut(cose)
    return _SIG_STRUCTURE + header, signature


def read_operation(cose: bytes, network: bytes) -> Opened:
    """Decodes without verifying any signature: for bytes that a trusted head commits to.

    Raises PeerFault: "bad-cose", "bad-cbor", "oversize", "wrong-network", "wrong-node".
    """
    spki, header, payload, _ = _cut(cose)
    return _opened(spki, header, payload, network)


def _opened(spki: bytes, header: bytes, payload: bytes, network: bytes) -> Opened:
    operation = _codec.decode(payload)
    if operation.network != network:
        raise PeerFault("wrong-network", "signed for another network")
    if operation.node != node_id(spki):
        raise PeerFault("wrong-node", "the node id is not the hash of the signer's key")
    return Opened(operation, spki, digest(_SIG_STRUCTURE + header))


class Claim(NamedTuple):
    """A signature to check. `code` and `text` are the fault if it does not hold."""

    key: bytes
    data: bytes
    signature: bytes
    code: str
    text: str


def false_claim(claims: list[Claim], scheme: Scheme) -> PeerFault | None:
    """The fault of the first claim that does not hold, None if all hold."""
    for key, data, signature, code, text in claims:
        if not scheme.verify(key, data, signature):
            return PeerFault(code, text)
    return None


def read_claims(cose: bytes, network: bytes) -> tuple[Opened, list[Claim]]:
    """Decodes, and returns the signatures to check: the signer's, and that of the voucher or of
    the new key inside. Raises PeerFault: as `read_operation`, and "bad-voucher"."""
    spki, header, payload, signature = _cut(cose)
    opened = _opened(spki, header, payload, network)
    text = "the device's signature does not hold"
    claims = [Claim(spki, _SIG_STRUCTURE + header, signature, "bad-signature", text)]
    operation = opened.operation
    if isinstance(operation, Enrol):
        claims.append(_voucher_claim(operation))
    elif isinstance(operation, Renew):
        key, statement = operation.key, renewal_statement(network, operation.node, operation.key)
        text = "the new key did not sign"
        claims.append(Claim(key, statement, operation.possession, "bad-possession", text))
    elif isinstance(operation, EnrolBoard):
        statement = board_statement(network, operation.node, operation.board, operation.head)
        text = "the board's key did not sign"
        claims.append(Claim(operation.key, statement, operation.possession, "bad-possession", text))
    return opened, claims


def open_operation(cose: bytes, network: bytes, scheme: Scheme) -> Opened:
    """Decodes and verifies.

    Raises PeerFault: as `read_operation`, and "bad-signature", "bad-voucher", "bad-possession".
    """
    opened, claims = read_claims(cose, network)
    fault = false_claim(claims, scheme)
    if fault is not None:
        raise fault
    return opened


def _voucher_claim(operation: Enrol) -> Claim:
    voucher = operation.voucher
    key = voucher_key(voucher)
    statement = voucher_statement(operation.network, operation.key, operation.head)
    text = "the voucher's key did not sign for this device key"
    return Claim(key, statement, voucher.signature, "bad-voucher", text)


def voucher_key(voucher: Token | Factory) -> bytes:
    """SPKI of the key that vouches. Raises PeerFault("bad-voucher")."""
    return voucher.key if isinstance(voucher, Token) else factory_key(voucher.chain[0])
