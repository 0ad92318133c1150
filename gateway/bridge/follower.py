"""The gateway's verified ledger: it takes seals and returns final blocks, and proofs of records.

It keeps three things in step: the tracker that finds which blocks are final, the executed ledger
and the block store. `nodes.gateway.replica_links` asks the replicas for seals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property

import msgspec

from chain.block import Block, Head
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Scheme
from chain.ledger.ledger import Ledger
from chain.ledger.statement import OK, Statement, decode_leaf
from chain.pbft.messages import Seal
from chain.proofs.client import (
    WINDOW_BLOCKS_MAX,
    BlockRange,
    Conflict,
    Final,
    FinalityTracker,
    SealedBlock,
    encode_range,
)
from chain.proofs.proof import (
    EPOCHS_MAX,
    Inclusion,
    Proof,
    ProofVerifier,
    encode_proof,
    make_inclusions,
)
from gateway.bridge.block_store import BlockStore
from gateway.bridge.parts import join
from gateway.refusing import refusing

__all__ = ["FinalBlock", "Follower"]

STEPS_BYTES_MAX = 24 * 1024  # of leaves and signatures in one message
DEVICES_KEPT_MAX = 16_384


class FinalBlock(msgspec.Struct, frozen=True, dict=True):
    """A final block: the statements of its records, in order, and the seals that make it final."""

    height: int
    sealed: SealedBlock
    block: Block
    statements: tuple[Statement, ...]

    @classmethod
    def of(cls, height: int, sealed: SealedBlock) -> FinalBlock:
        block = sealed.block
        assert block is not None, "a gateway keeps whole blocks"
        statements = tuple(decode_leaf(record.leaf) for record in block.records)
        return cls(height, sealed, block, statements)

    @property
    def epoch(self) -> int:
        return Head.decode(self.sealed.head).epoch

    @property
    def time_us(self) -> int:
        """The consensus time of the block."""
        return Head.decode(self.sealed.head).time_us

    @cached_property
    def inclusions(self) -> tuple[Inclusion, ...]:
        """The proof of each record. All at once: somebody waits for most of them."""
        return make_inclusions(self.block, self.sealed.seals)


class Follower:
    """Call `resume` with a state that was kept, if there is one; then `restore`, to its end."""

    def __init__(self, genesis: Genesis, scheme: Scheme, store: BlockStore) -> None:
        self.ledger = Ledger(genesis, scheme)
        self.tracker = FinalityTracker(genesis.membership, genesis, scheme)
        self.head = encode_range(BlockRange(start=1, blocks=()))  # only the genesis so far
        self.resumed_height = 0  # of the kept state that it began with
        self._store = store
        self._claimed: dict[int, int] = {}
        self._stated: set[int] = set()  # replicas that stated a height since `doubt`
        self.brought: Counter[int] = Counter()  # final blocks, by the replica that sent the body
        self.proofs = ProofVerifier(genesis, scheme)  # knows all memberships of the chain so far
        self._sent: dict[str, int] = {}  # device -> how many membership changes it was sent

    @property
    def height(self) -> int:
        """The newest final block."""
        return self.tracker.height

    @property
    def claimed(self) -> int:
        """A height that at least one honest replica has reached, 0 if that is not known."""
        weak = self.tracker.membership.quorum.weak
        claims = [each for who, each in self._claimed.items() if who not in self.removed]
        claimed = sorted(claims, reverse=True)
        return claimed[weak - 1] if len(claimed) >= weak else 0

    @property
    def removed(self) -> frozenset[int]:
        """Replicas that the chain has removed: their statements do not count."""
        return self.ledger.registry.removed_replicas

    @property
    def lagging(self) -> bool:
        """Whether at least one honest replica is ahead of this gateway."""
        return self.claimed > self.height

    @property
    def is_current(self) -> bool:
        """Whether f+1 replicas have stated a height since `doubt`, and all of it is here."""
        weak = self.tracker.membership.quorum.weak
        return len(self._stated - self.removed) >= weak and not self.lagging

    def doubt(self) -> None:
        """Call it if this gateway may have been cut off: the heights that replicas stated so far
        may be old."""
        self._stated.clear()

    @property
    def state(self) -> tuple[Ledger, ProofVerifier, bytes]:
        """The verified state, to be kept for `resume`."""
        return self.ledger, self.proofs, self.head

    def resume(self, state: tuple[Ledger, ProofVerifier, bytes], height_max: int) -> bool:
        """Goes on from a kept state. False if it is above `height_max`, or if the store does not
        have the block that it ends with."""
        ledger, proofs, head = state
        if ledger.height > height_max:
            return False
        stored = [each.head for each in self._store.blocks(ledger.height, ledger.height)]
        if stored != [ledger.head]:
            return False
        self.ledger, self.proofs, self.head = ledger, proofs, head
        self.resumed_height = ledger.height
        return True

    def restore(self) -> Iterator[FinalBlock]:
        """Executes the stored blocks above the state again. Raises BlockStoreError."""
        first = self.ledger.height + 1
        for height, sealed in enumerate(self._store.blocks(first, self._store.height), first):
            try:
                block = FinalBlock.of(height, sealed)
                self.ledger.append(block.block, check_signatures=False)
            except (PeerFault, AssertionError) as error:
                raise self._store.damaged(error) from error
            self._advance(block)
            yield block
        self.tracker.membership = self.ledger.membership
        self.tracker.resume(self.ledger.height, self.ledger.head_hash)

    def feed(self, seal: Seal) -> tuple[list[FinalBlock], list[Conflict]]:
        """Takes one replica's seal: the blocks that became final, and the contradictions found.

        Raises PeerFault for a seal that only a faulty replica sends.
        """
        with refusing():
            first = self.tracker.feed(seal)
            height = Head.decode(seal.head).height
        self._claimed[seal.replica] = max(height, self._claimed.get(seal.replica, 0))
        self._stated.add(seal.replica)
        conflicts = [] if first is None else [first]
        blocks = []
        while (final := self.tracker.next_final()) is not None:
            blocks.append(self._append(final))
            conflicts += final.conflicts
        return blocks, conflicts

    def too_far(self, seal: Seal) -> bool:
        """Whether the seal is above the window of seals that are kept. It must be sent again."""
        return Head.decode(seal.head).height > self.height + WINDOW_BLOCKS_MAX

    def _append(self, final: Final) -> FinalBlock:
        self.brought[final.source] += 1
        self.ledger.append(final.block, check_signatures=False)
        self.tracker.membership = self.ledger.membership
        block = FinalBlock.of(final.height, SealedBlock.of(final))
        requests = [each.request for each in block.statements]
        self._store.append(final.height, block.sealed, requests)
        self._advance(block)
        return block

    def _advance(self, block: FinalBlock) -> None:
        for position, statement in enumerate(block.statements):
            if statement.epoch is not None and statement.status == OK:
                self.proofs.follow(block.inclusions[position])
        only = SealedBlock(head=block.sealed.head, seals=block.sealed.seals)
        self.head = encode_range(BlockRange(start=block.height, blocks=(only,)))

    # --- questions --------------------------------------------------------------------------------

    def is_final(self, request: bytes) -> bool:
        return self._store.find(request) is not None

    def find(self, request: bytes) -> tuple[FinalBlock, int]:
        """(block, position of the record) of a request that is final."""
        found = self._store.find(request)
        assert found is not None, "is_final"
        height, position = found
        return FinalBlock.of(height, next(self._store.blocks(height, height))), position

    def block(self, height: int) -> FinalBlock | None:
        """A final block from the store."""
        sealed = next(self._store.blocks(height, height), None)
        return None if sealed is None else FinalBlock.of(height, sealed)

    def receipt(self, block: FinalBlock, position: int) -> bytes:
        """The proof of one record, under members that its reader knows (`steps`)."""
        return encode_proof(Proof(record=block.inclusions[position], epochs=()))

    def steps(self, device: str, epoch: int, *, again: bool) -> Iterator[bytes]:
        """Encoded ranges without blocks: the proofs of the membership changes up to an epoch that
        the device was not sent yet. All of them if it asks `again`, as it may lack some."""
        first = 0 if again else self._sent.pop(device, 0)
        if epoch:
            self._sent[device] = epoch
            if len(self._sent) > DEVICES_KEPT_MAX:
                del self._sent[next(iter(self._sent))]
        part: list[Inclusion] = []
        for step in self.proofs.steps[first:epoch]:
            if part and (len(part) == EPOCHS_MAX or _size([*part, step]) > STEPS_BYTES_MAX):
                yield encode_range(BlockRange(start=1, blocks=(), epochs=tuple(part)))
                part = []
            part.append(step)
        if part:
            yield encode_range(BlockRange(start=1, blocks=(), epochs=tuple(part)))

    def range(self, start: int, bytes_max: int, bodies: bool) -> tuple[int, bytes]:
        """(number of blocks, encoded `BlockRange`) from `start` on. Without `bodies`: heads only,
        and the proofs of the membership changes among them."""
        blocks = self._store.range(start, bytes_max, bodies)
        last = start + len(blocks) - 1
        epochs = [] if bodies else list(self._epochs_between(start, last))
        if len(epochs) > EPOCHS_MAX:
            last = Head.decode(epochs[EPOCHS_MAX].head).height - 1
            blocks, epochs = blocks[: last + 1 - start], epochs[:EPOCHS_MAX]
        return len(blocks), join(start, blocks, tuple(epochs))

    def _epochs_between(self, start: int, last: int) -> Iterator[Inclusion]:
        for step in self.proofs.steps:
            boundary = decode_leaf(step.leaf).boundary or 0
            if boundary + 1 >= start and Head.decode(step.head).height <= last:
                yield step


def _size(steps: list[Inclusion]) -> int:
    return sum(len(each.leaf) + 80 * len(each.seals) + 33 * len(each.path) + 256 for each in steps)
