"""The entries of an inventory file for hosts, boards, the chain and the broker: shapes only.

Here: the type and range of each single value; `schema` publishes them. Elsewhere: the whole lab
(`model`), how values must fit together, for example unique addresses (`checks`), and reading files
(`load`).

Units are last in names.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    AfterValidator,
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
    "Firmware",
    "HostEntry",
    "Line",
    "Match",
    "Net",
    "Role",
    "Ssh",
    "Strict",
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
ADDRESS_PATTERN: Final = "[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}"  # `addresses` sees the rest
Interface = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9@._-]{0,14}$")]
Serial = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:._-]{0,63}$")]
HostDirectory = Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9/._+-]{1,200}$")]
Port = Annotated[int, Field(ge=1, le=port_max)]
DURATION_MS_MAX: Final = 3_600_000.0


def _address(given: str) -> str:
    if not re.fullmatch(ADDRESS_PATTERN, given):
        raise ValueError("must be an IP address or the name of a host")
    return given


Address = Annotated[
    str,
    AfterValidator(_address),
    WithJsonSchema({"type": "string", "pattern": f"^{ADDRESS_PATTERN}$"}),
]


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


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Ssh(Strict):
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


class Net(Strict):
    """Network interfaces: `mgmt` carries SSH and time sync and is never shaped or filtered."""

    mgmt: Interface | None = None
    data: Interface | None = None
    filters: Literal["interface", "per-peer"] = Field(
        default="interface",
        description="per-peer: one interface for both; shape and drop by peer address only.",
    )


class Clock(Strict):
    """Bound on a host's clock error; above it the host is not used for cross-host latency."""

    max_error_ms: Milliseconds = Field(default=1.0, alias="max_error")


class Defaults(Strict):
    """What hosts have unless they say otherwise. `ssh` merges key by key, the others whole."""

    ssh: Ssh = Ssh()
    net: Net = Net()
    clock: Clock = Clock()


class UhubctlPower(Strict):
    """Power through a USB hub that switches its ports."""

    driver: Literal["uhubctl"]
    port: Text = Field(description='Hub location and port as uhubctl prints them: "1-1.2".')


class CommandPower(Strict):
    """Power through any program, run on the orchestrator without a shell."""

    driver: Literal["command"]
    off: tuple[Text, ...] = Field(min_length=1, max_length=32)
    on: tuple[Text, ...] = Field(min_length=1, max_length=32)


class EmulatedPower(Strict):
    """Power of a host of the emulated lab."""

    driver: Literal["emulated"]


Power = Annotated[UhubctlPower | CommandPower | EmulatedPower, Field(discriminator="driver")]


class ShellyMeter(Strict):
    """A Shelly plug or relay with a meter (generation 2 and later), over HTTP."""

    driver: Literal["shelly"]
    addr: Address
    channel: Annotated[int, Field(ge=0, le=15)] = 0


class EmulatedMeter(Strict):
    """A meter that does not exist, at a host that always takes the same power."""

    driver: Literal["emulated"]
    watts: Annotated[float, Field(ge=0, le=10_000)] = 3.0


Meter = Annotated[ShellyMeter | EmulatedMeter, Field(discriminator="driver")]


class HostEntry(Strict):
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
    meter: Meter | None = Field(default=None, description="Reads the power that this host takes.")
    state: Literal["active", "quarantined"] = "active"
    reason: Text | None = Field(default=None, description="Why it is quarantined.")


class Match(Strict):
    """What tells one serial board from all others; exactly one of the three."""

    usb_serial: Serial | None = None
    usb_path: Serial | None = Field(
        default=None, description="Place in the USB tree, as 1-1.2:1.0."
    )
    device: Annotated[str, StringConstraints(pattern=r"^/dev/[A-Za-z0-9/:._+-]{1,200}$")] | None = (
        Field(default=None, description="Fixed device file; for lines that have no USB identity.")
    )


class Line(Strict):
    """The serial line. `reset_on_open`: opening the port resets the board, so allow it time."""

    baud: int = Field(default=115_200, ge=300, le=4_000_000)
    reset_on_open: bool = False


class Firmware(Strict):
    """`board: unix` is the MicroPython interpreter behind a PTY, run on the board's host."""

    board: BoardKind


class Board(Strict):
    """A sensor board on a serial line of an environment host."""

    host: Name
    match: Match | None = Field(default=None, description="Needed for all but board: unix.")
    line: Line = Line()
    firmware: Firmware


class Group(Strict):
    """Authentication group: m members, k endorsements; null: 2f+1 and f+1."""

    m: Count | None = None
    k: Count | None = None


class ChainOptions(Strict):
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


class MetricsOptions(Strict):
    """Metrics of every process but the broker, for Prometheus. Each has a port of its own:
    `testbed inventory prometheus` prints which."""

    port: int = Field(
        ge=1024,
        le=60_000,
        description="Of the first process; the others, in their order, have the next ones.",
    )
    listen: Address = Field(
        default="127.0.0.1",
        description="Address on each host; whoever reaches it can read. Default: itself only.",
    )


class BrokerOptions(Strict):
    """The MQTT broker of this lab; which host runs it says its role."""

    kind: BrokerKind | None = Field(
        default=None,
        description=(
            "embedded needs nothing but Python, mosquitto the Debian package. "
            "Null: embedded in loopback, else mosquitto."
        ),
    )
