"""Plans an emulated lab: names, addresses and roles, all from a few options. Pure.

Each host has two networks with an address on each: management (eth0, a kernel bridge that nothing
shapes; SSH and the clocks) and data (eth1, where the processes listen and link faults happen).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Literal

__all__ = [
    "HOSTS_MAX",
    "EmulatedBoard",
    "EmulatedMachine",
    "EmulationOptions",
    "LabPlan",
    "Login",
    "Oddity",
    "Shaping",
    "make_plan",
]

HOSTS_MAX = 64
BOARDS_MAX = 64
_FIRST_ADDRESS = 11
_ORCHESTRATOR = 1

Login = Literal["pi", "root"]
"""Who logs in: `pi` with sudo and a home of its own, as on a Raspberry Pi; or root."""

Shaping = Literal["netem", "switch"]
"""What shapes links: the kernel's `tc netem`, or the keeper's own switch."""

Oddity = Literal["none", "umask", "locale", "clock"]
"""Something unusual about one host: `umask 077`, a German locale, or a clock that is behind at each
start until time sync steps it."""

_ODDITIES: dict[str, Oddity] = {"pi02": "umask", "pi03": "locale"}
_CLOCK_HOSTS_MIN = 4  # the last host's clock is behind at each start


@dataclass(frozen=True, slots=True)
class EmulationOptions:
    """What the command line asks for. `cpu_percent` of one core, None for no limit.

    Without `systemd` a host runs an SSH server and nothing else; `provision` refuses it. With
    `wrong_clock` the last host's time sync does not start by itself.
    """

    hosts: int
    boards: int = 0
    cpu_percent: int | None = None
    disk_mb: int = 2048
    login: Login = "pi"
    systemd: bool = True
    wrong_clock: bool = False


@dataclass(frozen=True, slots=True)
class EmulatedMachine:
    """One emulated host."""

    name: str
    addr: str
    data_addr: str
    mgmt_mac: str
    data_mac: str
    hw_serial: str
    roles: tuple[str, ...]
    oddity: Oddity = "none"


@dataclass(frozen=True, slots=True)
class EmulatedBoard:
    """One emulated sensor board, plugged into a host; `port` is its name there."""

    name: str
    host: str
    usb_serial: str

    @property
    def port(self) -> str:
        """The port's name as udev gives it in /dev/serial/by-id."""
        return f"usb-MicroPython_Board_in_FS_mode_{self.usb_serial}-if00"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """The whole lab. `lab_id` is four hexadecimal digits. Every name in the lab contains it."""

    lab_id: str
    options: EmulationOptions
    network: str
    data_network: str
    shaping: Shaping
    machines: tuple[EmulatedMachine, ...]
    boards: tuple[EmulatedBoard, ...]

    @property
    def own_addr(self) -> str:
        """The orchestrator's own address on the management network."""
        return str(IPv4Network(self.network)[_ORCHESTRATOR])

    @property
    def own_data_addr(self) -> str:
        """The orchestrator's own address on the data network. Its attackers connect from there."""
        return str(IPv4Network(self.data_network)[_ORCHESTRATOR])

    @property
    def own_data_mac(self) -> str:
        """MAC address of the orchestrator's interface on the data network."""
        return _mac(self.lab_id, 1, 0)

    @property
    def uplink(self) -> str:
        """The orchestrator's interface on the management network."""
        return f"tbe-{self.lab_id}"

    @property
    def data_uplink(self) -> str:
        """The orchestrator's interface on the data network."""
        return f"tbd-{self.lab_id}"


def make_plan(
    lab_id: str,
    options: EmulationOptions,
    network: IPv4Network,
    data_network: IPv4Network,
    shaping: Shaping,
) -> LabPlan:
    """The first hosts are replicas: the largest 3f+1 that fits. The hosts after them have gateway,
    boards and mobiles, and the last one is also a spare.

    If there are no such hosts, as in a lab of four, replicas have these roles too, and there is no
    spare.
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
        EmulatedBoard(f"th{n:02}", carriers[-1 - n % len(carriers)], f"EMU{lab_id.upper()}{n:04}")
        for n in range(1, options.boards + 1)
    )
    for name in {board.host: None for board in boards} or {names[-1]: None}:
        roles[name].append("environment")
    roles[names[-1]].append("mobile")
    if len(names) > replicas:
        roles[names[-1]].append("spare")
    odd_clock = options.wrong_clock or (options.systemd and len(names) >= _CLOCK_HOSTS_MIN)
    behind = names[-1] if odd_clock else None
    machines = tuple(
        EmulatedMachine(
            name,
            str(network[_FIRST_ADDRESS + n]),
            str(data_network[_FIRST_ADDRESS + n]),
            _mac(lab_id, 0, n + 1),
            _mac(lab_id, 1, n + 1),
            f"10000000{lab_id}{n + 1:04x}",
            tuple(roles[name]),
            "clock" if name == behind else _ODDITIES.get(name, "none"),
        )
        for n, name in enumerate(names)
    )
    return LabPlan(lab_id, options, str(network), str(data_network), shaping, machines, boards)


def _mac(lab_id: str, network: int, host: int) -> str:
    return f"02:7b:{lab_id[:2]}:{lab_id[2:]}:{network:02x}:{host:02x}"
