"""Verifies replicas' stored databases from the genesis on, reading only the files.

It recomputes for each file: links, parent roots, Merkle roots, counts, every record's statement
from its item, every signature of devices and of endorsing replicas, the replica's own signature
over each head, the checkpoint proofs. Over all files it finds which blocks f+1 replicas have
signed. It names the first wrong thing in a file (`diagnosis`); above that nothing can be
recomputed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain as joined
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import msgspec

from chain.block import Block, Head
from chain.errors import PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import Es256, Scheme, digest
from chain.ledger.ledger import Ledger
from nodes.replica.ledger_file import (
    Damaged,
    LedgerFile,
    block_of,
    block_sum,
    encode_records,
    open_readonly,
)
from testbed.checks.checkpoint import proof_fault
from testbed.checks.diagnosis import wrong_field, wrong_signature
from testbed.checks.finding import Finding

__all__ = ["FileReport", "LedgerReport", "verify_ledgers"]

SIGNATURES_REMEMBERED_MAX = 500_000  # digests; beyond that, signatures are verified again


class FileReport(msgspec.Struct, frozen=True, kw_only=True):
    """`height` blocks were stored, and the first `verified` of them are valid. A checkpoint's
    quorum in this file proves the first `proven`. `pruned` records of data, up to height
    `pruned_to`, had no payload and signature to check."""

    file: str
    replica: int | None = None
    height: int = 0
    verified: int = 0
    records: int = 0
    proven: int = 0
    pruned: int = 0
    pruned_to: int = 0
    findings: tuple[Finding, ...] = ()


class LedgerReport(msgspec.Struct, frozen=True, kw_only=True):
    """`proven`: up to this height f+1 replicas signed the same heads, or a quorum signed a
    checkpoint."""

    network: str
    proven: int
    files: tuple[FileReport, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(joined.from_iterable(each.findings for each in self.files))

    @property
    def pruned(self) -> int:
        """How many records have no payload and signature in any file. 0 if each is whole in some
        file; otherwise the number that the most complete file lacks. Records above the end of a
        file count as lacking."""
        seen = 0  # up to here each record is whole in some file
        for each in sorted(self.files, key=lambda file: file.pruned_to):
            if each.pruned_to <= seen:
                seen = max(seen, each.verified)
        return min((each.pruned for each in self.files if each.pruned_to > seen), default=0)

    @property
    def holds(self) -> bool:
        return bool(self.files) and not self.findings


class _Row(NamedTuple):
    height: object
    head: object
    records: object
    signature: object
    sum: object


class _Remembering:
    """Verifies each signature only once, because replicas store the same records."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self._good: set[bytes] = set()

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        key = digest(b"".join((digest(public), digest(data), signature)))
        if key in self._good:
            return True
        holds = self._scheme.verify(public, data, signature)
        if holds and len(self._good) < SIGNATURES_REMEMBERED_MAX:
            self._good.add(key)
        return holds


class _Wrong(Exception):
    """`field` of the current block is wrong."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class _Vouched:
    """Which replicas signed which valid head, over all files."""

    def __init__(self) -> None:
        self._signers: dict[tuple[int, bytes], set[int]] = {}
        self._first: dict[int, tuple[bytes, str]] = {}
        self.proven = 0

    def fork(self, head_hash: bytes, height: int, file: str) -> str | None:
        """The file that has another valid head of this height; None if none has."""
        first, other = self._first.setdefault(height, (head_hash, file))
        return None if first == head_hash else other

    def signed(self, head_hash: bytes, height: int, replica: int, membership: Membership) -> None:
        if membership.spki(replica) is None:
            return
        signers = self._signers.setdefault((height, head_hash), set())
        signers.add(replica)
        if len(signers) >= membership.quorum.weak:
            self.proven = max(self.proven, height)


class _Verification:
    """Verifies one file."""

    def __init__(
        self, file: LedgerFile, name: str, genesis: Genesis, scheme: Scheme, vouched: _Vouched
    ) -> None:
        self._file = file
        self._name = name
        self._scheme = scheme
        self._vouched = vouched
        self._ledger = Ledger(genesis, scheme)
        self._memberships = {0: genesis.membership}
        self._unchecked: list[tuple[int, bytes, bytes]] = []  # signed before we knew the key
        self._heads: dict[int, bytes] = {}  # hashes of heads at checkpoints
        self._interval = genesis.consensus.checkpoint_interval
        self.findings: list[Finding] = []
        self._forked = False
        self.height = self.verified = self.records = self.proven = 0
        self.pruned = self.pruned_to = 0

    def run(self) -> None:
        """Verifies up to the first block that is not valid. Row checksums are checked to the
        end."""
        broken = False
        try:
            for row, following in _with_next(_Row(*row) for row in self._file.rows()):
                self.height += 1
                if broken:
                    self._check_sum(row)
                    continue
                try:
                    self._check(row, following)
                    self.verified += 1
                except _Wrong as wrong:
                    broken = True
                    self._found(self.verified + 1, wrong.field, str(wrong))
            if self._unchecked and not broken:
                who = f"replica {self._file.replica}, named in the file, is no member"
                self._found(0, "replica", f"{who}: no signature over its heads can be checked")
            self._check_proofs()
            if self.pruned_to > max(self.proven, self._vouched.proven):
                what = "pruned, and no quorum confirms what the devices signed"
                self._found(self.pruned_to, "record item", what)
        except Damaged as damage:
            self._found(0, "file", str(damage))

    def _found(self, height: int, field: str, detail: str) -> None:
        self.findings.append(Finding(file=self._name, height=height, field=field, detail=detail))

    def _check(self, row: _Row, following: _Row | None) -> None:
        block, signature = _decoded(row, self.verified + 1)
        membership = self._ledger.membership
        try:
            self._ledger.append(block, check_signatures=True)
        except PeerFault as fault:
            wrong = wrong_field(block, self._ledger, self._scheme, fault)
            raise _Wrong(*wrong) from fault
        # A replica that is being added follows the chain before its epoch begins.
        for each in (self._ledger.membership, self._ledger.decided_membership):
            self._memberships[each.epoch] = each
        self._check_signature(block, signature, membership, following)
        if _sum_of(row) != row.sum:
            self._found(self.verified + 1, "sum", "the row's checksum is not that of its block")
        other = self._vouched.fork(self._ledger.head_hash, self._ledger.height, self._name)
        if other is not None and not self._forked:
            self._forked = True
            self._found(self._ledger.height, "head", f"fork: {other} has another valid block")
        self.records += len(block.records)
        if block.pruned:
            self.pruned += sum(not record.item for record in block.records)
            self.pruned_to = self._ledger.height
        if self._ledger.height % self._interval == 0:
            self._heads[self._ledger.height] = self._ledger.head_hash

    def _check_signature(
        self, block: Block, signature: bytes, membership: Membership, following: _Row | None
    ) -> None:
        key = self._key()
        height = self.verified + 1
        if key is None:  # it joined later, and signed the blocks that it caught up with
            self._unchecked.append((height, block.head, signature))
            return
        for earlier, head, sig in self._unchecked:
            if not self._scheme.verify(key, head, sig):
                self._found(earlier, "signature", "the replica's signature does not hold")
        self._unchecked = []

        def holds(head: bytes) -> bool:
            return key is not None and self._scheme.verify(key, head, signature)

        if not holds(block.head):
            field, detail = wrong_signature(block.head, _parent_in(following), holds)
            if field != "signature":
                raise _Wrong(field, detail)
            self._found(height, field, detail)  # the chain itself may still hold
            return
        self._vouched.signed(block.hash, height, self._file.replica, membership)

    def _key(self) -> bytes | None:
        found = (each.spki(self._file.replica) for each in self._memberships.values())
        return next((key for key in found if key is not None), None)

    def _check_sum(self, row: _Row) -> None:
        if isinstance(row.height, int) and _sum_of(row) != row.sum:
            self._found(row.height, "sum", "the row is damaged (checksum); not checked further")

    def _check_proofs(self) -> None:
        """Each stored checkpoint: q members of its epoch signed the head that we computed."""
        for fact in self._file.stable():
            head = self._heads.get(fact.seq)
            reason = proof_fault(
                fact.data, (fact.seq, head), self._ledger.network, self._memberships, self._scheme
            )
            if reason is None:
                self.proven = max(self.proven, fact.seq)
            elif fact.seq <= self.verified:
                self._found(fact.seq, "checkpoint proof", reason)


def verify_ledgers(paths: Sequence[Path], genesis: Genesis | None = None) -> LedgerReport:
    """Checks each database, then all of them together. `genesis` is the pinned one. Without it the
    genesis of the first file is taken, and the reader must compare the printed network id."""
    scheme = _Remembering(Es256())
    vouched = _Vouched()
    reports = []
    for path in paths:
        report, genesis = _verify_file(path, genesis, scheme, vouched)
        reports.append(report)
    proven = max([vouched.proven, *(each.proven for each in reports)])
    network = genesis.network.hex() if genesis else ""
    return LedgerReport(network=network, proven=proven, files=tuple(reports))


def _verify_file(
    path: Path, genesis: Genesis | None, scheme: Scheme, vouched: _Vouched
) -> tuple[FileReport, Genesis | None]:
    name = path.name
    try:
        with open_readonly(path) as file:
            genesis = genesis or Genesis.decode(file.genesis)
            if file.genesis != genesis.encode():
                raise Damaged("is of another genesis")
            checked = _Verification(file, name, genesis, scheme, vouched)
            checked.run()
            report = FileReport(
                file=name,
                replica=file.replica,
                height=checked.height,
                verified=checked.verified,
                records=checked.records,
                proven=checked.proven,
                pruned=checked.pruned,
                pruned_to=checked.pruned_to,
                findings=tuple(checked.findings),
            )
    except (Damaged, PeerFault, OSError) as error:
        finding = Finding(file=name, height=0, field="file", detail=str(error))
        report = FileReport(file=name, findings=(finding,))
    return report, genesis


def _with_next(rows: Iterator[_Row]) -> Iterator[tuple[_Row, _Row | None]]:
    return pairwise(joined(rows, (None,)))  # type: ignore[arg-type]


def _decoded(row: _Row, height: int) -> tuple[Block, bytes]:
    """The block and the signature of a row, which must have this `height`. Raises _Wrong."""
    if row.height != height:
        raise _Wrong("height", f"the block is missing; {row.height} follows instead")
    head, records, signature = (_bytes(row, name) for name in ("head", "records", "signature"))
    try:
        Head.decode(head)
    except PeerFault as fault:
        raise _Wrong("head.tag", str(fault)) from fault
    try:
        block = block_of(head, records)
    except Damaged as damage:
        raise _Wrong("records", str(damage)) from damage
    if encode_records(block) != records:
        raise _Wrong("records", "are not in the canonical encoding")
    return block, signature


def _bytes(row: _Row, name: str) -> bytes:
    value = getattr(row, name)
    if not isinstance(value, bytes):
        raise _Wrong(name, "is not bytes")
    return value


def _sum_of(row: _Row) -> int | None:
    match row:
        case _Row(int() as height, bytes() as head, bytes() as records, bytes() as signature):
            return block_sum(height, head, records, signature)
        case _:
            return None


def _parent_in(row: _Row | None) -> bytes | None:
    if row is None or not isinstance(row.head, bytes):
        return None
    try:
        return Head.decode(row.head).parent
    except PeerFault:
        return None
