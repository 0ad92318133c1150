"""Asks the hosts for their inventory entries: host keys, hardware serials, boards.

Host keys are only shown. A person accepts one with `testbed inventory trust`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inventory.model import Lab
from testbed.boards.ports import SerialPort, matching, serial_ports
from testbed.care.conditions import open_facts, read_facts
from testbed.doctor import Condition
from testbed.errors import ConfigurationError
from testbed.fleet import Step
from testbed.hosts.host_keys import fingerprint, known_keys
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.openssh import LoginUnusable
from testbed.hosts.port import Host
from testbed.hosts.ssh_link import OfferedKey

__all__ = ["Discovered", "discover_host", "offer", "suggestion"]


@dataclass(frozen=True, slots=True)
class Discovered:
    """One host's hardware serial ("" if it has none) and USB serial ports."""

    hw_serial: str
    ports: tuple[SerialPort, ...]


def discover_host(host: Host, step: Step) -> Discovered:
    """Ask a host; changes nothing."""
    step("looking")
    with open_facts(host, "python3") as dialogue:
        serial = read_facts(dialogue, "doctor", Condition).hw_serial
    return Discovered(serial, tuple(serial_ports(host)))


def suggestion(lab: Lab, found: Mapping[str, Discovered]) -> str:
    """Lines for the inventory file, each with a comment: add this, or as stated."""
    lines = ["hosts:"]
    for name, one in found.items():
        stated = lab.hosts[name].hw_serial
        if not one.hw_serial:
            lines.append(f"  {name}: # has no hardware serial")
        elif stated and stated.lower() == one.hw_serial.lower():
            lines.append(f'  {name}: {{hw_serial: "{one.hw_serial}"}} # as stated')
        else:
            other = f" # the inventory says {stated}" if stated else " # add this"
            lines.append(f'  {name}: {{hw_serial: "{one.hw_serial}"}}{other}')
    lines.append("boards:")
    for name, one in found.items():
        boards = {n: b for n, b in lab.boards.items() if b.host == name}
        for port in one.ports:
            known = [n for n, board in boards.items() if matching(board, one.ports) == [port]]
            label = known[0] if known else "NAME"
            note = "as stated" if known else f"add this: {port.product or 'unknown product'}"
            match = _match(port, one.ports)
            lines.append(f"  {label}: {{host: {name}, match: {{{match}}}}} # {note}")
    return "\n".join(lines)


def _match(port: SerialPort, ports: Sequence[SerialPort]) -> str:
    """A `match` that fits only this port of its host: many boards are sold with equal serials."""
    alike = [other for other in ports if other.usb_serial == port.usb_serial]
    if port.usb_serial and len(alike) == 1:
        return f'usb_serial: "{port.usb_serial}"'
    return f'usb_path: "{port.usb_path}"' if port.usb_path else f'device: "{port.path}"'


def offer(lab: Lab, name: str) -> tuple[OfferedKey, str]:
    """Ask a host for its key without logging in. Also gives the fingerprint that is trusted so far,
    or "". A jump host must be trusted already."""
    if name not in lab.hosts or lab.hosts[name].connection != "ssh":
        have = ", ".join(n for n, h in lab.hosts.items() if h.connection == "ssh") or "none"
        raise ConfigurationError(f"{name} is no ssh host of this inventory; there are: {have}")
    with ssh_hosts(lab, [name]) as hosts:
        shown = hosts[name].offered_key()
    try:
        known = known_keys([shown.known_hosts], shown.entry).trusted
    except LoginUnusable as error:
        raise ConfigurationError(f"{error}; {error.fix}") from error
    return shown, ", ".join(map(fingerprint, known))
