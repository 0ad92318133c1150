"""What an emulated lab will be: names, addresses and roles, all from a few options. Pure.

One address per host, two cables: the orchestrator reaches `addr` over eth0 (a kernel bridge, never
shaped), the hosts reach each other's `addr` over eth1 (where link faults happen). Routes do that.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

__all__ = [
    "HOSTS_MAX",
    "Board",
    "LabPlan",
    "Machine",
    "Options",
    "make_plan",
]

HOSTS_MAX = 64
BOARDS_MAX = 64
_FIRST_ADDRESS = 11


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. `cpu_percent` of one core, None for no limit."""

    hosts: int
    boards: int
    systemd: bool
    cpu_percent: int | None
    disk_mb: int


@dataclass(frozen=True, slots=True)
class Machine:
    """One emulated host."""

    name: str
    addr: str
    mgmt_mac: str
    data_mac: str
    hw_serial: str
    roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One emulated sensor board, plugged into a host; `port` is its name there."""

    name: str
    host: str
    usb_serial: str

    @property
    def port(self) -> str:
        """As udev names a board's port in /dev/serial/by-id."""
        return f"usb-MicroPython_Board_in_FS_mode_{self.usb_serial}-if00"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """The whole lab. `lab_id` is four hexadecimal digits and part of every name made."""

    lab_id: str
    options: Options
    network: str
    shaping: str
    machines: tuple[Machine, ...]
    boards: tuple[Board, ...]

    @property
    def gateway_addr(self) -> str:
        """The orchestrator's own address on the management network."""
        return str(IPv4Network(self.network)[1])

    @property
    def uplink(self) -> str:
        """The only interface outside the lab's namespaces."""
        return f"tbe-{self.lab_id}"


def make_plan(lab_id: str, options: Options, network: IPv4Network, shaping: str) -> LabPlan:
    """Replicas first: the largest 3f+1; the hosts beyond carry gateway, boards and mobiles.

    Without hosts beyond, replicas carry these too, as in a lab of four.
    """
    names = [f"pi{n:02}" for n in range(1, options.hosts + 1)]
    replicas = 3 * ((options.hosts - 1) // 3) + 1
    extra = names[replicas:] or names
    carriers = extra[-2:]
    roles: dict[str, list[str]] = {name: [] for name in names}
    for name in names[:replicas]:
        roles[name].append("replica")
    roles[extra[0]] += ["gateway", "broker"]
    boards = tuple(
        Board(f"th{n:02}", carriers[-1 - n % len(carriers)], f"EMU{lab_id.upper()}{n:04}")
        for n in range(1, options.boards + 1)
    )
    for name in {board.host: None for board in boards} or {names[-1]: None}:
        roles[name].append("environment")
    roles[names[-1]].append("mobile")
    machines = tuple(
        Machine(
            name,
            str(IPv4Address(network[_FIRST_ADDRESS + n])),
            f"02:7b:{lab_id[:2]}:{lab_id[2:]}:00:{n + 1:02x}",
            f"02:7b:{lab_id[:2]}:{lab_id[2:]}:01:{n + 1:02x}",
            f"10000000{lab_id}{n + 1:04x}",
            tuple(roles[name]),
        )
        for n, name in enumerate(names)
    )
    return LabPlan(lab_id, options, str(network), shaping, machines, boards)
