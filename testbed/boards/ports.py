"""Which serial ports a host has, and which of them is a board of the inventory.

By identity, never by `/dev/ttyACM0`: boot order and replugging change that. What counts is the USB
serial number, or the place in the USB tree for boards that have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inventory.model import Board
from testbed.hosts.port import Host, HostFault

__all__ = ["SerialPort", "find_board", "matching", "serial_ports"]

# The kernel's device tree tells serial number and place; udev's link is the name to open it by. A
# port without a USB parent (an emulated board) has only the link, whose name holds the serial.
_PROGRAM = r"""
import json, os, re
from pathlib import Path
def read(path):
    try:
        return path.read_text().strip()
    except OSError:
        return None
links = {}
for link in sorted(Path("/dev/serial/by-id").glob("*")):
    links[os.path.realpath(link)] = str(link)
ports = []
for tty in sorted(Path("/sys/class/tty").glob("*")):
    if not (tty / "device").exists():
        continue
    interface = (tty / "device").resolve()
    for place in (interface, *interface.parents):
        if (place / "idVendor").exists():
            device = "/dev/" + tty.name
            child = next(p for p in (interface, *interface.parents) if p.parent == place)
            ports.append({"path": links.pop(device, device), "device": device,
                "usb_serial": read(place / "serial"), "usb_path": child.name,
                "product": read(place / "product")})
            break
for device, link in links.items():
    found = re.search(r"_([^_]+)-if\d+", link)
    ports.append({"path": link, "device": device, "usb_serial": found and found[1],
        "usb_path": None, "product": Path(link).name.rpartition("_")[0].removeprefix("usb-")})
print(json.dumps(ports))
"""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A port of a host. `path` is the stable name to open it by, `device` what it is today."""

    path: str
    device: str
    usb_serial: str | None = None
    usb_path: str | None = None
    product: str | None = None


def serial_ports(host: Host) -> list[SerialPort]:
    """Every USB serial port of a host now. Needs python3 there, nothing of ours."""
    printed = host.run(["python3", "-c", _PROGRAM]).stdout
    try:
        rows: list[dict[str, Any]] = json.loads(printed)
        return [SerialPort(**row) for row in rows]
    except (ValueError, TypeError) as error:
        raise HostFault(host.name, "list serial ports", f"strange answer: {error}") from error


def matching(board: Board, ports: Sequence[SerialPort]) -> list[SerialPort]:
    """The ports that the inventory's `match` fits."""
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
        raise HostFault(host.name, f"find board {name}", problem, "unplug the others")
    seen = ", ".join(f"{port.usb_serial} at {port.path}" for port in ports) or "none"
    fix = "plug it in, or correct match: (testbed inventory discover prints what is there)"
    problem = f"no port with {what}; there are: {seen}"
    raise HostFault(host.name, f"find board {name}", problem, fix)
