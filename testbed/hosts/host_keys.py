"""Host keys: a machine is who known_hosts says, or it is not spoken to.

Nothing here ever accepts a key by itself. `SshLink.offered_key` asks a machine for its key without
logging in, so that a person can compare the fingerprint and `trust` it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

import paramiko
from paramiko.hostkeys import InvalidHostKey

from testbed.hosts.files import atomic_file

__all__ = [
    "UNREADABLE",
    "RejectUnknown",
    "UnknownHostKey",
    "fingerprint",
    "host_entry",
    "trust",
]

UNREADABLE = (OSError, ValueError, paramiko.SSHException, InvalidHostKey)
"""What Paramiko raises for a known_hosts file that it cannot read."""


def fingerprint(key: paramiko.PKey) -> str:
    """As `ssh-keygen -lf` prints it: `SHA256:...`."""
    raw = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(raw).decode().rstrip("=")


def host_entry(addr: str, port: int) -> str:
    """How known_hosts names a machine."""
    return addr if port == paramiko.config.SSH_PORT else f"[{addr}]:{port}"


class UnknownHostKey(paramiko.SSHException):
    """The machine offered a key that known_hosts does not have."""

    def __init__(self, entry: str, key: paramiko.PKey) -> None:
        self.entry = entry
        self.key = key
        super().__init__(f"unknown host key for {entry}")


class RejectUnknown(paramiko.MissingHostKeyPolicy):
    """Paramiko's own rejecting policy loses the key that was offered; this one keeps it."""

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        raise UnknownHostKey(hostname, key)


def trust(known_hosts: Path, addr: str, port: int, key: paramiko.PKey) -> None:
    """Write `key` as the only one of this machine; other entries and comments stay, and so do
    the other names of a line that it shared."""
    entry = host_entry(addr, port)
    known_hosts = known_hosts.resolve()  # the file itself, where a link leads to it
    kept, mode = [], 0o644
    if known_hosts.exists():
        mode = stat.S_IMODE(known_hosts.stat().st_mode)
        for line in known_hosts.read_text(errors="surrogateescape").splitlines():
            names = _names(line)
            others = [name for name in names if not _is(name, entry)]
            if others == names:
                kept.append(line)
            elif others:
                kept.append(line.replace(line.split()[0], ",".join(others), 1))
    kept.append(f"{entry} {key.get_name()} {key.get_base64()}")
    known_hosts.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(known_hosts, mode) as file:
        file.write((os.linesep.join(kept) + os.linesep).encode(errors="surrogateescape"))


def _is(name: str, entry: str) -> bool:
    """Also where ssh has hashed it (`HashKnownHosts`, as Debian has it)."""
    if not name.startswith("|1|"):
        return name == entry
    try:
        return paramiko.HostKeys.hash_host(entry, name) == name
    except (ValueError, AssertionError):  # it is damaged, so nobody's
        return False


def _names(line: str) -> list[str]:
    words = line.split()
    return words[0].split(",") if words and not words[0].startswith(("#", "@")) else []
