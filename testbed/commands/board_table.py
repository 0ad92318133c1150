"""The table of sensor boards, as `testbed board list` and `testbed status` print it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from testbed.boards.state import BoardSeen
from testbed.commands.options import columns
from testbed.printed import as_typed

__all__ = ["board_table"]

HASH_DIGITS = 16

_HEADING = ("BOARD", "HOST", "PORT", "FIRMWARE", "STATE", "SINCE", "LAST READING")


def board_table(boards: Iterable[BoardSeen]) -> str:
    """One row per board; times in this machine's time zone."""
    return columns([_HEADING, *map(_row, boards)])


def _row(board: BoardSeen) -> tuple[str, ...]:
    firmware = "not known"
    if board.firmware is not None:
        version = "this version" if board.current else "another version"
        firmware = f"{board.firmware[:HASH_DIGITS]} ({version})"
    state = f"{board.state} {board.why}" if board.reader else f"{board.state}: {board.why}"
    return (
        board.name,
        board.host,
        board.port or "-",
        firmware,
        as_typed(state) if board.why else str(board.state),
        _time(board.since_s),
        _time(board.reading_s),
    )


def _time(at_s: float | None) -> str:
    return "-" if at_s is None else f"{datetime.fromtimestamp(at_s):%d %H:%M:%S}"
