"""The messages between replicas, and between a replica and a gateway.

Every replica message is signed over the exact bytes sent: `Signed.body` is verified as received,
never re-encoded. The signature covers a domain tag and the network id before the body, so that a
message means nothing in another network or as another kind of statement. Bytes become closed
types in one step (msgspec): wrong fields, types and sizes are refused by the decoder.

`chain.pbft.verify` verifies messages; the handlers of `chain.pbft` act on them.
"""

from __future__ import annotations

from typing import Annotated, TypeVar, final

import msgspec

from chain.block import Block, HeadBytes
from chain.errors import PeerFault
from chain.fields import FRAME_BYTES_MAX, Hash, ReplicaId, Signature
from chain.keys import Signer, digest
from chain.quorum import REPLICAS_MAX

__all__ = [
    "BODIES_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "Batch",
    "Bodies",
    "Busy",
    "Checkpoint",
    "CheckpointProof",
    "ClientMessage",
    "Commit",
    "Denied",
    "EndorseRequest",
    "Endorsement",
    "FetchBatch",
    "FetchBodies",
    "FetchHeads",
    "Forward",
    "Heads",
    "NewView",
    "PrePrepare",
    "Prepare",
    "PreparedProof",
    "Proposal",
    "ReplicaMessage",
    "Seal",
    "Signed",
    "StatusMessage",
    "Submit",
    "Subscribe",
    "ViewChange",
    "decode_body",
    "decode_client",
    "decode_proposal",
    "decode_signed",
    "decoded",
    "encode",
    "sign",
    "signed_bytes",
]

_T = TypeVar("_T")

LOG_WINDOW_MAX = 4096
BATCH_ITEMS_MAX = 65_536
HEADS_MAX = 8192
BODIES_BYTES_MAX = 1024 * 1024  # of records in one BODIES, unless its only block has more

View = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Epoch = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


class Signed(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A frame on a replica link.

    `body` is an encoded ReplicaMessage, `signature` its sender's. `attachment` holds the bytes that
    a digest in the body commits to: the encoded Proposal of a PRE-PREPARE. Otherwise it is empty.
    """

    body: bytes
    signature: Signature
    attachment: bytes = b""

    @property
    def bare(self) -> Signed:
        """Without the attachment."""
        return Signed(self.body, self.signature)


class Proposal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The proposed content of a sequence number. Replicas vote on its digest.

    `time_us` and `view` are those of the first proposal: a re-proposal after a view change is the
    same bytes. A null request (OSDI'99, section 4.4) has `time_us` 0 and no items; a heartbeat
    has a time and no items.
    """

    seq: Seq
    time_us: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    view: View
    items: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=BATCH_ITEMS_MAX)]

    def encode(self) -> bytes:
        return _encoder.encode(self)

    @staticmethod
    def digest_of(encoded: bytes) -> bytes:
        """The digest d of the paper, over the encoded proposal: it binds number to content."""
        return digest(b"m2m/1/proposal\0" + encoded)

    @classmethod
    def null(cls, seq: int) -> Proposal:
        return cls(seq=seq, time_us=0, view=0, items=())

    @property
    def is_null(self) -> bool:
        return self.time_us == 0


class _ReplicaMessage(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True
):
    epoch: Epoch
    sender: ReplicaId


class PrePrepare(_ReplicaMessage, frozen=True, tag="PP"):
    view: View
    seq: Seq
    digest: Hash


class Prepare(_ReplicaMessage, frozen=True, tag="P"):
    view: View
    seq: Seq
    digest: Hash


class Commit(_ReplicaMessage, frozen=True, tag="C"):
    view: View
    seq: Seq
    digest: Hash


class Checkpoint(_ReplicaMessage, frozen=True, tag="CP"):
    """`head` is the head hash after executing `seq`: it commits to the whole state."""

    seq: Seq
    head: Hash


class PreparedProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A prepared certificate: a PRE-PREPARE (without its batch) and q-1 matching PREPAREs."""

    pre_prepare: Signed
    prepares: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]


class CheckpointProof(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """q CHECKPOINTs of one epoch that agree on the head hash at one sequence number."""

    seq: Seq
    head: Hash
    votes: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]


class ViewChange(_ReplicaMessage, frozen=True, tag="VC"):
    """`view` is the view asked for; `stable` the last stable checkpoint, proven by q signatures
    (none at genesis); `prepared` one certificate per sequence above it, at most one each."""

    view: View
    stable_seq: Seq
    stable_head: Hash
    stable_proof: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]
    prepared: Annotated[tuple[PreparedProof, ...], msgspec.Meta(max_length=LOG_WINDOW_MAX)]


class NewView(_ReplicaMessage, frozen=True, tag="NV"):
    """V: q signed VIEW-CHANGEs; O: the new primary's PRE-PREPAREs (without batches)."""

    view: View
    view_changes: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]
    pre_prepares: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=LOG_WINDOW_MAX)]


class StatusMessage(_ReplicaMessage, frozen=True, tag="S"):
    """The sender's progress. A replica that is ahead sends the missing messages (TOCS'02, 5.2).

    `view_changes` lists the replicas whose VIEW-CHANGE for `view` the sender holds (pending
    only); `proposed` and `prepared` the sequence numbers above `executed` that it holds.
    """

    view: View
    active: bool
    stable_seq: Seq
    executed: Seq
    view_changes: Annotated[tuple[ReplicaId, ...], msgspec.Meta(max_length=REPLICAS_MAX)] = ()
    proposed: Annotated[tuple[Seq, ...], msgspec.Meta(max_length=LOG_WINDOW_MAX)] = ()
    prepared: Annotated[tuple[Seq, ...], msgspec.Meta(max_length=LOG_WINDOW_MAX)] = ()


class Forward(_ReplicaMessage, frozen=True, tag="F"):
    """A backup hands a client's request (a batch item) to the primary (OSDI'99, section 4.1)."""

    item: bytes


class FetchBatch(_ReplicaMessage, frozen=True, tag="FP"):
    """Asks for the proposal behind a digest that a NEW-VIEW or certificate names."""

    seq: Seq
    digest: Hash


class Batch(_ReplicaMessage, frozen=True, tag="DP"):
    proposal: bytes


class FetchHeads(_ReplicaMessage, frozen=True, tag="FH"):
    """Asks for heads from `start` up to the next stable checkpoint that the receiver can prove."""

    start: Seq


class Heads(_ReplicaMessage, frozen=True, tag="DH"):
    """Consecutive heads ending in one that `proof`, q CHECKPOINT signatures, certifies."""

    start: Seq
    heads: Annotated[tuple[HeadBytes, ...], msgspec.Meta(max_length=HEADS_MAX)]
    proof: Annotated[tuple[Signed, ...], msgspec.Meta(max_length=REPLICAS_MAX)]


class FetchBodies(_ReplicaMessage, frozen=True, tag="FB"):
    start: Seq
    stop: Seq


class Bodies(_ReplicaMessage, frozen=True, tag="DB"):
    """Blocks from `start` on: all that were asked for, or until the next would not fit into
    BODIES_BYTES_MAX. So an answer and the first block of the next answer together exceed that.
    Otherwise the source sent less than it could. Up to `pruned` it keeps no items of data."""

    start: Seq
    blocks: Annotated[tuple[Block, ...], msgspec.Meta(max_length=HEADS_MAX)]
    pruned: Seq = 0


class EndorseRequest(_ReplicaMessage, frozen=True, tag="ER"):
    """The primary asks a member of the authentication group to judge an access request."""

    request: bytes


class Endorsement(_ReplicaMessage, frozen=True, tag="E"):
    """A member's signed verdict on a request; `reason` is empty when accepted."""

    request: Hash
    accepted: bool
    reason: Annotated[str, msgspec.Meta(max_length=64)]


ReplicaMessage = (
    PrePrepare
    | Prepare
    | Commit
    | Checkpoint
    | ViewChange
    | NewView
    | StatusMessage
    | Forward
    | FetchBatch
    | Batch
    | FetchHeads
    | Heads
    | FetchBodies
    | Bodies
    | EndorseRequest
    | Endorsement
)


# --- gateway <-> replica: authenticated by the mutual TLS link; proofs inside are signed --------


class _ClientMessage(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=True
):
    pass


@final
class Submit(_ClientMessage, frozen=True, tag="cS"):
    """Gateway to replica: a request as its device signed it (COSE_Sign1 bytes)."""

    request: bytes


class Subscribe(_ClientMessage, frozen=True, tag="cB"):
    """Gateway to replica: send every seal from `start` on; with `bodies`, the blocks too."""

    start: Seq
    bodies: bool


class Seal(_ClientMessage, frozen=True, tag="cH"):
    """Replica to gateway: the reply. The head that it executed and its signature over the head.

    f+1 matching seals prove that the block and its records are final. `block` is there if the
    subscriber asked for bodies. `view` is the replica's: it tells which replica is the primary.
    """

    replica: ReplicaId
    view: View
    head: HeadBytes
    signature: Signature
    block: Block | None = None


class Denied(_ClientMessage, frozen=True, tag="cD"):
    """Replica to gateway: refused before ordering. `endorsement` is this replica's own verdict."""

    request: Hash
    reason: Annotated[str, msgspec.Meta(max_length=64)]
    endorsement: Signed | None = None


class Busy(_ClientMessage, frozen=True, tag="cO"):
    """Replica to gateway: its queue is full; send again later or elsewhere."""

    request: Hash


ClientMessage = Submit | Subscribe | Seal | Denied | Busy


_encoder = msgspec.msgpack.Encoder()
_signed_decoder = msgspec.msgpack.Decoder(Signed)
_proposal_decoder = msgspec.msgpack.Decoder(Proposal)
_body_decoder: msgspec.msgpack.Decoder[ReplicaMessage] = msgspec.msgpack.Decoder(ReplicaMessage)
_client_decoder: msgspec.msgpack.Decoder[ClientMessage] = msgspec.msgpack.Decoder(ClientMessage)


def encode(message: msgspec.Struct) -> bytes:
    """MessagePack bytes of any message of this module."""
    return _encoder.encode(message)


def signed_bytes(network: bytes, body: bytes) -> bytes:
    """What a replica's signature covers."""
    return b"m2m/1/replica\0" + network + body


def sign(
    signer: Signer, network: bytes, message: ReplicaMessage, attachment: bytes = b""
) -> Signed:
    body = encode(message)
    return Signed(body, signer.sign(signed_bytes(network, body)), attachment)


def decoded(decoder: msgspec.msgpack.Decoder[_T], data: bytes, code: str) -> _T:
    """Raises PeerFault(`code`) if the bytes are not what the decoder's type demands."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerFault(code, str(error)) from error


def decode_signed(frame: bytes) -> Signed:
    """Raises PeerFault("bad-frame")."""
    return decoded(_signed_decoder, frame, "bad-frame")


def decode_body(body: bytes) -> ReplicaMessage:
    """Raises PeerFault("bad-body")."""
    return decoded(_body_decoder, body, "bad-body")


def decode_proposal(data: bytes) -> Proposal:
    """Raises PeerFault("bad-proposal")."""
    return decoded(_proposal_decoder, data, "bad-proposal")


def decode_client(frame: bytes) -> ClientMessage:
    """Raises PeerFault("bad-frame")."""
    return decoded(_client_decoder, frame, "bad-frame")
