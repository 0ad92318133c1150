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

__all__ = ["limited", "ssh_hosts"]

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


@contextmanager
def ssh_hosts(lab: Lab, names: Iterable[str]) -> Iterator[dict[str, SshHost]]:
    """Opens these hosts and the jump hosts on the way to them. Gives the hosts by name. All are
    closed at the end."""
    made: dict[str, SshHost] = {}

    def make(name: str) -> SshHost:
        from testbed.hosts.ssh import SshHost  # noqa: PLC0415 - see above
        from testbed.hosts.ssh_link import SshSettings  # noqa: PLC0415

        if name not in made:
            login = lab.ssh(name)
            settings = SshSettings(
                user=login.user,
                port=login.port,
                key=Path(login.key) if login.key else None,
                known_hosts=Path(login.known_hosts) if login.known_hosts else None,
                connect_timeout_s=login.connect_timeout_ms / 1000,
                slowness=lab.hosts[name].slowness,
            )
            jump = make(login.jump) if login.jump else None
            address = lab.login_address(name)
            host = SshHost(name, address, settings, root=REMOTE_ROOT, jump=jump)
            made[name] = stack.enter_context(host)
        return made[name]

    with ExitStack() as stack:
        yield {name: make(name) for name in names}
