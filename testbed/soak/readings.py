"""Readings that a board may forget because they were acknowledged: each must be on the chain, or
wait in its device's backlog.

The acknowledgements are in the serial log of the device. Such a reading has no receipt until the
chain has answered, so the property `durability` does not cover it.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import msgspec

from gateway.serial.frames import Frame, decode_line
from gateway.serial.session import kind_ack, kind_reading
from gateway.serial.tinycbor import decode
from nodes.device.sender import Reading
from testbed.checks.evidence import Evidence
from testbed.checks.logs import ReadingLeftOut, SerialFrame
from testbed.checks.records import board_readings
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["Place", "acknowledged", "forgotten", "waiting"]

Place = tuple[str, int, int]
"""Board, its boot, number of the reading."""

_FILE = "backlog.sqlite"


def waiting(deployment: Deployment) -> frozenset[Place]:
    """The readings in the backlogs of this machine's devices. Call it before the ledger is copied,
    because a reading leaves its backlog when it is on the chain."""
    devices = deployment.with_role("environment")
    return frozenset(place for node in devices for place in _backlog(deployment, node))


def _backlog(deployment: Deployment, node: Node) -> Iterator[Place]:
    """Reads one backlog. The device is stopped while the files are copied, because it has them
    open."""
    host = deployment.host(node)
    with tempfile.TemporaryDirectory() as directory:
        host.signal(node.unit, SIGSTOP)
        try:
            for path in Path(str(host.root), node.file("state")).glob(f"{_FILE}*"):
                shutil.copy(path, directory)
        finally:
            host.signal(node.unit, SIGCONT)
        with closing(sqlite3.connect(Path(directory) / _FILE)) as backlog:
            for (payload,) in backlog.execute("SELECT payload FROM entry").fetchall():
                reading = msgspec.json.decode(payload, type=Reading)
                if reading.board is not None and reading.boot is not None:
                    yield reading.board, reading.boot, reading.number


def acknowledged(board: str, frames: list[SerialFrame], until_ns: int) -> set[Place]:
    """The readings that a device acknowledged to its board. One acknowledgement covers all readings
    of the board up to a number."""
    sent: set[tuple[int, int]] = set()
    upto = (0, 0)
    for each in frames:
        item = decode_line(bytes.fromhex(each.frame)) if each.t <= until_ns else None
        if not isinstance(item, Frame) or item.kind not in (kind_reading, kind_ack):
            continue
        boot, number, *_ = decode(item.payload)
        if item.kind == kind_reading:
            sent.add((boot, number))
        else:
            upto = max(upto, (boot, number))
    return {(board, *each) for each in sent if each <= upto}


def forgotten(evidence: Evidence, waits: frozenset[Place], until_ns: int) -> tuple[int, list[str]]:
    """How many readings were acknowledged until this time, and a line for each that is lost."""
    kept = waits | {place for _, place in board_readings(evidence.longest.entries)}
    kept |= {(e.board, e.board_boot, e.number) for e in evidence.events(ReadingLeftOut)}
    boards = sorted(path.stem for path in (evidence.run.path / "raw/serial").glob("*.log"))
    acked = {p for board in boards for p in acknowledged(board, evidence.serial(board), until_ns)}
    lost = [
        f"lost: reading {number} of boot {boot} was acknowledged to {board}, "
        "but is neither on the chain nor in a backlog"
        for board, boot, number in sorted(acked - kept)
    ]
    return len(acked), lost
