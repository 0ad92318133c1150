"""The COSE_Sign1 envelope of an operation: signing it, opening it, checking its signatures.

An envelope (RFC 9052, section 4.2) has one form and is cut by offset:

    18([ h'a10126',                  protected: {1: -7}, ES256
         {-65537: h'<SPKI DER>'},    unprotected: the signer's key, label from the private range
         h'<payload>',               deterministic CBOR map with text keys and an "op" tag
         h'<signature>' ])           64 bytes, r || s, over the Sig_structure; empty external_aad

The id of a request is the SHA-256 of its Sig_structure, because a signature is malleable. The
operations themselves are in `operations`, batch items and endorsements in `item`.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from chain.canonical import Codec
from chain.errors import Misuse, PeerFault
from chain.keys import SIGNATURE_BYTES, Scheme, Signer, digest, node_id
from chain.ledger.operations import Data, Enrol, EnrolBoard, Operation, Renew, voucher_key
from chain.ledger.possession import board_statement, renewal_statement, voucher_statement

__all__ = [
    "COSE_BYTES_MAX",
    "Opened",
    "SignatureClaim",
    "encode_operation",
    "false_claim",
    "open_operation",
    "read_claims",
    "read_operation",
    "sign_operation",
    "signed_content",
]

COSE_BYTES_MAX = 16_384


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


class SignatureClaim(NamedTuple):
    """A signature to check. `code` and `text` are the fault if it is not valid."""

    key: bytes
    data: bytes
    signature: bytes
    code: str
    text: str


def false_claim(claims: list[SignatureClaim], scheme: Scheme) -> PeerFault | None:
    """The fault of the first signature that is not valid, None if all are valid."""
    for key, data, signature, code, text in claims:
        if not scheme.verify(key, data, signature):
            return PeerFault(code, text)
    return None


def read_claims(cose: bytes, network: bytes) -> tuple[Opened, list[SignatureClaim]]:
    """Decodes, and returns the signatures to check: the signer's, and that of the voucher or of
    the new key inside. Raises PeerFault: as `read_operation`, and "bad-voucher"."""
    spki, header, payload, signature = _cut(cose)
    opened = _opened(spki, header, payload, network)
    text = "the device's signature is not valid"
    claims = [SignatureClaim(spki, _SIG_STRUCTURE + header, signature, "bad-signature", text)]
    operation = opened.operation
    if type(operation) is Data:
        return opened, claims  # the most common operations have only this signature
    if isinstance(operation, Enrol):
        claims.append(_voucher_claim(operation))
    elif isinstance(operation, Renew):
        key, statement = operation.key, renewal_statement(network, operation.node, operation.key)
        text = "the new key did not sign"
        claims.append(SignatureClaim(key, statement, operation.possession, "bad-possession", text))
    elif isinstance(operation, EnrolBoard):
        statement = board_statement(network, operation.node, operation.board, operation.head)
        text = "the board's key did not sign"
        claims.append(
            SignatureClaim(operation.key, statement, operation.possession, "bad-possession", text)
        )
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


def _voucher_claim(operation: Enrol) -> SignatureClaim:
    voucher = operation.voucher
    key = voucher_key(voucher)
    statement = voucher_statement(operation.network, operation.key, operation.head)
    text = "the voucher's key did not sign for this device key"
    return SignatureClaim(key, statement, voucher.signature, "bad-voucher", text)
