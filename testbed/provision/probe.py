"""Asks a host about itself, before anything of ours is on it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from testbed import programs
from testbed.hosts.port import Host, HostFault
from testbed.programs import shell, source

__all__ = ["STAMP", "Facts", "Stamp", "present", "probe", "tree"]

STAMP = "env/stamp.json"
"""File below the host's root: what its environment was made from."""

_NO_PYTHON = 9


class Stamp(msgspec.Struct, frozen=True):
    """What an environment was made from: keys of the two archives, and the host's interpreter.
    `tree` is its digest after the self-test."""

    dependencies: str = ""
    code: str = ""
    interpreter: str = ""
    tree: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What a host said about itself. `tree`: the digest that its environment has now.

    If that is not the stamp's `tree`, an environment is `damaged`, and its stamp does not count.
    """

    system: str
    machine: str
    bits: int
    python: str
    interpreter: str
    glibc: str
    magic: str
    disk_free_mb: int
    noexec: bool
    stamp: Stamp
    tree: str
    damaged: bool = False


def present(host: Host, paths: Sequence[str]) -> set[str]:
    """Which of these files a host has."""
    listed = host.run(["ls", "-d", "--", *paths], check=False) if paths else None
    return set(listed.stdout.splitlines()) if listed else set()


def tree(host: Host, python: str) -> str:
    """The digest of the environment that a host has now."""
    return host.run(programs.python(python, "provision/look.py", "tree")).stdout.strip()


def probe(host: Host) -> Facts:
    """Ask a host what it is. Raises LabFault with the fix when it has no usable Python."""
    result = host.run(shell("provision/look.sh", source("provision/look.py")), check=False)
    if result.exit_code == _NO_PYTHON:
        fix = "on the host: sudo apt-get install python3 (Debian 12, Raspberry Pi OS 12 or newer)"
        raise HostFault(host.name, "probe", result.stderr.strip(), fix)
    try:
        facts = msgspec.json.decode(result.stdout, type=Facts)
    except msgspec.DecodeError as error:
        said = result.stderr.strip() or result.stdout
        raise HostFault(host.name, "probe", f"strange answer ({error}): {said[:500]}") from error
    if facts.bits != 64:
        fix = "install a 64-bit system on it"
        raise HostFault(host.name, "probe", f"a 32-bit Python ({facts.machine})", fix)
    if facts.stamp.code and facts.stamp.tree != facts.tree:
        return msgspec.structs.replace(facts, stamp=Stamp(), damaged=True)
    return facts
