"""The client's rule: a block is final when f+1 replicas have signed the same head.

Pure, and the same for gateways, devices and verifiers. `FinalityTracker` turns the replicas' seals
into final blocks in order. `LedgerCopy` keeps a verified copy of the ledger, full or heads only; it
trusts nobody who hands it blocks. Proofs of single records are in `proof`.

Ranges of blocks travel to devices as deterministic CBOR: {"start": height, "blocks": [{"head":
168 bytes, "seals": [[replica, 64 bytes], ...], "records": [[leaf, item], ...]}, ...], "epochs":
[inclusion, ...]}. "records" is absent if only heads were asked for. "epochs" (see `proof`) is
absent if no membership changes in between, or if the records show the change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import msgspec

from chain.block import Block, Head, HeadBytes, Record, genesis_head
from chain.canonical import Codec
from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import Es256, Scheme, digest
from chain.ledger.ledger import Ledger, body_fault
from chain.pbft.messages import Seal
from chain.proofs.proof import EPOCHS_MAX, HeadSeal, Inclusion, ProofVerifier, check_seals
from chain.quorum import REPLICAS_MAX

__all__ = [
    "RANGE_BLOCKS_MAX",
    "RANGE_BYTES_MAX",
    "BlockRange",
    "Conflict",
    "Final",
    "FinalityTracker",
    "LedgerCopy",
    "SealedBlock",
    "decode_range",
    "encode_range",
]

WINDOW_BLOCKS_MAX = 256  # how far above the last final block seals are kept
WINDOW_BYTES_MAX = 64 * 1024 * 1024  # bodies that wait to become final
FINAL_KEPT = 256  # final heads kept to recognise a contradiction
RANGE_BLOCKS_MAX = 512
RANGE_BYTES_MAX = 1024 * 1024
BODY_RECORDS_MAX = 65_536


class Conflict(msgspec.Struct, frozen=True):
    """Evidence: `replica` signed both heads of one height; or, with `against_final`, a head
    other than the one that f+1 replicas made final."""

    replica: int
    first: bytes
    second: bytes
    signature: bytes
    against_final: bool


class Final(msgspec.Struct, frozen=True):
    """Block `height` is final. `source` is the replica that was the first to bring its body.
    `conflicts` are replicas that had signed another head of this height."""

    height: int
    head: bytes
    seals: tuple[HeadSeal, ...]
    block: Block
    source: int
    conflicts: tuple[Conflict, ...] = ()


class Body(msgspec.Struct, frozen=True):
    """A body that waits to become final, and the replica whose share of the buffer it takes."""

    block: Block
    source: int


class FinalityTracker:
    """Collects seals; signatures are verified only for the block that is next, f+1 of them.

    Feed it seals of any order and source; after each, take what became final:

        conflict = tracker.feed(seal)
        while (final := tracker.next_final()) is not None:
            ...
            tracker.membership = ledger.membership  # where the owner follows the epochs

    `height` and `head_hash` are those of the last final block. A block without its body does not
    count yet. Bodies wait in a buffer of `bytes_max`, of which each replica has an equal share: one
    that lies fills only its own. A pruned body counts when f+1 replicas have sent it pruned: one of
    them is honest, so the block is old enough.
    """

    def __init__(
        self,
        membership: Membership,
        genesis: Genesis,
        scheme: Scheme,
        bytes_max: int = WINDOW_BYTES_MAX,
    ) -> None:
        self.membership = membership
        self._network = genesis.network
        self._scheme = scheme
        self.height = 0
        self.head_hash = digest(genesis_head(self._network, genesis.time_us))
        self._seals: dict[int, dict[int, Seal]] = {}
        self._bodies_of: dict[int, dict[bytes, Body]] = {}
        self._pruned_by: dict[int, set[tuple[bytes, int]]] = {}  # by height: (head, replica)
        self._bytes_max = bytes_max
        self._bytes_by: Counter[int] = Counter()  # of waiting bodies, by source
        self._final: dict[int, bytes] = {}

    def resume(self, height: int, head_hash: bytes) -> None:
        """Continues from a block that the owner holds verified."""
        self.height, self.head_hash = height, head_hash
        self._seals, self._bodies_of, self._final, self._pruned_by = {}, {}, {}, {}
        self._bytes_by.clear()

    def feed(self, seal: Seal) -> Conflict | None:
        """Takes one replica's seal. Raises PeerFault if only a faulty replica can have sent it."""
        head = Head.decode(seal.head)
        if head.network != self._network:
            raise PeerFault("wrong-network", "a seal of another network")
        if head.height <= self.height:
            return self._conflict_with_final(seal, head)
        if head.height > self.height + WINDOW_BLOCKS_MAX:
            return None  # we are far behind: the owner fetches
        seals = self._seals.setdefault(head.height, {})
        known = seals.get(seal.replica)
        if known is not None and known.head != seal.head:
            return self._contradiction(seals, known, seal)
        if known is None and len(seals) < 2 * len(self.membership.members):
            seals[seal.replica] = msgspec.structs.replace(seal, block=None)
        if seal.replica in seals:  # so there is one body for each seal at most
            self._keep_body(seal, head)
        return None

    def next_final(self) -> Final | None:
        """The next block in order, once f+1 signatures of one head are valid."""
        height = self.height + 1
        seals = self._seals.get(height)
        if seals is None or len(seals) < self.membership.quorum.weak:
            return None
        for head in sorted({seal.head for seal in seals.values()}):
            decoded = Head.decode(head)
            if decoded.parent != self.head_hash or decoded.epoch != self.membership.epoch:
                continue
            body = self._bodies_of.get(height, {}).get(head)
            if body is None:
                continue
            good = self._valid_seals(seals, head)
            if len(good) >= self.membership.quorum.weak:
                others = [s for s in seals.values() if s.head != head and self._holds(s)]
                self._advance(height, head)
                conflicts = tuple(_make_conflict(head, s) for s in others)
                return Final(height, head, good, body.block, body.source, conflicts)
        return None

    def _valid_seals(self, seals: dict[int, Seal], head: bytes) -> tuple[HeadSeal, ...]:
        """f+1 valid seals of `head`; invalid ones are forgotten."""
        good: list[HeadSeal] = []
        for replica in sorted(seals):
            seal = seals[replica]
            if seal.head != head or len(good) >= self.membership.quorum.weak:
                continue
            if self._holds(seal):
                good.append(HeadSeal(replica, seal.signature))
            else:
                del seals[replica]
        return tuple(good)

    def _advance(self, height: int, head: bytes) -> None:
        self.height, self.head_hash = height, digest(head)
        self._final[height] = head
        self._final.pop(height - FINAL_KEPT, None)
        del self._seals[height]
        self._pruned_by.pop(height, None)
        for body in self._bodies_of.pop(height, {}).values():
            self._bytes_by[body.source] -= body.block.body_bytes

    def _holds(self, seal: Seal) -> bool:
        spki = self.membership.spki(seal.replica)
        return spki is not None and self._scheme.verify(spki, seal.head, seal.signature)

    def _conflict_with_final(self, seal: Seal, head: Head) -> Conflict | None:
        final = self._final.get(head.height)
        if final is None or final == seal.head or not self._holds(seal):
            return None
        return _make_conflict(final, seal)

    def _contradiction(self, seals: dict[int, Seal], known: Seal, seal: Seal) -> Conflict | None:
        """Two heads under one replica's name: evidence if it signed both, else one is a forgery."""
        if not self._holds(seal):
            raise PeerFault("bad-seal", f"signature of replica {seal.replica} is not valid")
        if not self._holds(known):
            seals[seal.replica] = msgspec.structs.replace(seal, block=None)
            return None
        return Conflict(seal.replica, known.head, seal.head, seal.signature, against_final=False)

    def _keep_body(self, seal: Seal, head: Head) -> None:
        block, height = seal.block, head.height
        if block is None or seal.head in self._bodies_of.get(height, {}):
            return
        if block.head != seal.head or body_fault(block, head) is not None:
            raise PeerFault("bad-body", f"replica {seal.replica} sent a body of another head")
        if block.pruned:
            pruned_by = self._pruned_by.setdefault(height, set())
            pruned_by.add((seal.head, seal.replica))
            said_by = {each for head, each in pruned_by if head == seal.head}
            if len(said_by.intersection(self.membership.ids)) < self.membership.quorum.weak:
                return
        size = block.body_bytes
        # The next block always finds room: what waits above it can be fetched again.
        share = self._bytes_max // len(self.membership.members)
        if self._bytes_by[seal.replica] + size <= share or height == self.height + 1:
            self._bodies_of.setdefault(height, {})[seal.head] = Body(block, seal.replica)
            self._bytes_by[seal.replica] += size


def _make_conflict(final: bytes, seal: Seal) -> Conflict:
    return Conflict(seal.replica, final, seal.head, seal.signature, against_final=True)


# --- ranges of blocks ----------------------------------------------------------------------------


class SealedBlock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A final block as it is handed on; `records` is None for heads only."""

    head: HeadBytes
    seals: Annotated[tuple[HeadSeal, ...], msgspec.Meta(max_length=REPLICAS_MAX)]
    records: Annotated[tuple[Record, ...], msgspec.Meta(max_length=BODY_RECORDS_MAX)] | None = None

    @classmethod
    def of(cls, final: Final) -> SealedBlock:
        return cls(head=final.head, seals=final.seals, records=final.block.records)

    @property
    def block(self) -> Block | None:
        return None if self.records is None else Block(self.head, self.records)


class BlockRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Consecutive blocks from `start` on."""

    start: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    blocks: Annotated[tuple[SealedBlock, ...], msgspec.Meta(max_length=RANGE_BLOCKS_MAX)]
    epochs: Annotated[tuple[Inclusion, ...], msgspec.Meta(max_length=EPOCHS_MAX)] | None = None


_ranges: Codec[BlockRange] = Codec(BlockRange, RANGE_BYTES_MAX)
encode_range = _ranges.encode
decode_range = _ranges.decode


class LedgerCopy:
    """A copy of the ledger that its owner has verified itself, from genesis on.

    With `bodies` it executes every block again, so records, statements and registry are known to be
    right. Without, it holds heads only. Each record's own signatures are not checked: f+1 seals
    vouch for them. To resume a copy with bodies, `take` the stored blocks again; a copy of heads
    needs only the last head (`resume`).

    `height` and `head` are those of the last block. `membership` is the newest epoch that this copy
    has seen begin. `pruned` counts records that came without payload: a source of blocks can
    withhold the payloads of data.
    """

    def __init__(self, genesis: Genesis, scheme: Scheme | None = None, bodies: bool = True) -> None:
        self._scheme = scheme or Es256()
        self._verifier = ProofVerifier(genesis, self._scheme)
        self.ledger = Ledger(genesis, self._scheme) if bodies else None
        self.membership = genesis.membership
        self.head = genesis_head(genesis.network, genesis.time_us)
        self.height = 0
        self.pruned = 0

    def resume(self, head: bytes, epochs: tuple[Inclusion, ...] = ()) -> None:
        """Heads only: continues above a head that this owner verified and kept, with the proofs
        of the membership changes up to it. Raises PeerFault("bad-epoch") if one is missing."""
        if self.ledger is not None:
            raise Misuse("a full copy resumes by taking its blocks again")
        self.learn(epochs)
        decoded = Head.decode(head)
        self.membership = self._verifier.members_of(decoded)
        self.head, self.height = head, decoded.height

    @property
    def head_hash(self) -> bytes:
        """The hash of the head: an access request names it as the recent head."""
        return digest(self.head)

    @property
    def steps(self) -> Sequence[Inclusion]:
        """The membership changes that it was shown, for `resume`."""
        return self._verifier.steps

    def learn(self, steps: Sequence[Inclusion]) -> None:
        """Takes membership changes, in order. Raises PeerFault."""
        for step in steps:
            self._verifier.follow(step)

    def take(self, blocks: BlockRange) -> int:
        """Verifies and appends the new blocks of a range; returns how many there were.

        Raises PeerFault at the first block that is not valid; those before it are kept.
        """
        self.learn(blocks.epochs or ())
        taken = 0
        for height, block in enumerate(blocks.blocks, start=blocks.start):
            if Head.decode(block.head).height != height:
                raise PeerFault("bad-link", f"not the head of height {height}")
            if height > self.height:
                self.append(block)
                taken += 1
        return taken

    def append(self, sealed: SealedBlock) -> None:
        """One block, the next. Raises PeerFault."""
        head = Head.decode(sealed.head)
        before = Head.decode(self.head)
        if (
            head.network != before.network
            or head.height != before.height + 1
            or head.parent != self.head_hash
            or head.parent_root != before.root
            or head.time_us <= before.time_us
        ):
            raise PeerFault("bad-link", f"the head after {before.height} does not follow it")
        membership = self._membership_of(head)
        check_seals(sealed.head, sealed.seals, membership, self._scheme)
        if self.ledger is not None:
            block = sealed.block
            if block is None:
                raise PeerFault("bad-body", f"height {head.height} came without its records")
            self.ledger.append(block, check_signatures=False)
            self.pruned += sum(not record.item for record in block.records)
        self.membership = membership
        self.head, self.height = sealed.head, head.height

    def _membership_of(self, head: Head) -> Membership:
        if self.ledger is None:
            return self._verifier.members_of(head)
        if head.epoch != self.ledger.membership.epoch:
            raise PeerFault("bad-epoch", f"epoch {head.epoch} does not decide {head.height}")
        return self.ledger.membership
