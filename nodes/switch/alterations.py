"""Changes that a man in the middle can make to a signed request: a seed chooses, no two are equal.

A request is a COSE_Sign1 of one form, cut by offset (`chain.ledger.envelope`). He changes a signed
field, the signature, the signer's key or any byte; or he signs a changed field with his own key. A
downgrade names a weaker algorithm, or takes the signature away. This module also has the false
answers that he can give a device.
"""

from __future__ import annotations

from random import Random

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from chain.errors import PeerFault
from chain.keys import SIGNATURE_BYTES, Es256Signer
from chain.ledger.envelope import Opened, read_operation, sign_operation
from chain.ledger.operations import Data, Enrol, Operation
from gateway.bridge.edge import Denial, denied_codec
from gateway.refusing import refusing

__all__ = ["altered", "downgraded", "false_answer", "request_of"]


_NETWORK = b"gnetworkX "  # key and head of the field, in CBOR
_ES256 = bytes.fromhex("43a10126")  # protected header {1: -7}
_WEAKER = ("43a10100", "43a10104", "43a10105", "43a1012f", "43a10138", "43a10118")


def altered(body: bytes, rng: Random) -> tuple[bytes, str]:
    """(changed body, a name of the change)."""
    ways = (_field, _resigned, _signature, _bit, _bit, _cut)
    changed, what = rng.choice(ways)(body, rng)
    return (changed, what) if changed != body else _bit(body, rng)


def downgraded(body: bytes, rng: Random) -> tuple[bytes, str]:
    """Like `altered`, but towards less security. A random signature makes each one different."""
    if rng.random() < 0.5:
        head = bytes.fromhex(rng.choice(_WEAKER))
        noise = rng.randbytes(SIGNATURE_BYTES)
        return body.replace(_ES256, head, 1)[:-SIGNATURE_BYTES] + noise, "algorithm"
    changed, _ = _field(body, rng)
    return changed[: -SIGNATURE_BYTES + rng.randrange(SIGNATURE_BYTES)], "no-signature"


def false_answer(request: bytes, receipt: bytes, of: bytes, rng: Random) -> tuple[str, bytes]:
    """(kind, payload) of an answer to a request that the chain never got. `receipt` is a true one,
    of the request `of`; without one there are only denials."""
    ways = ["denial", "old", "renamed", "bit"] if receipt else ["denial"]
    match rng.choice(ways):
        case "old":
            return "receipt", receipt
        case "renamed":
            return "receipt", receipt.replace(of, request)
        case "bit":
            return "receipt", _bit(receipt.replace(of, request), rng)[0]
    reason = rng.choice(("revoked", "unknown-node", "service", "expired"))
    return "denied", denied_codec.encode(Denial(id=request, layer="group", reason=reason))


def request_of(body: bytes) -> bytes | None:
    """The id of the request that a body asks for; None if it cannot be read."""
    opened = _opened(body)
    return None if opened is None else opened.id


def _opened(body: bytes) -> Opened | None:
    """The operation in the body. The network's id is taken from the body too."""
    at = body.find(_NETWORK) + len(_NETWORK)
    try:
        with refusing():
            return read_operation(body, body[at : at + 32])
    except PeerFault:
        return None


def _forged(body: bytes, rng: Random) -> tuple[bytes, Es256Signer, str] | None:
    """The request with one field changed and signed with a key of his own; that key; the field."""
    opened = _opened(body)
    if opened is None:
        return None
    changed, what = _changed(opened.operation, rng)
    own = Es256Signer(ec.generate_private_key(ec.SECP256R1()))
    return sign_operation(changed, own), own, what


def _changed(operation: Operation, rng: Random) -> tuple[Operation, str]:
    if isinstance(operation, Data):
        what = rng.choice(("payload", "counter", "service"))
        value: object = {
            "payload": operation.payload + b" " + str(rng.random()).encode(),
            "counter": operation.counter + rng.randint(1, 10**9),
            "service": f"valve-{rng.randrange(10**9)}",
        }[what]
    elif isinstance(operation, Enrol):
        what = rng.choice(("privilege", "nonce", "validity_s"))
        value = {
            "privilege": (operation.privilege + rng.randint(1, 5)) % 255,
            "nonce": rng.randbytes(16),
            "validity_s": rng.randint(1, 2**30),
        }[what]
    else:
        what, value = "counter", getattr(operation, "counter", 0) + rng.randint(1, 10**9)
    return msgspec.structs.replace(operation, **{what: value}), what


def _field(body: bytes, rng: Random) -> tuple[bytes, str]:
    """Changes one field. Key and signature stay: the signature is for the old content."""
    forged = _forged(body, rng)
    if forged is None:
        return _bit(body, rng)
    made, own, what = forged
    key_at = body.find(bytes.fromhex("3059"))
    key = body[key_at : key_at + len(own.public)]
    return made.replace(own.public, key, 1)[:-SIGNATURE_BYTES] + body[-SIGNATURE_BYTES:], what


def _resigned(body: bytes, rng: Random) -> tuple[bytes, str]:
    """Changes one field and signs it with a key of his own, which he puts into the envelope."""
    forged = _forged(body, rng)
    if forged is None:
        return _bit(body, rng)
    made, _, what = forged
    return made, f"{what}-resigned"


def _signature(body: bytes, rng: Random) -> tuple[bytes, str]:
    return body[:-SIGNATURE_BYTES] + rng.randbytes(SIGNATURE_BYTES), "signature"


def _bit(body: bytes, rng: Random) -> tuple[bytes, str]:
    at = rng.randrange(len(body))
    flipped = body[at] ^ (1 << rng.randrange(8))
    return body[:at] + bytes((flipped,)) + body[at + 1 :], "bit"


def _cut(body: bytes, rng: Random) -> tuple[bytes, str]:
    return body[: rng.randrange(1, len(body))] + rng.randbytes(rng.randrange(9)), "cut"
