"""A host's reports about itself during a run: heat, throttling, disk, memory, its own clock.

The program on the host is `on_host.py`. `testbed.care.host_watch` asks it every few seconds and
writes raw/conditions.jsonl; `testbed.checks.conditions` judges that file. Before a run
`testbed.doctor` asks for more values.

A value without a sensor is None. That means "not known", never "fine".
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from inventory.model import Lab
from testbed import programs
from testbed.errors import LabFault
from testbed.hosts.port import Dialogue, Host

__all__ = [
    "RUN_DISK_FREE_MIN_MB",
    "THROTTLED_SINCE_START",
    "Conditions",
    "HostLimits",
    "limits_of",
    "open_facts",
    "read_facts",
    "throttled_words",
]

RUN_DISK_FREE_MIN_MB = 100
"""For the files of a run, on a host that has its environment already."""

THROTTLED_BITS = {
    0: "undervoltage",
    1: "frequency capped",
    2: "throttled",
    3: "soft temperature limit",
}
"""Of `vcgencmd get_throttled`, now; shifted by THROTTLED_SINCE_START: since the host started."""

THROTTLED_SINCE_START = 16

_ANSWER_S = 15.0

FactsT = TypeVar("FactsT", bound=msgspec.Struct)


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """The conditions of a host at one moment. None: the host has no means to know.

    `throttled`: the firmware's bits (THROTTLED_BITS). `undervoltage`: 1 while the kernel's alarm is
    on. `throttle_count`: grows each time that a PC's processor throttles. The difference of the two
    clocks is constant until somebody sets the wall clock.
    """

    boot: str
    wall_minus_monotonic_ns: int
    temperature_c: float | None = None
    throttled: int | None = None
    undervoltage: int | None = None
    throttle_count: int | None = None
    cpu_khz: int | None = None
    cpu_max_khz: int | None = None
    disk_free_mb: int
    memory_available_mb: int | None = None
    memory_stalled_percent: float | None = None
    load: float


class HostLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold on a host. Otherwise the run does not count."""

    clock_error_ms_max: float
    disk_free_mb_min: int = RUN_DISK_FREE_MIN_MB


def limits_of(lab: Lab) -> dict[str, HostLimits]:
    """The limits of every host that is reached over SSH. Local hosts are this machine: it is not
    watched, and its results get a watermark."""
    return {
        name: HostLimits(clock_error_ms_max=lab.clock(name).max_error_ms)
        for name, host in lab.active.items()
        if host.connection == "ssh"
    }


def throttled_words(bits: int) -> list[str]:
    """The meaning of the firmware's bits, in words."""
    return [word for bit, word in THROTTLED_BITS.items() if bits >> bit & 1]


def open_facts(host: Host, python: str) -> Dialogue:
    """Opens a dialogue with a host, for `read_facts` and `testbed.care.clock.read_clock`."""
    return host.dialogue(programs.python(python, "care/on_host.py"))


def read_facts(dialogue: Dialogue, question: str, kind: type[FactsT]) -> FactsT:
    """Ask for "conditions" or "doctor" once. Raises LabFault."""
    answer = dialogue.ask(question, timeout_s=_ANSWER_S)
    try:
        return msgspec.json.decode(answer, type=kind)
    except msgspec.DecodeError as error:
        raise LabFault(f"{question}: strange answer {answer[:100]!r}: {error}") from error
