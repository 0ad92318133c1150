"""The model of a lab: hosts, boards, chain options. Shapes only.

Here: what each single value may be; `schema` publishes it. Elsewhere: how values must fit together,
as unique addresses (`checks`), and reading files (`load`).

Units are last in names. A `Lab` is immutable. Look-ups that campaigns use (`replicas`, `with_role`,
`with_cap`) leave quarantined hosts out; `excluded` lists these, with reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from inventory.duration import DURATION_PATTERN, duration_ms, duration_text

__all__ = [
    "Board",
    "BrokerKind",
    "BrokerOptions",
    "Cap",
    "ChainOptions",
    "Clock",
    "CommandPower",
    "Defaults",
    "EmulatedPower",
    "Excluded",
    "Firmware",
    "GroupSize",
    "HostEntry",
    "Lab",
    "Line",
    "Match",
    "Mobile",
    "Net",
    "Role",
    "Ssh",
    "UhubctlPower",
    "caps",
    "roles",
]

Role = Literal["replica", "spare", "gateway", "broker", "environment", "mobile"]
# A spare stands by as a replica: it has keys and a number, and is no member until it is added.
# What a fault or a check may need of a host: tc netem; the user-space link switch; an own nft
# table; power cut and return; setting the clock; CPU and memory limits; failing block devices;
# switching USB ports off.
Cap = Literal["netem", "switch", "nft", "power", "clock", "cgroup", "dm", "usb"]
BoardKind = Literal[
    "unix", "rp2040", "rp2350", "esp32", "esp8266", "stm32", "samd", "nrf", "microbit"
]
Stage = Literal["loopback", "emulated", "lab"]
BrokerKind = Literal["embedded", "mosquitto"]

roles: Final[tuple[Role, ...]] = get_args(Role)
caps: Final[tuple[Cap, ...]] = get_args(Cap)

hosts_max: Final = 512
boards_max: Final = 512
mobiles_per_host_max: Final = 256
port_max: Final = 65_535
slowness_max: Final = 100

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Address = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.:_-]{0,252}$")]
Interface = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._-]{0,14}$")]
Serial = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
HostDirectory = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9/._+-]{1,200}$")]
Port = Annotated[int, Field(ge=1, le=port_max)]
DURATION_MS_MAX: Final = 3_600_000.0


def _duration_ms(given: Any) -> float:
    """`5s` in a file; a number only where our own code changes a model."""
    if not isinstance(given, str):
        raise ValueError("must be text with a unit, such as 500ms or 5s")
    ms = duration_ms(given)
    if not 0 < ms <= DURATION_MS_MAX:
        raise ValueError(f"must be above 0 and at most {duration_text(DURATION_MS_MAX)}")
    return ms


# In files a duration has its unit in the value (`5s`), in code its unit in the name.
Milliseconds = Annotated[
    float,
    PlainValidator(_duration_ms),
    PlainSerializer(duration_text, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": f"^{DURATION_PATTERN}$"}),
]
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Ssh(_Model):
    """How to log in. What is left out comes from `defaults.ssh`, then from ~/.ssh/config."""

    user: Text | None = None
    port: Port | None = None
    key: Text | None = Field(default=None, description="Private key file, relative to this file.")
    known_hosts: Text | None = Field(
        default=None, description="Host key file, relative to this file."
    )
    jump: Text | None = Field(
        default=None, description="Name of the host of this lab to jump through."
    )
    connect_timeout_ms: Milliseconds = Field(default=5000, alias="connect_timeout")


class Net(_Model):
    """Network interfaces: `mgmt` carries SSH and time sync and is never shaped or filtered."""

    mgmt: Interface | None = None
    data: Interface | None = None
    filters: Literal["interface", "per-peer"] = Field(
        default="interface",
        description="per-peer: one interface for both; shape and drop by peer address only.",
    )


class Clock(_Model):
    """Bound on a host's clock error; above it the host is not used for cross-host latency."""

    max_error_ms: Milliseconds = Field(default=1.0, alias="max_error")


class Defaults(_Model):
    """What hosts have unless they say otherwise. `ssh` merges key by key, the others whole."""

    ssh: Ssh = Ssh()
    net: Net = Net()
    clock: Clock = Clock()


class UhubctlPower(_Model):
    """Power through a USB hub that switches its ports."""

    driver: Literal["uhubctl"]
    port: Text = Field(description='Hub location and port as uhubctl prints them: "1-1.2".')


class CommandPower(_Model):
    """Power through any program, run on the orchestrator without a shell."""

    driver: Literal["command"]
    off: tuple[Text, ...] = Field(min_length=1, max_length=32)
    on: tuple[Text, ...] = Field(min_length=1, max_length=32)


class EmulatedPower(_Model):
    """Power of a host of the emulated lab."""

    driver: Literal["emulated"]


Power = Annotated[UhubctlPower | CommandPower | EmulatedPower, Field(discriminator="driver")]


class HostEntry(_Model):
    """A machine (or, with `connection: local`, a set of processes on this one)."""

    connection: Literal["ssh", "local"] = "ssh"
    addr: Address | None = Field(default=None, description="Needed for ssh; local: 127.0.0.1.")
    data_addr: Address | None = Field(
        default=None,
        description=(
            "Address on the data network, where the testbed's own processes listen; SSH never uses "
            "it. Absent: addr serves both."
        ),
    )
    port: Port | None = Field(
        default=None,
        description=(
            "First TCP port that the testbed's own processes listen on here; absent: free ports, "
            "picked when a run starts. The SSH port is ssh.port."
        ),
    )
    hw_serial: Serial | None = None
    slowness: Annotated[float, Field(ge=1, le=slowness_max)] | None = Field(
        default=None,
        description=(
            "Deadlines for this host are so many times longer; absent: measured at the first "
            "contact. A Raspberry Pi 4 has 1."
        ),
    )
    roles: tuple[Role, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    mobiles: int = Field(
        default=1,
        ge=1,
        le=mobiles_per_host_max,
        description="Mobile devices run here, one process each.",
    )
    factory: HostDirectory | None = Field(
        default=None,
        description=(
            "Directory on this host with its device's factory identity (IEEE 802.1AR): key.pem "
            "(0600) and chain.pem, the device's certificate first. Instead of a token."
        ),
    )
    caps: tuple[Cap, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    ssh: Ssh = Ssh()
    net: Net | None = None
    clock: Clock | None = None
    power: Power | None = None
    state: Literal["active", "quarantined"] = "active"
    reason: Text | None = Field(default=None, description="Why it is quarantined.")


class Match(_Model):
    """What tells one serial board from all others; exactly one of the three."""

    usb_serial: Serial | None = None
    usb_path: Serial | None = Field(
        default=None, description="Place in the USB tree, as 1-1.2:1.0."
    )
    device: Annotated[str, StringConstraints(pattern=r"^/dev/[A-Za-z0-9/:._+-]{1,200}$")] | None = (
        Field(default=None, description="Fixed device file; for lines that have no USB identity.")
    )


class Line(_Model):
    """The serial line. `reset_on_open`: opening the port resets the board, so allow it time."""

    baud: int = Field(default=115_200, ge=300, le=4_000_000)
    reset_on_open: bool = False


class Firmware(_Model):
    """`board: unix` is the MicroPython interpreter behind a PTY, run on the board's host."""

    board: BoardKind


class Board(_Model):
    """A sensor board on a serial line of an environment host."""

    host: Name
    match: Match | None = Field(default=None, description="Needed for all but board: unix.")
    line: Line = Line()
    firmware: Firmware


class Group(_Model):
    """Authentication group: m members, k endorsements; null: 2f+1 and f+1."""

    m: Count | None = None
    k: Count | None = None


class ChainOptions(_Model):
    """Options of the chain. All but `keep_data` are fixed by genesis for every replica."""

    f: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        default=None, description="Faulty replicas borne; null: the most that the replicas allow."
    )
    checkpoint_interval: Count = 64
    window: Count = Field(default=8, description="Batches in flight (pipelining).")
    batch_requests_max: Count = 256
    batch_bytes_max: int = Field(default=1_048_576, ge=1024, le=64 * 1_048_576)
    view_timeout_ms: Milliseconds = Field(default=1000, alias="view_timeout")
    heartbeat_ms: Milliseconds = Field(default=2000, alias="heartbeat")
    precision_ms: Milliseconds = Field(
        default=500, alias="precision", description="Clock difference between replicas."
    )
    message_delay_ms: Milliseconds = Field(
        default=2000, alias="message_delay", description="Longest way of a proposal."
    )
    keep_data: Annotated[int, Field(ge=256)] | None = Field(
        default=None,
        description=(
            "So many blocks keep their data whole. Older ones keep what proves them, and lose "
            "payloads and devices' signatures, on every host of this lab. Null: nothing goes."
        ),
    )
    group: Group = Group()
    factory_roots: tuple[Text, ...] = Field(
        default=(),
        max_length=16,
        description=(
            "Manufacturers' root certificates (PEM files, relative to this file), whose devices "
            "are admitted by their factory certificate."
        ),
    )


class BrokerOptions(_Model):
    """The MQTT broker of this lab; which host runs it says its role."""

    kind: BrokerKind | None = Field(
        default=None,
        description=(
            "embedded needs nothing but Python, mosquitto the Debian package. "
            "Null: embedded in loopback, else mosquitto."
        ),
    )


class GroupSize(NamedTuple):
    """Members of the authentication group, and endorsements needed."""

    m: int
    k: int


@dataclass(frozen=True)
class Excluded:
    """A host or board that campaigns leave out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Mobile:
    """One mobile device: a process on its host."""

    name: str
    host: str


class Lab(_Model):
    """One inventory file. Order of `hosts` is the order of replicas: the first is replica 0."""

    schema_version: Literal["testbed.inventory/1"] = Field(alias="schema")
    lab: Name
    stage: Stage | None = Field(
        default=None, description="Null: loopback if all hosts are local, else lab"
    )
    defaults: Defaults = Defaults()
    chain: ChainOptions = ChainOptions()
    broker: BrokerOptions = BrokerOptions()
    hosts: dict[Name, HostEntry] = Field(min_length=1, max_length=hosts_max)
    boards: dict[Name, Board] = Field(default={}, max_length=boards_max)

    @property
    def active(self) -> dict[str, HostEntry]:
        """Hosts by name, without the quarantined."""
        return {name: host for name, host in self.hosts.items() if host.state == "active"}

    def with_role(self, role: Role) -> dict[str, HostEntry]:
        """Active hosts that have `role`, in file order."""
        return {name: host for name, host in self.active.items() if role in host.roles}

    def with_cap(self, cap: Cap) -> dict[str, HostEntry]:
        """Active hosts that have `cap`, in file order."""
        return {name: host for name, host in self.active.items() if cap in host.caps}

    def replicas(self) -> dict[str, HostEntry]:
        """Active replica hosts; position is the replica's number."""
        return self.with_role("replica")

    @property
    def f(self) -> int:
        """Faulty replicas borne: stated, or floor((n-1)/3)."""
        if self.chain.f is not None:
            return self.chain.f
        return max(0, (len(self.replicas()) - 1) // 3)

    def group(self) -> GroupSize:
        """Size of the authentication group and endorsements needed: stated, or 2f+1 and f+1."""
        stated = self.chain.group
        return GroupSize(m=stated.m or 2 * self.f + 1, k=stated.k or self.f + 1)

    def mobiles(self) -> tuple[Mobile, ...]:
        """Mobile devices; several on one host are numbered from 1: phones-1, phones-2."""
        return tuple(
            Mobile(name if host.mobiles == 1 else f"{name}-{i}", name)
            for name, host in self.with_role("mobile").items()
            for i in range(1, host.mobiles + 1)
        )

    def process(self, host: str, role: Role) -> str:
        """Name of a host's process: the host's, with the role where it has several."""
        return host if len(self.hosts[host].roles) == 1 else f"{host}-{role}"

    def boards_in_use(self) -> dict[str, Board]:
        """Boards on active hosts, in file order."""
        active = self.active
        return {name: board for name, board in self.boards.items() if board.host in active}

    def excluded(self) -> tuple[Excluded, ...]:
        """What quarantine takes out of every campaign: hosts, then boards on them."""
        out = {n: h.reason or "" for n, h in self.hosts.items() if h.state == "quarantined"}
        return tuple(Excluded(name, reason) for name, reason in out.items()) + tuple(
            Excluded(name, f"its host {board.host} is quarantined: {out[board.host]}")
            for name, board in self.boards.items()
            if board.host in out
        )

    def stage_name(self) -> Stage:
        """The stage that results are filed under."""
        if self.stage is not None:
            return self.stage
        local = all(host.connection == "local" for host in self.hosts.values())
        return "loopback" if local else "lab"

    def broker_kind(self) -> BrokerKind:
        """The kind of broker: stated, or what the stage has."""
        return self.broker.kind or ("embedded" if self.stage_name() == "loopback" else "mosquitto")

    def address(self, host: str) -> str:
        """Address of a host on the data network: where its processes listen."""
        return self.hosts[host].data_addr or self.login_address(host)

    def login_address(self, host: str) -> str:
        """Address of a host on the management network: where SSH reaches it."""
        return self.hosts[host].addr or "127.0.0.1"

    def ssh(self, host: str) -> Ssh:
        """Log-in of a host: its own keys over the lab's; a host never jumps through itself."""
        own = self.hosts[host].ssh.model_dump(exclude_unset=True, exclude_none=True)
        merged = self.defaults.ssh.model_copy(update=own)
        return merged.model_copy(update={"jump": None}) if merged.jump == host else merged

    def net(self, host: str) -> Net:
        """Interfaces of a host."""
        return self.hosts[host].net or self.defaults.net

    def clock(self, host: str) -> Clock:
        """Clock bound of a host."""
        return self.hosts[host].clock or self.defaults.clock
