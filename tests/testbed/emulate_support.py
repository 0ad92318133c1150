"""Emulated labs for tests: why there can be none, and hosts of one over SSH."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed.emulate.lab import EmulatedLab, down, up
from testbed.emulate.plan import EmulationOptions
from testbed.emulate.preflight import missing
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings

__all__ = ["emulated", "emulation_missing", "host", "sudo", "traces"]


def emulation_missing() -> str:
    """Why no emulated lab can be made here, or nothing."""
    return "; ".join(missing(EmulationOptions(hosts=1)))


@contextmanager
def emulated(
    out: Path,
    hosts: int,
    boards: int = 0,
    *,
    cpu_percent: int | None = None,
    disk_mb: int = 256,
    wrong_clock: bool = False,
) -> Iterator[EmulatedLab]:
    """A lab that is down again whatever happens; the login is `pi`, on systemd. The test is skipped
    where there can be none."""
    options = EmulationOptions(hosts, boards, cpu_percent, disk_mb, wrong_clock=wrong_clock)
    if gaps := missing(options):
        pytest.skip("; ".join(gaps))
    try:
        yield up(out, options)
    finally:
        down(out)


def host(
    lab: EmulatedLab, name: str, root: str = "testbed", jump: SshHost | None = None
) -> SshHost:
    """A host of the lab as the orchestrator sees it."""
    addr = next(machine.addr for machine in lab.plan.machines if machine.name == name)
    settings = SshSettings(
        user=lab.plan.options.login,
        key=lab.out / "id_ed25519",
        known_hosts=lab.out / "known_hosts",
        ssh_config=Path("/dev/null"),
    )
    return SshHost(name, addr, settings, root=root, jump=jump)


def sudo(inside: SshHost, script: str, *arguments: str) -> str:
    """Run a shell script on the host as root; what it printed."""
    argv = ["sudo", "-n", "sh", "-c", script, "sudo", *arguments]
    return inside.run(argv).stdout


def traces(lab_id: str) -> list[str]:
    """Everything of a lab that is still on this machine, outside its output directory."""
    found = [str(path) for path in Path("/sys/class/net").glob(f"*{lab_id}*")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/testbed-{lab_id}")]
    found += [str(path) for path in Path("/run/testbed").glob(f"{lab_id}*")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [line for line in mounts if f"/run/testbed/{lab_id}" in line]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"/run/testbed/{lab_id}" in words:
            found.append(words)
    return found
