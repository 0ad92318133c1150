"""The chain itself: executes decided proposals into blocks, and checks blocks that come whole.

A head commits to its records and, through each record's `item` digest, to every byte of the
body. So a body under a proven head needs only hashing. The same proposals give the same blocks on
every replica. Identities are in `registry`, proofs for others in `proofs`.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.block import Block, Head, Record, genesis_head
from chain.errors import Misuse, PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import Scheme, digest
from chain.ledger.item import open_item, read_item
from chain.ledger.pruning import is_data, read_pruned
from chain.ledger.registry import Registry
from chain.ledger.statement import item_of
from chain.merkle import EMPTY_ROOT, leaf_hash, root
from chain.pbft.messages import Proposal
from chain.pbft.state_machine import Screening, VerifiedRequest

__all__ = ["Ledger", "body_fault"]

NULL_STEP_US = 1  # a null request's block is this much later than its parent


class Ledger:
    """The executed chain of one network, kept as its last head and the registry. `head` is what
    replicas sign; `height` and `time_us` (consensus time) are those of its block."""

    def __init__(self, genesis: Genesis, scheme: Scheme) -> None:
        self.genesis = genesis
        self.network = genesis.network
        self.registry = Registry(genesis)
        self._scheme = scheme
        self.head = genesis_head(self.network, genesis.time_us)
        self.head_hash = digest(self.head)
        self.height = 0
        self.time_us = genesis.time_us
        self._root = EMPTY_ROOT
        self._broken = False

    @property
    def membership(self) -> Membership:
        """The replicas that decide block `height` + 1."""
        return self.registry.membership

    @property
    def decided_membership(self) -> Membership:
        """The newest that is decided: ahead of `membership` until its boundary is passed. Its epoch
        rises by one with the block that changes the membership (`Executed.membership`)."""
        return self.registry.decided_membership

    def screen(self, request: VerifiedRequest) -> Screening:
        """Whether `request` may stand in a batch, judged on the state executed so far."""
        return self.registry.screen(request)

    def open(self, item: bytes) -> VerifiedRequest:
        """Opens a batch item that was verified before it was stored; for a restart of the core."""
        return read_item(item, self.network)

    def execute(self, proposal: Proposal, requests: Sequence[VerifiedRequest], epoch: int) -> Block:
        """Executes the next decided proposal. `requests` are those of its items, in order.

        Raises Misuse if it does not follow the last block: the core decides in order, one epoch at
        a time.
        """
        if len(requests) != len(proposal.items):
            raise Misuse(f"{len(requests)} requests for {len(proposal.items)} items")
        # A null request has time 0, and proposals of different views may meet out of order.
        time_us = max(proposal.time_us, self.time_us + NULL_STEP_US)
        items = [(request, digest(request.item)) for request in requests]
        return self._execute(proposal.seq, time_us, proposal.view, items, epoch)

    def _execute(
        self,
        height: int,
        time_us: int,
        view: int,
        items: Sequence[tuple[VerifiedRequest, bytes]],
        epoch: int,
    ) -> Block:
        """`items`: each request and the SHA-256 of its batch item."""
        self._assert_not_broken()
        if height != self.height + 1 or time_us <= self.time_us or epoch != self.membership.epoch:
            raise Misuse(
                f"block {height} at {time_us} in epoch {epoch} does not follow "
                f"{self.height} at {self.time_us} in epoch {self.membership.epoch}"
            )
        records = []
        hashes = []
        apply = self.registry.apply
        for index, (request, item) in enumerate(items):
            leaf = apply(request, item, height, index, time_us)
            hashes.append(leaf_hash(leaf))
            records.append(Record(leaf, request.item))
        merkle_root = root(hashes)
        head = Head(
            network=self.network,
            height=height,
            time_us=time_us,
            parent=self.head_hash,
            parent_root=self._root,
            root=merkle_root,
            epoch=epoch,
            view=view,
            count=len(records),
        ).encode()
        self.head, self.head_hash, self._root = head, digest(head), merkle_root
        self.height, self.time_us = height, time_us
        self.registry.end_block(height, time_us, self.head_hash)
        return Block(head, tuple(records))

    def append(self, block: Block, check_signatures: bool) -> None:
        """Executes a block from our store or from a peer, and checks that the result equals it. The
        block may be pruned: a record without its item has no signature to check.

        Raises PeerFault; its message begins with the field at fault: "bad-head", "bad-link"
        (height, network, parent, parent_root, time_us, epoch), "bad-body" (count, root, record),
        or what `open_item` raises. These change nothing. "bad-execution" means that the records
        are not what their items lead to. Then this ledger refuses all further work. It cannot
        happen below a head that f+1 replicas signed.
        """
        self._assert_not_broken()
        head = self._linked(block)
        fault = body_fault(block, head)
        if fault is not None:
            raise PeerFault("bad-body", f"{fault} of height {head.height}")
        items = [
            (self._request(record, check_signatures), item_of(record.leaf))
            for record in block.records
        ]
        made = self._execute(head.height, head.time_us, head.view, items, head.epoch)
        if made != block:
            self._broken = True
            wrong = _first_difference(made, block)
            raise PeerFault("bad-execution", f"{wrong} of height {head.height}")

    def _request(self, record: Record, check_signatures: bool) -> VerifiedRequest:
        if not record.item:
            return read_pruned(record.leaf, self.network)
        if check_signatures:
            return open_item(record.item, self.network, self.membership, self._scheme)
        return read_item(record.item, self.network)

    def _assert_not_broken(self) -> None:
        if self._broken:
            raise Misuse("this ledger met a block that it could not reproduce: rebuild it")

    def _linked(self, block: Block) -> Head:
        head = Head.decode(block.head)
        for field, found, wanted in (
            ("network", head.network, self.network),
            ("height", head.height, self.height + 1),
            ("parent", head.parent, self.head_hash),
            ("parent_root", head.parent_root, self._root),
            ("epoch", head.epoch, self.membership.epoch),
            ("time_us", head.time_us > self.time_us, True),
        ):
            if found != wanted:
                raise PeerFault("bad-link", f"{field} of height {self.height + 1}")
        return head


def body_fault(block: Block, head: Head) -> str | None:
    """Which part of the body differs from what its head commits to; None if no part does."""
    if head.count != len(block.records):
        return "count"
    if head.root != root([leaf_hash(record.leaf) for record in block.records]):
        return "root"
    for index, record in enumerate(block.records):
        if not record.item and is_data(record.leaf):
            continue  # pruned
        # The field is decoded, not searched for: another field may hold any 32 bytes that its
        # signer likes.
        if item_of(record.leaf) != digest(record.item):
            return f"record {index} item"
    return None


def _first_difference(made: Block, block: Block) -> str:
    for index, (mine, theirs) in enumerate(zip(made.records, block.records, strict=True)):
        if mine != theirs:
            return f"record {index} statement"
    return "head"
