"""Labs of real SSH servers on loopback, each host with a home of its own; needs no root."""

from __future__ import annotations

import getpass
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.testbed.hosts_support import SshServer, free_port

__all__ = ["SshLab", "ssh_lab"]

# Names of the loopback interface: an inventory wants every host at an address of its own.
_ADDRESSES = ("127.0.0.1", "localhost", "ip6-localhost")


@dataclass(frozen=True)
class SshLab:
    """`homes` by host name: what a login there finds itself in."""

    inventory: Path
    homes: dict[str, Path]


@contextmanager
def ssh_lab(
    directory: Path,
    roles: Sequence[str] = ("replica",),
    *,
    dead: Sequence[str] = (),
    path: Path | None = None,
    more: str = "",
) -> Iterator[SshLab]:
    """Hosts pi01, pi02 with these roles; `dead` ones do not answer. `path` leads their PATH."""
    names = [f"pi{n:02}" for n in range(1, len(roles) + 1)]
    homes = {name: directory / name for name in names}
    hosts = ""
    with ExitStack() as stack:
        for name, addr, role in zip(names, _ADDRESSES, roles, strict=False):
            homes[name].mkdir(parents=True)
            server = SshServer(directory / f"sshd-{name}")
            port = free_port() if name in dead else server.port
            if name not in dead:
                stack.enter_context(server)
            keys = server.home / "authorized_keys"
            search = f"PATH={path}:$PATH " if path else ""
            forced = f'command="cd {homes[name]} && {search}exec sh -c \\"$SSH_ORIGINAL_COMMAND\\""'
            keys.write_text(f"{forced} {keys.read_text()}")
            known = server.home / "known_hosts"
            known.write_text(known.read_text().replace("127.0.0.1", addr))
            ssh = f"{{user: {getpass.getuser()}, port: {port}, key: {server.key}, "
            ssh += f"known_hosts: {known}}}"
            hosts += f"  {name}: {{addr: {addr}, roles: [{role}], ssh: {ssh}}}\n"
        inventory = directory / "lab.yaml"
        inventory.write_text(
            "schema: testbed.inventory/1\nlab: loop\nchain: {f: 0}\nhosts:\n" + hosts + more
        )
        yield SshLab(inventory, homes)
