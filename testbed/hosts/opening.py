"""Makes hosts from an inventory. Nothing connects before the first command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inventory.model import Lab
from inventory.selection import chosen, host_labels
from testbed.errors import ConfigurationError

if TYPE_CHECKING:  # Paramiko takes half a second to import, and loopback does not need it.
    from testbed.hosts.ssh import SshHost
    from testbed.hosts.ssh_link import SshSettings

__all__ = ["REMOTE_ROOT", "limited", "settings_of", "ssh_hosts"]

REMOTE_ROOT = "testbed"
"""Below the login's home: the only directory that is ours on a host."""


def limited(lab: Lab, limit: str | None, *, given_by: str = "--limit") -> list[str]:
    """Active hosts that are reached over SSH; with a list of names and labels, only those that it
    chooses.

    Raises ConfigurationError for a word that chooses no host.
    """
    remote = {
        name: host_labels(lab, name)
        for name, host in lab.active.items()
        if host.connection == "ssh"
    }
    if limit is None:
        return list(remote)
    have = f"hosts are {', '.join(remote) or 'none'}"
    names, unknown = chosen(limit, remote)
    if unknown is not None:
        why = "is no host of this inventory"
        if ":" in unknown:
            why = "chooses no host"
        elif unknown in lab.active:
            why = "is this machine itself (connection: local)"
        elif unknown in lab.hosts:
            why = f"is quarantined: {lab.hosts[unknown].reason}"
        raise ConfigurationError(f"{given_by}: {unknown} {why}; {have}")
    if not names:
        raise ConfigurationError(f"{given_by} {limit!r} names no host; {have}")
    return names


def settings_of(lab: Lab, name: str) -> SshSettings:
    """The inventory's settings for the login."""
    from testbed.hosts.ssh_link import SshSettings  # noqa: PLC0415 - see above

    ssh = lab.ssh(name)
    return SshSettings(
        user=ssh.user,
        port=ssh.port,
        key=Path(ssh.key) if ssh.key else None,
        known_hosts=Path(ssh.known_hosts) if ssh.known_hosts else None,
        connect_timeout_s=ssh.connect_timeout_ms / 1000,
        slowness=lab.hosts[name].slowness,
    )


@contextmanager
def ssh_hosts(lab: Lab, names: Iterable[str]) -> Iterator[dict[str, SshHost]]:
    """Opens these hosts and the jump hosts on the way to them. Gives the hosts by name. All are
    closed at the end."""
    made: dict[str, SshHost] = {}

    def make(name: str) -> SshHost:
        from testbed.hosts.ssh import SshHost  # noqa: PLC0415 - see above

        if name not in made:
            jump = lab.ssh(name).jump
            made[name] = stack.enter_context(
                SshHost(
                    name,
                    lab.login_address(name),
                    settings_of(lab, name),
                    root=REMOTE_ROOT,
                    jump=make(jump) if jump else None,
                )
            )
        return made[name]

    with ExitStack() as stack:
        yield {name: make(name) for name in names}
