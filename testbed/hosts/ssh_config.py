"""How OpenSSH's own client understands a user's configuration for one host, from `ssh -G`.

Here: the address, the port, the user, the files and the way there. Elsewhere: connecting
(`ssh_link.py`), host keys (`host_keys.py`). Nothing here imitates ssh_config.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from testbed.hosts.openssh import LoginUnusable, openssh

__all__ = ["SshWay", "ssh_way"]

_REFUSED = "fix ~/.ssh/config (or what it includes); `ssh -G ADDRESS` says the same"


@dataclass(frozen=True, slots=True)
class SshWay:
    """How OpenSSH would reach a host. `proxy_jump` and `proxy_command` are "" if it is direct."""

    hostname: str
    port: int
    user: str
    identity_files: tuple[Path, ...]
    identities_only: bool
    known_hosts: tuple[Path, ...]
    proxy_jump: str
    proxy_command: str


def ssh_way(addr: str, user: str | None, port: int | None, config: Path | None) -> SshWay:
    """Ask `ssh -G`. `config` replaces the user's own file. Raises LoginUnusable."""
    argv = ["ssh", "-T", "-G"]
    argv += ["-F", str(config)] if config else []
    argv += ["-l", user] if user else []
    argv += ["-p", str(port)] if port else []
    done = openssh(*argv, "--", addr)
    if done.returncode != 0:
        said = "; ".join(done.stderr.strip().splitlines())
        raise LoginUnusable(f"ssh refuses its configuration: {said}", _REFUSED)
    answers: defaultdict[str, list[str]] = defaultdict(list)
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        answers[key].append(value)
    hostname, name = answers["hostname"][0], answers["user"][0]
    number = int(answers["port"][0])
    return SshWay(
        hostname=hostname,
        port=number,
        user=name,
        identity_files=tuple(Path(file).expanduser() for file in answers["identityfile"]),
        identities_only=answers["identitiesonly"] == ["yes"],
        known_hosts=tuple(
            Path(file).expanduser()
            for key in ("userknownhostsfile", "globalknownhostsfile")
            for value in answers[key]
            for file in value.split()
        ),
        proxy_jump=_unless_none(answers["proxyjump"]),
        proxy_command=_expanded(_unless_none(answers["proxycommand"]), hostname, number, name),
    )


def _unless_none(values: list[str]) -> str:
    return "" if not values or values[0] == "none" else values[0]


def _expanded(command: str, hostname: str, port: int, user: str) -> str:
    """`ssh -G` does not expand these tokens of a ProxyCommand; whoever runs it must."""
    words = {"%h": hostname, "%p": str(port), "%r": user, "%n": hostname}
    parts = command.split("%%")
    for token, word in words.items():
        parts = [part.replace(token, word) for part in parts]
    return "%".join(parts)
