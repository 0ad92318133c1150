"""From an inventory to hosts: the only place that knows which kind of host an entry means."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from inventory.model import Lab
from testbed.hosts.local import LocalHost
from testbed.hosts.port import Host
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings

__all__ = ["REMOTE_ROOT", "OpenHosts"]

REMOTE_ROOT = "testbed"
"""Our directory on a remote machine, below the login's home."""


class OpenHosts(dict[str, Host]):
    """Hosts of a lab by name; all are closed when the `with` block ends.

    Nothing connects before a host is used. Hosts that share a jump host share one connection to it.
    Local hosts get a directory below `local_root`.
    """

    def __init__(self, lab: Lab, local_root: Path, names: Iterable[str] | None = None) -> None:
        super().__init__()
        self._lab = lab
        self._local_root = local_root
        self._remote: dict[str, SshHost] = {}
        self._stack = ExitStack()
        for name in lab.active if names is None else names:
            self[name] = self._open(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _open(self, name: str) -> Host:
        entry = self._lab.hosts[name]
        if entry.connection == "local":
            addr = self._lab.address(name)
            return self._stack.enter_context(
                LocalHost(self._local_root / name, name=name, addr=addr)
            )
        return self._open_remote(name)

    def _open_remote(self, name: str) -> SshHost:
        if name not in self._remote:
            login = self._lab.ssh(name)
            addr = self._lab.hosts[name].addr
            assert addr is not None, f"{name}: the loader lets no ssh host pass without addr"
            assert login.connect_timeout_s is not None, "Lab.ssh fills it in"
            settings = SshSettings(
                user=login.user,
                port=login.port,
                key=Path(login.key) if login.key else None,
                known_hosts=Path(login.known_hosts) if login.known_hosts else None,
                connect_timeout_s=login.connect_timeout_s,
            )
            jump = self._open_remote(login.jump) if login.jump else None
            host = SshHost(name, addr, settings, root=REMOTE_ROOT, jump=jump)
            self._remote[name] = self._stack.enter_context(host)
        return self._remote[name]
