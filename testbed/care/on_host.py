"""Runs on a host: answers each line on standard input with one line. Facts only, no judgement.

`clock`: wall and monotonic nanoseconds. `conditions`: JSON of `testbed.care.conditions.Conditions`.
`doctor`: JSON of `testbed.doctor.Condition`. It imports the standard library only, and everything
that it reads may be missing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

__all__ = ["main"]


def read(path: str | Path) -> str:
    """A small file, or ""."""
    try:
        return Path(path).read_bytes().decode(errors="replace").strip("\0\n ")
    except OSError:
        return ""


def output(*argv: str) -> str:
    """What a program printed, or "" if it failed."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def number(text: str) -> int | None:
    return int(text) if text.lstrip("-").isdigit() else None


def numbers(pattern: str) -> list[int]:
    """The numbers in all files of /sys that fit the pattern."""
    found = [number(read(path)) for path in sorted(Path("/sys").glob(pattern))]
    return [value for value in found if value is not None]


def throttled() -> int | None:
    """The bits that the firmware reports."""
    text = output("vcgencmd", "get_throttled").rpartition("=")[2]
    return int(text, 16) if re.fullmatch("0x[0-9a-fA-F]+", text) else None


def undervoltage() -> int | None:
    """The alarm of the kernel's driver `rpi_volt`. The driver clears it at each of its own
    readings."""
    for name in sorted(Path("/sys/class/hwmon").glob("hwmon*/name")):
        if read(name) == "rpi_volt":
            return number(read(name.parent / "in0_lcrit_alarm"))
    return None


def throttle_count() -> int | None:
    """How often a PC's processor has throttled."""
    counts = numbers("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    return sum(counts) if counts else None


def wall_minus_monotonic_ns() -> int:
    """Changes when the wall clock is set. The shortest of five readings is the most accurate."""
    tries = []
    for _ in range(5):
        before, wall = time.monotonic_ns(), time.time_ns()
        after = time.monotonic_ns()
        tries.append((after - before, wall - (before + after) // 2))
    return min(tries)[1]


def field(text: str, name: str) -> int | None:
    """The number after `name` in a file like /proc/meminfo."""
    found = re.search(rf"^{name}\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None


def conditions() -> dict[str, object]:
    """What is watched before, during and after a run."""
    degrees = numbers("class/thermal/thermal_zone*/temp")
    stalled = re.search(r"^some avg10=(\S+)", read("/proc/pressure/memory"), re.MULTILINE)
    available_kb = field(read("/proc/meminfo"), "MemAvailable:")
    khz = "devices/system/cpu/cpu*/cpufreq"
    return {
        "boot": read("/proc/sys/kernel/random/boot_id"),
        "wall_minus_monotonic_ns": wall_minus_monotonic_ns(),
        "temperature_c": max(degrees) / 1000 if degrees else None,
        "throttled": throttled(),
        "undervoltage": undervoltage(),
        "throttle_count": throttle_count(),
        "cpu_khz": max(numbers(f"{khz}/scaling_cur_freq"), default=None),
        "cpu_max_khz": max(numbers(f"{khz}/cpuinfo_max_freq"), default=None),
        "disk_free_mb": shutil.disk_usage(".").free // 2**20,
        "memory_available_mb": None if available_kb is None else available_kb // 1024,
        "memory_stalled_percent": float(stalled[1]) if stalled else None,
        "load": os.getloadavg()[0],
    }


def hardware_serial() -> str:
    """The serial number of a Raspberry Pi; "" elsewhere."""
    serials = re.findall(r"^Serial\s*:\s*(\S+)", read("/proc/cpuinfo"), re.MULTILINE)
    return serials[-1] if serials else read("/proc/device-tree/serial-number")


def sudo() -> tuple[str, float]:
    """Why root needs a password ("" if it does not), and the seconds that sudo took."""
    if os.getuid() == 0:
        return "", 0.0
    began = time.monotonic()
    try:
        argv = (shutil.which("sudo") or "sudo", "-n", "true")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        # The last line says why; lines before it are warnings.
        problem = done.stderr.strip().rpartition("\n")[2] if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = str(error)
    return problem, time.monotonic() - began


def unwritable() -> str:
    """Why no file can be made in our directory; "" if one can."""
    try:
        with tempfile.TemporaryFile(dir=".") as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return ""


def doctor() -> dict[str, object]:
    """What is checked once, before a run."""
    sudo_problem, sudo_s = sudo()
    synchronised = output("timedatectl", "show", "--property=NTPSynchronized", "--value")
    tools = ("tc", "nft", "flock", "setsid", "sha256sum")
    netem = output("modinfo", "-n", "sch_netem") or read("/sys/module/sch_netem/refcnt")
    return {
        **conditions(),
        "hw_serial": hardware_serial(),
        "synchronised": {"yes": True, "no": False}.get(synchronised),
        "interfaces": sorted(path.name for path in Path("/sys/class/net").glob("*")),
        "tools": [tool for tool in tools if shutil.which(tool)],
        "sudo_problem": sudo_problem,
        "sudo_s": sudo_s,
        "name_resolves": bool(output("getent", "hosts", os.uname().nodename)),
        "unwritable": unwritable(),
        "noexec": bool(os.statvfs(".").f_flag & os.ST_NOEXEC),
        "machine_id": read("/etc/machine-id"),
        "host_key": " ".join(read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]),
        "machine": os.uname().machine,
        "systemd": Path("/run/systemd/system").is_dir(),
        "netem": bool(netem),
    }


def main() -> None:
    """Answers questions until standard input ends."""
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/local/bin:/usr/sbin:/sbin:/opt/vc/bin"
    for line in sys.stdin:
        question = line.strip()
        if question == "clock":
            answer = f"{time.time_ns()} {time.monotonic_ns()}"
        else:
            answer = json.dumps({"conditions": conditions, "doctor": doctor}[question]())
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
