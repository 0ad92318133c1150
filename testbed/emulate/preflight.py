"""Checks whether an emulated lab can be made here. Says what is missing and how to get it. Changes
nothing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from testbed.emulate.plan import EmulationOptions
from testbed.emulate.tools import TOOL_PATH, attempt, tool

__all__ = ["faketime", "kernel_has_netem", "missing"]

SYSTEMD = Path("/lib/systemd/systemd")
_TOOLS = {
    "ip": "iproute2",
    "tc": "iproute2",
    "mount": "mount",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "pivot_root": "util-linux",
    "hostname": "hostname",
}


def missing(options: EmulationOptions) -> list[str]:
    """One line for each thing that is missing; empty when a lab can be made."""
    if sys.platform != "linux":
        return ["emulated hosts are Linux namespaces: use a Linux machine"]
    found = []
    if os.geteuid() != 0:
        found.append("not root: sudo .venv/bin/testbed emulate up ...")
    for name, package in _TOOLS.items():
        if shutil.which(name, path=TOOL_PATH) is None:
            found.append(f"no {name}: apt-get install {package}")
    if not Path("/usr/sbin/sshd").exists():
        found.append("no SSH server: apt-get install openssh-server")
    if options.systemd and not SYSTEMD.exists():
        found.append("no systemd for the hosts: apt-get install systemd, or use --no-systemd")
    if options.login == "pi" and not Path("/usr/bin/sudo").exists():
        found.append("no sudo for the login pi: apt-get install sudo, or use --login root")
    if options.wrong_clock and faketime() is None:
        found.append("no libfaketime for --wrong-clock: apt-get install libfaketime")
    return found or _kernel_gaps()


def faketime() -> Path | None:
    """Debian's libfaketime, which gives a host a clock that differs from the kernel's."""
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


def _kernel_gaps() -> list[str]:
    found = []
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        found.append("no overlay file system: modprobe overlay")
    spaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--fork")
    done = attempt("unshare", *spaces, "true")
    if done.returncode:
        found.append(f"no namespaces ({done.stderr.strip()}): run it outside the container")
    if not Path("/dev/net/tun").exists():
        found.append("no /dev/net/tun: modprobe tun")
    return found


def kernel_has_netem() -> bool:
    """Tries it on the loopback device of a temporary network namespace."""
    add = (tool("tc"), "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    return attempt("unshare", "--net", *add).returncode == 0
