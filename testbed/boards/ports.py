"""Which serial ports a host has, and which of them is a board of the inventory.

A board is found by its USB serial number, or by its place in the USB tree if it has none; never by
`/dev/ttyACM0`, which changes with the order of booting and plugging. The program on the host is
`list_ports.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from inventory.entries import Board
from testbed import programs
from testbed.hosts.port import Host, HostFault

__all__ = ["SerialPort", "find_board", "matching", "serial_ports"]


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A port of a host. `path`: the name by which to open it; it stays with the board, or with the
    place if the board has no serial of its own. `device`: the device file that it has now."""

    path: str
    device: str
    usb_serial: str | None = None
    usb_path: str | None = None
    product: str | None = None


def serial_ports(host: Host) -> list[SerialPort]:
    """Every USB serial port of a host now. The host needs only python3."""
    printed = host.run(programs.python("python3", "boards/list_ports.py")).stdout
    try:
        return msgspec.json.decode(printed, type=list[SerialPort])
    except msgspec.DecodeError as error:
        raise HostFault(host.name, "list serial ports", f"strange answer: {error}") from error


def matching(board: Board, ports: Sequence[SerialPort]) -> list[SerialPort]:
    """The ports that fit the inventory's `match`."""
    match = board.match
    if match is None:
        return []
    if match.device is not None:
        named = [port for port in ports if match.device in (port.path, port.device)]
        return named or [SerialPort(match.device, match.device)]
    return [
        port
        for port in ports
        if (match.usb_serial is not None and port.usb_serial == match.usb_serial)
        or (match.usb_path is not None and port.usb_path == match.usb_path)
    ]


def find_board(host: Host, name: str, board: Board) -> SerialPort:
    """The one port that is this board; LabFault if there is none, or more than one."""
    ports = serial_ports(host)
    found = matching(board, ports)
    if len(found) == 1:
        return found[0]
    wanted = board.match.model_dump(exclude_none=True) if board.match else {}
    what = ", ".join(f"{key} {value}" for key, value in wanted.items())
    if found:
        problem = f"{len(found)} ports match {what}: {', '.join(port.path for port in found)}"
        raise HostFault(host.name, f"find board {name}", problem, "match by usb_path")
    seen = ", ".join(f"{port.usb_serial} at {port.path}" for port in ports) or "none"
    fix = "plug it in, or correct match: (testbed inventory discover prints what is there)"
    problem = f"no port with {what}; there are: {seen}"
    raise HostFault(host.name, f"find board {name}", problem, fix)
