"""The state of each sensor board of a host: whether it is there, flashed, and read by its device.

The program on the host is `look_on_host.py`. Times are the host's wall time. The caller knows which
processes run. `ports` finds the ports.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from inventory.entries import Board
from inventory.model import Lab
from nodes.board.flash import firmware_hash
from testbed import programs
from testbed.boards.flash import is_plugged
from testbed.boards.ports import SerialPort, matching, serial_ports
from testbed.hosts.port import Host, HostFault

__all__ = ["BoardSeen", "BoardState", "look_at_boards"]

CONNECTED = "connected"
LOST = "lost: "


class BoardState(StrEnum):
    """UNKNOWN: its host did not answer. LEFT_OUT: its host is quarantined."""

    READ = "read"
    NOT_READ = "not read"
    UNPLUGGED = "unplugged"
    NOT_FLASHED = "not flashed"
    LEFT_OUT = "left out"
    UNKNOWN = "unknown"


class BoardSeen(msgspec.Struct, frozen=True, kw_only=True):
    """None means unknown. `firmware`: SHA-256 of what was flashed; `current`: whether this checkout
    would flash the same. `reader`: the process that reads the board now. `since_s`: since when it
    has been read, or lost. `reading_s`: when its last reading was taken."""

    name: str
    host: str
    state: BoardState
    why: str = ""
    port: str | None = None
    firmware: str | None = None
    current: bool = False
    reader: str | None = None
    since_s: float | None = None
    reading_s: float | None = None


class _Event(msgspec.Struct, frozen=True):
    state: str
    at_s: float


class Files(msgspec.Struct, frozen=True):
    """What the files on the host say of one board. `port`: the device to which its link points."""

    firmware: str | None
    port: str | None
    event: _Event | None
    reading_s: float | None


def look_at_boards(lab: Lab, host: Host, runs: Callable[[str], bool]) -> list[BoardSeen]:
    """The boards of one host; changes nothing. `runs` tells whether the process of a name runs.

    Raises LabFault.
    """
    boards = {name: one for name, one in lab.boards_in_use().items() if one.host == host.name}
    if not boards:
        return []
    reader = lab.process(host.name, "environment")
    said = host.run(programs.python("python3", "boards/look_on_host.py", reader, *boards)).stdout
    try:
        files = msgspec.json.decode(said, type=dict[str, Files])
    except msgspec.DecodeError as error:
        raise HostFault(host.name, "look at boards", f"strange answer: {error}") from error
    ports = serial_ports(host) if any(map(is_plugged, boards.values())) else []
    reads = reader if runs(reader) else None
    return [
        _seen(host, name, one, files[name], _ports(host, one, files[name], ports), reader=reads)
        for name, one in boards.items()
    ]


def _ports(host: Host, board: Board, files: Files, ports: list[SerialPort]) -> list[str]:
    """Where the board is; several ports if its `match` fits several."""
    if not is_plugged(board):
        return [files.port] if files.port else []
    found = [port.path for port in matching(board, ports)]
    # The inventory may name a fixed device file that does not exist now.
    return [path for path in found if host.exists(path)]


def _seen(
    host: Host, name: str, board: Board, files: Files, ports: list[str], *, reader: str | None
) -> BoardSeen:
    event = files.event if reader else None
    state, why = _state(board, files, ports, event, reader)
    tells = event is not None and (
        event.state == CONNECTED if state is BoardState.READ else event.state.startswith(LOST)
    )
    return BoardSeen(
        name=name,
        host=host.name,
        state=state,
        why=why,
        port=ports[0] if len(ports) == 1 else None,
        firmware=files.firmware,
        current=files.firmware == firmware_hash(),
        reader=reader if state is BoardState.READ else None,
        since_s=event.at_s if event is not None and tells else None,
        reading_s=files.reading_s,
    )


def _state(
    board: Board, files: Files, ports: list[str], event: _Event | None, reader: str | None
) -> tuple[BoardState, str]:
    """The state, and the reason in words."""
    if len(ports) > 1:
        return BoardState.NOT_READ, f"{len(ports)} ports match: {', '.join(ports)}"
    if not ports and not is_plugged(board) and reader is None:
        return BoardState.NOT_READ, "a process that starts with the lab"
    if not ports:
        return BoardState.UNPLUGGED, event.state if event and event.state != CONNECTED else ""
    if files.firmware is None:
        return BoardState.NOT_FLASHED, "testbed flash -i FILE"
    if reader is None:
        return BoardState.NOT_READ, "flashed; no process reads it"
    if event is None:
        return BoardState.NOT_READ, f"{reader} has not opened it yet"
    if event.state != CONNECTED:
        return BoardState.NOT_READ, f"{reader}: {event.state}"
    return BoardState.READ, f"by {reader}"
