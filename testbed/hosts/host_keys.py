"""Host keys: the testbed talks only to machines that have their key in known_hosts.

Nothing here accepts a key by itself. `SshLink.offered_key` asks a machine for its key without
logging in, so that a person can compare the fingerprint and `trust` it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.pkey import UnknownKeyType

from nodes.disk import write_atomically
from testbed.hosts.openssh import LoginUnusable, openssh

__all__ = ["RejectUnknown", "UnknownHostKey", "fingerprint", "host_entry", "known_keys", "trust"]

_REVOKED = "@revoked"


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What known_hosts says of one host. A revoked key is not trusted."""

    trusted: tuple[paramiko.PKey, ...]
    revoked: frozenset[str]
    """Fingerprints."""


def known_keys(files: Iterable[Path], entry: str) -> KnownKeys:
    """Ask `ssh-keygen -F`, which knows hashed names, patterns and marks. Raises LoginUnusable.

    Certificate authorities are left out: Paramiko does not accept host certificates.
    """
    found: list[tuple[str, paramiko.PKey]] = []
    for path in files:
        if path.exists():
            found += list(_lines_about(path, entry))
    revoked = frozenset(fingerprint(key) for mark, key in found if mark == _REVOKED)
    trusted = [key for mark, key in found if not mark and fingerprint(key) not in revoked]
    return KnownKeys(tuple(trusted), revoked)


def _lines_about(path: Path, entry: str) -> Iterator[tuple[str, paramiko.PKey]]:
    """Mark ("" for none) and key of each line of a file that names this host."""
    for line in openssh("ssh-keygen", "-F", entry, "-f", str(path)).stdout.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        mark = words.pop(0) if words[0].startswith("@") else ""
        try:
            key = paramiko.PKey.from_type_string(
                words[1], base64.b64decode(words[2], validate=True)
            )
        except UnknownKeyType:
            continue  # Paramiko cannot check this kind
        except (IndexError, ValueError, binascii.Error, paramiko.SSHException) as error:
            problem = f"cannot read known hosts {path}: the line about {entry} names no key"
            raise LoginUnusable(problem, "fix or remove that line") from error
        yield mark, key


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
    """Keeps the key that was offered. Paramiko's own rejecting policy loses it."""

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        raise UnknownHostKey(hostname, key)


def trust(known_hosts: Path, addr: str, port: int, key: paramiko.PKey) -> None:
    """Write `key` as this machine's only key. Other entries and comments stay, and so do other
    names on a shared line."""
    entry = host_entry(addr, port)
    known_hosts = known_hosts.resolve()  # the file itself if this is a link
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
    text = os.linesep.join(kept) + os.linesep
    write_atomically(known_hosts, text.encode(errors="surrogateescape"), mode)


def _is(name: str, entry: str) -> bool:
    """Whether a line is about this host, even if ssh has hashed the name (`HashKnownHosts`,
    Debian's default)."""
    if not name.startswith("|1|"):
        return name == entry
    try:
        return paramiko.HostKeys.hash_host(entry, name) == name
    except (ValueError, AssertionError):  # damaged, so it belongs to nobody
        return False


def _names(line: str) -> list[str]:
    words = line.split()
    return words[0].split(",") if words and not words[0].startswith(("#", "@")) else []
