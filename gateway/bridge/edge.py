"""The messages between devices, relays and the gateway, inside the topics of `gateway.mqtt.topics`.

    device  -> relay    `req/<device>`             Ask: a kind and its body
    relay   -> gateway  `up/<relay>/<device>/<kind>`  Stamped: the body as the relay had it
    gateway -> device   `rsp/<device>/<kind>`      Receipt, Admitted, Denial, Part or epochs

Bodies of kind `enrol` and `op` are COSE_Sign1 as devices sign them (`chain.ledger.operations`), so
a change on the way is noticed. A body of kind `sync` is a SyncRequest. A body of kind `carrier` is
a device's carrier certificate (PEM); the answer is its digest. An answer of kind `epochs` is a
BlockRange without blocks. It proves membership changes that a device must know before it can verify
a receipt. The broker checks who publishes under <relay>, and gaps in the stamps' running numbers
show losses after the relay.

All are bounded, deterministic CBOR maps. Anything else raises PeerFault.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from chain.canonical import Codec
from chain.fields import Hash
from chain.pbft.messages import Signed
from chain.quorum import REPLICAS_MAX

__all__ = [
    "BODY_BYTES_MAX",
    "NOT_YET",
    "PART_BYTES_MAX",
    "Admitted",
    "Ask",
    "Denial",
    "Part",
    "RequestKind",
    "Stamped",
    "SyncRequest",
    "admitted_codec",
    "ask_codec",
    "denied_codec",
    "part_codec",
    "stamped_codec",
    "sync_codec",
]

BODY_BYTES_MAX = 16 * 1024
PART_BYTES_MAX = 32 * 1024
PARTS_MAX = 64  # of one range, which has at most 1 MiB
SEALED_BYTES_MAX = 256
ENVELOPE_BYTES = 512

NOT_YET = frozenset({"busy", "outbox-full", "unknown-node"})
"""Reasons of the gateway that are temporary: the device keeps its request and sends it again."""

Number = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Body = Annotated[bytes, msgspec.Meta(max_length=BODY_BYTES_MAX)]
Tries = Annotated[int, msgspec.Meta(ge=1, le=255)]
RequestKind = Literal["enrol", "op", "sync", "carrier"]


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a device to the relay that carries it. `tries` counts how often it was sent before
    without an answer; absent at first."""

    kind: RequestKind
    body: Body
    tries: Tries | None = None


class Stamped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a relay to the gateway. `n` grows by one with each message of this relay since its
    start. `boot` grows with each start. `at_ms` is its wall clock."""

    n: Number
    boot: Number
    at_ms: Number
    body: Body
    tries: Tries | None = None  # as in Ask


class SyncRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for the ledger from height `start` on; heads only unless `bodies`."""

    start: Number
    bodies: bool


class Admitted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To a newcomer or the holder of a renewed key: the receipt, and the password of its login
    (user name: its node id), which only the certified key can read (`broker.credentials`)."""

    receipt: Annotated[bytes, msgspec.Meta(max_length=PART_BYTES_MAX)]
    sealed_password: Annotated[bytes, msgspec.Meta(max_length=SEALED_BYTES_MAX)]


class Denial(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Refused: by which layer, and why. Nothing of it is on the ledger. It is final if it is
    proven (`chain.proofs.denial`): by `verdicts` of f+1 replicas, or by the `record` (an encoded
    Proof) that ended the device's key. An unproven one is only a hint."""

    id: Hash
    layer: Literal["gateway", "group"]
    reason: Annotated[str, msgspec.Meta(max_length=64)]
    verdicts: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)] | None = None
    record: Annotated[bytes, msgspec.Meta(max_length=PART_BYTES_MAX)] | None = None


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a ledger copy: `data` is part number `part` of `parts` of an encoded range of
    final blocks, heights `start`..`stop`. `tip` is the newest final height that the gateway knows.
    """

    start: Number
    stop: Number
    tip: Number
    part: Annotated[int, msgspec.Meta(ge=0, le=PARTS_MAX - 1)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=PARTS_MAX)]
    data: Annotated[bytes, msgspec.Meta(max_length=PART_BYTES_MAX)]


ask_codec: Codec[Ask] = Codec(Ask, BODY_BYTES_MAX + ENVELOPE_BYTES)
stamped_codec: Codec[Stamped] = Codec(Stamped, BODY_BYTES_MAX + ENVELOPE_BYTES)
sync_codec: Codec[SyncRequest] = Codec(SyncRequest, ENVELOPE_BYTES)
admitted_codec: Codec[Admitted] = Codec(Admitted, PART_BYTES_MAX + ENVELOPE_BYTES)
denied_codec: Codec[Denial] = Codec(Denial, PART_BYTES_MAX + ENVELOPE_BYTES)
part_codec: Codec[Part] = Codec(Part, PART_BYTES_MAX + ENVELOPE_BYTES)
