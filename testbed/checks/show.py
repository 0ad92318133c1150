"""Stored blocks in the fields of the paper's figure of a block, for people and programs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec

from testbed.checks.records import Chain, Entry, StoredHead, read_chain

__all__ = ["ShownBlock", "ShownRecord", "shown_blocks"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ShownRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a block's body. `public_key` is the SPKI in hex, `certificate` its serial."""

    node_id: str
    operation: str
    operation_status: str
    privilege_level: int | None
    access_time: str
    access_time_us: int
    service_type: str | None
    public_key: str | None
    certificate: int | None
    request_id: str
    by: str | None
    board: str | None
    counter: int | None


class ShownBlock(msgspec.Struct, frozen=True, kw_only=True):
    """Head and body. Times are consensus time; hashes are SHA-256 in hex."""

    id: int
    time_stamp: str
    time_stamp_us: int
    target_block_hash: str
    previous_merkle_root: str
    merkle_root: str
    hash: str
    view: int
    epoch: int
    body: tuple[ShownRecord, ...]


def shown_blocks(
    paths: Sequence[Path], *, height: int | None = None, last: int
) -> tuple[ShownBlock, ...]:
    """The block of one height, or the last few, from the longest of these chains."""
    chains = [read_chain(path) for path in paths]
    chain = max(chains, key=lambda each: each.height)
    wanted = [head.height for head in chain.heads[-last:]] if height is None else [height]
    return tuple(_blocks(chain, frozenset(wanted)))


def _blocks(chain: Chain, heights: frozenset[int]) -> list[ShownBlock]:
    bodies: dict[int, list[Entry]] = {height: [] for height in heights}
    for entry in chain.entries:
        if entry.height in bodies:
            bodies[entry.height].append(entry)
    return [_block(head, bodies[head.height]) for head in chain.heads if head.height in heights]


def _block(stored: StoredHead, entries: Sequence[Entry]) -> ShownBlock:
    head = stored.head
    return ShownBlock(
        id=stored.height,
        time_stamp=_utc(head.time_us),
        time_stamp_us=head.time_us,
        target_block_hash=head.parent.hex(),
        previous_merkle_root=head.parent_root.hex(),
        merkle_root=head.root.hex(),
        hash=stored.hash.hex(),
        view=head.view,
        epoch=head.epoch,
        body=tuple(map(_record, entries)),
    )


def _record(entry: Entry) -> ShownRecord:
    statement = entry.statement
    return ShownRecord(
        node_id=statement.node.hex(),
        operation=statement.op,
        operation_status=statement.status,
        privilege_level=statement.privilege,
        access_time=_utc(statement.time_us),
        access_time_us=statement.time_us,
        service_type=statement.service,
        public_key=None if statement.key is None else statement.key.hex(),
        certificate=statement.certificate,
        request_id=statement.request.hex(),
        by=None if statement.by is None else statement.by.hex(),
        board=None if statement.board is None else statement.board.hex(),
        counter=statement.counter,
    )


def _utc(time_us: int) -> str:
    try:
        return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")
    except OverflowError:
        return f"{time_us} us"
