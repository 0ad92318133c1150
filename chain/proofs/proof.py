"""Proofs that anybody can check offline from the pinned genesis.

One thing serves as reply, receipt, light-client proof and certificate proof: a record's statement,
its Merkle path, the head above it, and the head's signatures by at least f+1 replicas. At least one
of these replicas is honest. For a head of epoch e > 0 the proof has e more such inclusions: each
proves one change of the membership. `certificate` makes X.509 certificates of proofs, `export`
makes plain files.

Encoding, deterministic CBOR: {"record": inclusion, "epochs": [inclusion, ...]} with inclusion
{"head": 168 bytes, "leaf": bytes, "path": [32 bytes, ...], "index": int,
"seals": [[replica, 64 bytes], ...]}, seals in ascending order of replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from chain.block import Block, Head, HeadBytes
from chain.canonical import Codec
from chain.errors import Misuse, PeerFault
from chain.fields import Hash, ReplicaId, Signature
from chain.genesis import Genesis, Membership
from chain.keys import Es256, Scheme
from chain.ledger.epochs import changed
from chain.ledger.statement import LEAF_BYTES_MAX, OK, Statement, decode_leaf
from chain.merkle import PATH_MAX, leaf_hash, paths, root_from_path
from chain.quorum import REPLICAS_MAX, REPLICAS_MIN

__all__ = [
    "EPOCHS_MAX",
    "PROOF_BYTES_MAX",
    "HeadSeal",
    "Inclusion",
    "Proof",
    "ProofVerifier",
    "check_seals",
    "decode_proof",
    "encode_proof",
    "make_inclusion",
    "make_inclusions",
]

EPOCHS_MAX = 64  # membership changes in one proof or range of blocks
PROOF_BYTES_MAX = 262_144


class HeadSeal(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, order=True
):
    """A replica's signature over the bytes of a head."""

    replica: ReplicaId
    signature: Signature


class Inclusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`leaf` is record `index` of the block under `head`, which `seals` make final."""

    leaf: Annotated[bytes, msgspec.Meta(max_length=LEAF_BYTES_MAX)]
    index: Annotated[int, msgspec.Meta(ge=0, le=2**32)]
    path: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=PATH_MAX)]
    head: HeadBytes
    seals: Annotated[tuple[HeadSeal, ...], msgspec.Meta(max_length=REPLICAS_MAX)]


class Proof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`epochs` prove the membership changes that lead from genesis to the record's epoch, or
    those that its reader does not know yet."""

    record: Inclusion
    epochs: Annotated[tuple[Inclusion, ...], msgspec.Meta(max_length=EPOCHS_MAX)]


_codec: Codec[Proof] = Codec(Proof, PROOF_BYTES_MAX)
encode_proof = _codec.encode
decode_proof = _codec.decode


def make_inclusion(block: Block, index: int, seals: Sequence[HeadSeal]) -> Inclusion:
    """The proof of record `index` of `block`."""
    if not 0 <= index < len(block.records):
        raise Misuse(f"record {index} of {len(block.records)}")
    return make_inclusions(block, seals)[index]


def make_inclusions(block: Block, seals: Sequence[HeadSeal]) -> tuple[Inclusion, ...]:
    """The proof of every record of `block`, for little more than the price of one."""
    ordered = tuple(sorted(seals))
    hashes = paths([leaf_hash(record.leaf) for record in block.records])
    return tuple(
        Inclusion(leaf=record.leaf, index=index, path=path, head=block.head, seals=ordered)
        for index, (record, path) in enumerate(zip(block.records, hashes, strict=True))
    )


def check_seals(
    head: bytes, seals: Sequence[HeadSeal], membership: Membership, scheme: Scheme
) -> None:
    """Raises PeerFault("bad-seal") unless f+1 distinct members signed, and every seal holds."""
    replicas = [seal.replica for seal in seals]
    if replicas != sorted(set(replicas)):
        raise PeerFault("bad-seal", "replicas must be distinct and in order")
    if len(seals) < membership.quorum.weak:
        raise PeerFault("bad-seal", f"{len(seals)} of {membership.quorum.weak} signatures")
    for seal in seals:
        spki = membership.spki(seal.replica)
        if spki is None or not scheme.verify(spki, head, seal.signature):
            raise PeerFault("bad-seal", f"signature of replica {seal.replica} is not valid")


class ProofVerifier:
    """Needs the genesis and nothing else. Remembers the memberships that it has seen proven.

    Each epoch decides the heights above its boundary, up to the next epoch's. Once a change is
    known here, members of the old epoch prove nothing above the boundary.
    """

    def __init__(self, genesis: Genesis, scheme: Scheme | None = None) -> None:
        self._network = genesis.network
        self._scheme = scheme or Es256()
        self._interval = genesis.consensus.checkpoint_interval
        self._memberships = [genesis.membership]
        self._boundaries = [0]  # by epoch: it decides the heights above
        self.steps: list[Inclusion] = []  # the proof of each membership change, in order

    @property
    def epoch(self) -> int:
        """The newest epoch whose members are known here."""
        return len(self._memberships) - 1

    @property
    def membership(self) -> Membership:
        """The members of the newest epoch that is known here."""
        return self._memberships[-1]

    def verify(self, proof: Proof) -> Statement:
        """The statement of the proven record.

        Raises PeerFault: "wrong-network", "bad-seal", "bad-path", "bad-epoch", "bad-cbor".
        """
        for step in proof.epochs:
            self.follow(step)
        return self.included(proof.record)

    def members_of(self, head: Head) -> Membership:
        """Who decides this head. Raises PeerFault("bad-epoch") if that is not known here."""
        if head.epoch > self.epoch:
            raise PeerFault("bad-epoch", f"no proof of the members of epoch {head.epoch}")
        ended = head.epoch < self.epoch and head.height > self._boundaries[head.epoch + 1]
        if ended or head.height <= self._boundaries[head.epoch]:
            raise PeerFault("bad-epoch", f"epoch {head.epoch} does not decide {head.height}")
        return self._memberships[head.epoch]

    def follow(self, step: Inclusion) -> Membership:
        """Learns the next epoch's members from the record that changed them."""
        statement = self.included(step)
        head = Head.decode(step.head)
        membership = self._memberships[head.epoch]
        boundary = -(-head.height // self._interval) * self._interval
        if (statement.status, statement.epoch, statement.boundary) != (
            OK,
            head.epoch + 1,
            boundary,
        ) or not _is_change(statement, membership):
            raise PeerFault("bad-epoch", "not the record of a membership change")
        if head.epoch == self.epoch:
            assert statement.replica is not None
            self._memberships.append(changed(membership, statement.replica, statement.key))
            self._boundaries.append(boundary)
            self.steps.append(step)
        return self._memberships[head.epoch + 1]

    def complete(self, record: Inclusion) -> Proof:
        """The proof of a record for a verifier that holds only genesis. Without its steps if they
        are more than EPOCHS_MAX: TLS would refuse so large a certificate."""
        epoch = Head.decode(record.head).epoch
        steps = self.steps[:epoch] if epoch <= EPOCHS_MAX else ()
        return Proof(record=record, epochs=tuple(steps))

    def included(self, inclusion: Inclusion) -> Statement:
        """Checks one inclusion under the members that decided its block."""
        head = Head.decode(inclusion.head)
        if head.network != self._network:
            raise PeerFault("wrong-network", "the head belongs to another network")
        check_seals(inclusion.head, inclusion.seals, self.members_of(head), self._scheme)
        leaf = leaf_hash(inclusion.leaf)
        if root_from_path(leaf, inclusion.index, head.count, inclusion.path) != head.root:
            raise PeerFault("bad-path", "the statement is not in the block")
        statement = decode_leaf(inclusion.leaf)
        if statement.network != self._network or statement.time_us != head.time_us:
            raise PeerFault("wrong-network", "the statement belongs elsewhere")
        return statement


def _is_change(statement: Statement, membership: Membership) -> bool:
    """Whether this adds a new member or removes one, and leaves an allowed number of members."""
    if statement.replica is None:
        return False
    adds, known = statement.op == "add-replica", membership.spki(statement.replica) is not None
    size = len(membership.members) + (1 if adds else -1)
    return (
        statement.op in ("add-replica", "remove-replica")
        and adds == (statement.key is not None)
        and adds != known
        and REPLICAS_MIN <= size <= REPLICAS_MAX
    )
