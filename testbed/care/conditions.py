"""What a host says of itself while a run goes on: heat, throttling, disk, memory, its own clock.

Asked every few seconds over the connection that reads its clock (`testbed.care.host_watch`),
written to raw/conditions.jsonl. Which of it makes a run worthless is judged from the files
(`testbed.checks.conditions`); before a run `testbed.doctor` looks at more.

A host without a sensor says None: that is "not known", never "fine".
"""

from __future__ import annotations

import msgspec

from inventory.model import Lab
from testbed.errors import LabFault
from testbed.hosts.port import Dialogue

__all__ = [
    "CONDITIONS_PROGRAM",
    "RUN_DISK_FREE_MIN_MB",
    "THROTTLED_BITS",
    "THROTTLED_SINCE_START",
    "Conditions",
    "Limits",
    "limits_of",
    "read_conditions",
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

# A function of the program that runs on the host; everything that it reads may be missing. Besides
# the firmware's own word (vcgencmd) it takes the kernel's: `rpi_volt`, whose alarm the kernel
# clears at each of its own readings, and the throttling counters of PC processors.
CONDITIONS_PROGRAM = r"""
import json, os, shutil, subprocess, time
from pathlib import Path
def read(path):
    try:
        return Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
def number(text):
    return int(text) if text.lstrip("-").isdigit() else None
def numbers(pattern):
    return [n for p in sorted(Path("/sys").glob(pattern)) if (n := number(read(p))) is not None]
def throttled():
    path = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/bin:/opt/vc/bin"
    program = shutil.which("vcgencmd", path=path)
    try:
        said = subprocess.run([program, "get_throttled"], capture_output=True, text=True, timeout=5)
        return int(said.stdout.rpartition("=")[2], 16)
    except (OSError, TypeError, ValueError, subprocess.TimeoutExpired):
        return None
def undervoltage():
    for name in sorted(Path("/sys/class/hwmon").glob("hwmon*/name")):
        if read(name) == "rpi_volt":
            return number(read(name.parent / "in0_lcrit_alarm"))
    return None
def apart_ns():
    tries = []
    for _ in range(5):
        before, wall = time.monotonic_ns(), time.time_ns()
        after = time.monotonic_ns()
        tries.append((after - before, wall - (before + after) // 2))
    return min(tries)[1]
def field(text, name):
    words = next((l.split() for l in text.splitlines() if l.startswith(name)), [])
    return number(words[1]) if len(words) > 1 else None
def conditions():
    degrees = numbers("class/thermal/thermal_zone*/temp")
    pressure = [l for l in read("/proc/pressure/memory").splitlines() if l.startswith("some")]
    available_kb = field(read("/proc/meminfo"), "MemAvailable:")
    return json.dumps({
        "boot": read("/proc/sys/kernel/random/boot_id"),
        "wall_minus_monotonic_ns": apart_ns(),
        "temperature_c": max(degrees) / 1000 if degrees else None,
        "throttled": throttled(),
        "undervoltage": undervoltage(),
        "throttle_count": sum(numbers(
            "devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")) if numbers(
            "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count") else None,
        "cpu_khz": max(numbers("devices/system/cpu/cpu*/cpufreq/scaling_cur_freq"), default=None),
        "cpu_max_khz": max(numbers("devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq"),
                           default=None),
        "disk_free_mb": shutil.disk_usage(".").free // 2**20,
        "memory_available_mb": None if available_kb is None else available_kb // 1024,
        "memory_stalled_percent": float(pressure[0].split()[1].partition("=")[2])
                                  if pressure else None,
        "load": os.getloadavg()[0],
    })
"""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a host. None: it has no means to know.

    `throttled`: the firmware's bits (THROTTLED_BITS). `undervoltage`: 1 while the kernel's alarm
    is on. `throttle_count`: grows each time that a PC's processor throttles. The clock's two
    readings differ by a constant for as long as nobody sets the wall clock.
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


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a host must keep to for its part in a run to count."""

    clock_error_ms_max: float
    disk_free_mb_min: int = RUN_DISK_FREE_MIN_MB


def limits_of(lab: Lab) -> dict[str, Limits]:
    """Of every host that is reached over SSH. A local one is this machine, which all of them share:
    results from it are watermarked as such, and it is not watched."""
    return {
        name: Limits(clock_error_ms_max=lab.clock(name).max_error_ms)
        for name, host in lab.active.items()
        if host.connection == "ssh"
    }


def throttled_words(bits: int) -> list[str]:
    """What the firmware's bits mean."""
    return [word for bit, word in THROTTLED_BITS.items() if bits >> bit & 1]


def read_conditions(dialogue: Dialogue) -> Conditions:
    """Ask once. Raises LabFault."""
    answer = dialogue.ask("conditions", timeout_s=_ANSWER_S)
    try:
        return msgspec.json.decode(answer, type=Conditions)
    except msgspec.DecodeError as error:
        raise LabFault(f"conditions: strange answer {answer[:100]!r}: {error}") from error
