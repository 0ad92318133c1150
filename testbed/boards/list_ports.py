"""Runs on a board's host: prints every USB serial port there, as JSON of `ports.SerialPort`.

Serial number and place come from the kernel's device tree. The names to open a port by are udev's
links: `by-id` follows the board, `by-path` follows the place. Boards with equal serials, or without
one, share a `by-id` link, so it is used only if the serial is unique on this host. A port without a
USB parent (an emulated board) has only a link, and its name contains the serial.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

__all__ = ["ports"]


def read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def links(folder: Path) -> dict[str, str]:
    """By device, the first link to it."""
    found: dict[str, str] = {}
    for link in sorted(folder.glob("*")):
        found.setdefault(os.path.realpath(link), str(link))
    return found


def usb_ports(dev: Path, sys_class: Path) -> list[dict[str, str | None]]:
    """The ports as the kernel lists them, still without `path`."""
    found = []
    for tty in sorted(sys_class.glob("tty/*")):
        if not (tty / "device").exists():
            continue
        interface = (tty / "device").resolve()
        below = interface
        for place in (interface, *interface.parents):
            if (place / "idVendor").exists():
                found.append(
                    {
                        "device": str(dev / tty.name),
                        "usb_serial": read(place / "serial"),
                        "usb_path": below.name,
                        "product": read(place / "product"),
                    }
                )
                break
            below = place
    return found


def ports(
    dev: Path = Path("/dev"), sys_class: Path = Path("/sys/class")
) -> list[dict[str, str | None]]:
    """Every port of this host."""
    by_id, by_path = links(dev / "serial/by-id"), links(dev / "serial/by-path")
    found = usb_ports(dev, sys_class)
    count = Counter(port["usb_serial"] for port in found)
    for port in found:
        device = str(port["device"])
        stable = by_id.pop(device, None)
        if port["usb_serial"] is None or count[port["usb_serial"]] > 1:
            stable = by_path.get(device)
        port["path"] = stable or by_path.get(device, device)
    for device, link in by_id.items():
        serial = re.search(r"_([^_]+)-if\d+", link)
        found.append(
            {
                "path": link,
                "device": device,
                "usb_serial": serial[1] if serial else None,
                "usb_path": None,
                "product": Path(link).name.rpartition("_")[0].removeprefix("usb-"),
            }
        )
    return found


if __name__ == "__main__":
    json.dump(ports(), sys.stdout)
