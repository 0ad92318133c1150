"""The messages between the baseline's devices and their provider.

    device   -> gateway   `up/<relay>/<device>/call`    Stamped (`gateway.bridge.edge`): a Call
    gateway  -> provider  TLS link                      Carried: the device's name and its Call
    provider -> gateway   TLS link                      Carried: the device's name and the Reply
    gateway  -> device    `rsp/<device>/answer`         Reply

A device is its own relay. Calls and answers carry a MAC. A device enrols with its token: the
provider makes the device's key, keeps it and sends it back encrypted under the token. Later calls
carry a MAC under this key and a rising counter. Anybody who has the key can make every message of
the device, and every receipt.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from chain.canonical import Codec
from chain.errors import PeerFault

__all__ = [
    "ANSWER",
    "CALL",
    "KEY_BYTES",
    "OK",
    "Call",
    "CallKind",
    "Carried",
    "Reply",
    "answer",
    "answer_codec",
    "call",
    "call_codec",
    "carried_codec",
    "is_genuine",
    "open_key",
    "request_id",
    "seal_key",
]

KEY_BYTES = 32
PAYLOAD_BYTES_MAX = 4 * 1024
CALL, ANSWER = "call", "answer"  # the last level of the topics
OK = "ok"
_NONCE_BYTES = 12
_ENVELOPE_BYTES = 512

CallKind = Literal["enrol", "data"]
Counter = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Body = Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX)]
Mac = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a device. `counter` is 0 for an enrolment, and rises with each reading."""

    kind: CallKind
    counter: Counter
    body: Body
    mac: Mac


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To a device, about its call with this counter: "ok", or why it was refused. `body` is the
    sealed key of an enrolment. An answer to a stranger has a MAC that nobody can check."""

    kind: CallKind
    counter: Counter
    status: Annotated[str, msgspec.Meta(max_length=64)]
    body: Body
    mac: Mac


class Carried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Between gateway and provider: a message from or to `device`."""

    device: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    message: Annotated[bytes, msgspec.Meta(max_length=PAYLOAD_BYTES_MAX + _ENVELOPE_BYTES)]


call_codec: Codec[Call] = Codec(Call, PAYLOAD_BYTES_MAX + _ENVELOPE_BYTES)
answer_codec: Codec[Reply] = Codec(Reply, PAYLOAD_BYTES_MAX + _ENVELOPE_BYTES)
carried_codec: Codec[Carried] = Codec(Carried, PAYLOAD_BYTES_MAX + 2 * _ENVELOPE_BYTES)


def call(key: bytes, device: str, kind: CallKind, counter: int, body: bytes) -> Call:
    """A call of `device`, made by the holder of `key`."""
    return Call(kind, counter, body, _mac(key, "device", device, kind, counter, "", body))


def answer(key: bytes, device: str, to: Call, status: str, body: bytes = b"") -> Reply:
    """The provider's answer to `device`."""
    mac = _mac(key, "provider", device, to.kind, to.counter, status, body)
    return Reply(to.kind, to.counter, status, body, mac)


def is_genuine(key: bytes, device: str, message: Call | Reply) -> bool:
    """Whether a holder of `key` made it: the device or the provider. Nobody can tell which."""
    who, status = ("provider", message.status) if isinstance(message, Reply) else ("device", "")
    made = _mac(key, who, device, message.kind, message.counter, status, message.body)
    return hmac.compare_digest(made, message.mac)


def request_id(device: str, counter: int) -> bytes:
    """Names a call in logs and receipts. It says nothing about the content."""
    return sha256(f"{device}/{counter}".encode()).digest()


def seal_key(token: bytes, device: str, key: bytes) -> bytes:
    """A device's key for the holder of its token."""
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(token).encrypt(nonce, key, device.encode())


def open_key(token: bytes, device: str, sealed: bytes) -> bytes:
    """Raises PeerFault("bad-key")."""
    try:
        key = AESGCM(token).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], device.encode())
    except (InvalidTag, ValueError) as error:
        raise PeerFault("bad-key", "it was not sealed with this device's token") from error
    if len(key) != KEY_BYTES:
        raise PeerFault("bad-key", f"{len(key)} bytes instead of {KEY_BYTES}")
    return key


def _mac(key: bytes, *said: str | int | bytes) -> bytes:
    """Over who speaks, the device, the kind, the counter, the status of an answer and the body."""
    return hmac.digest(key, msgspec.msgpack.encode(said), "sha256")
