"""Authenticated SSH connections to one machine, reopened when they broke.

Here: connecting within a deadline, strict host keys, jump hosts, ssh_config. Elsewhere: what is
done over the connection (`ssh.py`), host keys (`host_keys.py`).

Fabric reads ssh_config and connects; four of its habits are corrected here. It accepts any host key
and reads no known_hosts: a rejecting policy and the inventory's file. Its timeout does not cover
the banner, the login and the jump host's tunnel: one watchdog covers all. Its gateway is opened by
every connection through it at the same time: here a jump host is one link with a lock. Its
connections never notice a peer that vanished: keep-alive and TCP_USER_TIMEOUT.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import paramiko
from fabric import Config, Connection  # type: ignore[import-untyped]

from testbed.hosts.host_keys import UNREADABLE, RejectUnknown, UnknownHostKey, fingerprint
from testbed.hosts.port import HostKeyRefused, Unreachable

__all__ = ["OfferedKey", "SshLink", "SshSettings"]

KEEPALIVE_S = 5
DEAD_AFTER_S = 20
"""A peer that acknowledges nothing for so long is gone, and the connection with it."""

JUMPS_MAX = 4

CONNECTIONS_MAX = 8
"""To one machine at once, each with as many sessions as its server gives one."""

# Paramiko logs whole tracebacks of every refused connection; we raise one clear error instead.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How to log in; what is None comes from ssh_config, then from SSH's defaults.

    With `key`, only that key is offered. `known_hosts` None: ssh_config's UserKnownHostsFile or
    ~/.ssh/known_hosts. `connect_timeout_s` covers TCP, tunnel, banner, key exchange and login.
    """

    user: str | None = None
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    connect_timeout_s: float = 5.0
    ssh_config: Path | None = None


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """What a machine shows, and where it would be written: known_hosts names it by these."""

    addr: str
    port: int
    key: paramiko.PKey
    known_hosts: Path


class SshLink:
    """A connection that is opened when first needed; threads share it. When the machine gives it
    no more sessions (OpenSSH: ten), there are several."""

    def __init__(
        self, name: str, addr: str, settings: SshSettings, jump: SshLink | None = None
    ) -> None:
        self.name = name
        self.addr = addr
        self._settings = settings
        self._jump = jump
        self._lock = threading.Lock()
        self._connections: list[Connection] = []

    def session(self, deadline_s: float, action: str) -> paramiko.Channel:
        """A channel for one command. A connection that broke while idle is opened anew.

        Raises Unreachable (nothing was started) at the deadline, on the monotonic clock.
        """
        return self._channel("session", None, deadline_s, action)

    def tunnel(self, addr: str, port: int, deadline_s: float, action: str) -> paramiko.Channel:
        """A byte stream from this machine on to another one."""
        return self._channel("direct-tcpip", (addr, port), deadline_s, action)

    def close(self) -> None:
        """End every connection; the next call opens another one."""
        with self._lock:
            for connection in self._connections:
                _end(connection)
            self._connections.clear()

    def _channel(
        self, kind: str, dest: tuple[str, int] | None, deadline_s: float, action: str
    ) -> paramiko.Channel:
        full: list[paramiko.Transport] = []
        broken = False
        while True:
            transport = self._transport(full, deadline_s, action)
            try:
                return transport.open_channel(
                    kind, dest, ("", 0) if dest else None, timeout=_left_s(deadline_s)
                )
            except paramiko.ChannelException as error:
                full.append(transport)
                if dest or len(full) == CONNECTIONS_MAX:
                    fix = "" if dest else "see MaxSessions in the machine's sshd_config"
                    raise Unreachable(self.name, action, f"refused: {error}", fix) from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._discard(transport)
                if broken or time.monotonic() >= deadline_s:
                    problem = f"connection lost: {error or type(error).__name__}"
                    raise Unreachable(self.name, action, problem, self._hint()) from error
                broken = True

    def _transport(
        self, full: Sequence[paramiko.Transport], deadline_s: float, action: str
    ) -> paramiko.Transport:
        """The newest connection that lives and is none of these, else one more."""
        if not self._lock.acquire(timeout=_left_s(deadline_s)):
            problem = "another thread is still connecting"
            raise Unreachable(self.name, action, problem, self._hint())
        try:
            transport: paramiko.Transport
            for connection in reversed(self._connections):
                transport = connection.transport
                if transport.is_active() and transport not in full:
                    return transport
            limit_s = time.monotonic() + self._settings.connect_timeout_s
            connection = self._connect(min(deadline_s, limit_s), action)
            self._connections = [c for c in self._connections if c.is_connected] + [connection]
            transport = connection.transport
            return transport
        finally:
            self._lock.release()

    def _discard(self, transport: paramiko.Transport) -> None:
        """End a broken connection, and no other that somebody has opened meanwhile."""
        with self._lock:
            for connection in self._connections:
                if connection.transport is transport:
                    _end(connection)
            self._connections = [c for c in self._connections if c.is_connected]

    def offered_key(self, action: str) -> OfferedKey:
        """The host key that the machine shows now, asked without logging in, by the same way there
        as a connection takes. Proves nothing until a person compares it. Raises Unreachable.
        """
        deadline_s = time.monotonic() + self._settings.connect_timeout_s
        connection = self._prepared()
        known_hosts = self._known_hosts(connection)
        try:
            self._open(connection, deadline_s, action)
        except UnknownHostKey as found:
            return OfferedKey(connection.host, connection.port, found.key, known_hosts)
        except Exception as error:
            late = time.monotonic() >= deadline_s
            raise self._explain(error, connection, known_hosts, action, late) from error
        raise AssertionError("a client without known hosts was let in")

    def _connect(self, deadline_s: float, action: str) -> Connection:
        connection = self._prepared()
        known_hosts = self._known_hosts(connection)
        self._load_known_hosts(connection, known_hosts, action)
        try:
            self._open(connection, deadline_s, action)
        except Exception as error:
            late = time.monotonic() >= deadline_s
            raise self._explain(error, connection, known_hosts, action, late) from error
        _tune(connection.transport)
        return connection

    def _prepared(self) -> Connection:
        """Everything but the connecting: ssh_config read, no host key known yet."""
        settings = self._settings
        config = Config(runtime_ssh_path=settings.ssh_config and str(settings.ssh_config))
        kwargs: dict[str, object] = {}
        if settings.key is not None:
            kwargs = {
                "key_filename": str(settings.key.expanduser()),
                "look_for_keys": False,
                "allow_agent": False,
            }
        connection = Connection(
            self.addr,
            user=settings.user,
            port=settings.port,
            config=config,
            gateway=False,
            connect_kwargs=kwargs,
        )
        connection.client.set_missing_host_key_policy(RejectUnknown())
        return connection

    def _open(self, connection: Connection, deadline_s: float, action: str) -> None:
        """Connect and log in before the deadline, in whatever stage it is then."""
        proxy = self._proxy(connection, deadline_s, action)
        if proxy is not None:
            connection.connect_kwargs["sock"] = proxy
        left_s = _left_s(deadline_s)
        connection.connect_timeout = left_s  # Fabric's own argument rounds 0.5 s to "for ever"
        for stage in ("banner_timeout", "auth_timeout", "channel_timeout"):
            connection.connect_kwargs[stage] = left_s
        watchdog = threading.Timer(left_s, _abort, (connection.client, proxy))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.open()
        except BaseException:
            _abort(connection.client, proxy)
            raise
        finally:
            watchdog.cancel()

    def _proxy(
        self, connection: Connection, deadline_s: float, action: str
    ) -> paramiko.Channel | paramiko.ProxyCommand | None:
        """The way there, when it is not direct: inventory's jump host, else ssh_config's."""
        if self._jump is None and "proxyjump" in connection.ssh_config:
            self._jump = self._jump_from(connection.ssh_config["proxyjump"])
        if self._jump is not None:
            return self._jump.tunnel(connection.host, connection.port, deadline_s, action)
        if "proxycommand" in connection.ssh_config:
            return paramiko.ProxyCommand(connection.ssh_config["proxycommand"])
        return None

    def _jump_from(self, proxyjump: str) -> SshLink | None:
        link: SshLink | None = None
        hops = [hop.strip() for hop in proxyjump.split(",")]
        if hops == ["none"]:
            return None
        for hop in hops[:JUMPS_MAX]:
            user, _, rest = hop.rpartition("@")
            host, _, port = rest.partition(":")
            settings = replace(
                self._settings, user=user or None, port=int(port) if port else None, key=None
            )
            link = SshLink(f"{self.name} via {host}", host, settings, link)
        return link

    def _known_hosts(self, connection: Connection) -> Path:
        """Which file says whom to trust: the inventory's, else ssh_config's."""
        if self._settings.known_hosts is not None:
            return self._settings.known_hosts.expanduser()
        named: str = connection.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts")
        return Path(named.split(maxsplit=1)[0]).expanduser()

    def _load_known_hosts(self, connection: Connection, path: Path, action: str) -> None:
        if path.exists():
            try:
                connection.client.load_host_keys(str(path))
            except UNREADABLE as error:
                problem = f"cannot read known hosts {path}: {error}"
                raise Unreachable(self.name, action, problem, "mend or remove that file") from error

    def _explain(
        self, error: Exception, connection: Connection, known_hosts: Path, action: str, late: bool
    ) -> Unreachable:
        """What is the matter, and the way out. Where the host is and who logs in there stands in
        the way out only: a problem is written into the bundle of a run, which others read."""
        if isinstance(error, Unreachable):  # the jump host, which has said everything
            return error
        where = f"{connection.user}@{connection.host} port {connection.port}"
        trust = "compare the fingerprint on the machine itself, then:"
        trust += f" testbed inventory trust {self.name} -i FILE (it is kept in {known_hosts})"
        if isinstance(error, UnknownHostKey):
            seen = fingerprint(error.key)
            problem = f"unknown host key {seen} ({error.key.get_name()})"
            return HostKeyRefused(self.name, action, problem, trust, seen)
        if isinstance(error, paramiko.BadHostKeyException):
            seen, expected = fingerprint(error.key), fingerprint(error.expected_key)
            problem = (
                f"the host key CHANGED: it shows {seen}, known is {expected}."
                " A new SD card, or another machine in its place"
            )
            return HostKeyRefused(self.name, action, problem, trust, seen)
        # Paramiko calls it a failed authentication, too, when the time is up in that stage.
        if isinstance(error, paramiko.AuthenticationException) and not late:
            key = self._settings.key
            fix = f"ssh-copy-id{f' -i {key}' if key else ''} -p {connection.port} "
            fix += f"{connection.user}@{connection.host}"
            return Unreachable(self.name, action, f"login refused: {error}", fix)
        if late or isinstance(error, TimeoutError):
            limit_s = self._settings.connect_timeout_s
            problem = f"no connection in time (connect_timeout: {limit_s:g}s)"
            return Unreachable(self.name, action, problem, f"{self._hint()} ({where})")
        problem = f"cannot connect to its SSH port: {type(error).__name__}"
        return Unreachable(self.name, action, problem, f"{self._hint()} ({where}: {error})")

    def _hint(self) -> str:
        return f"is {self.addr} powered, on the network, and its SSH server running?"


def _end(connection: Connection) -> None:
    with suppress(Exception):  # it is thrown away, maybe because it is broken
        connection.close()


def _abort(
    client: paramiko.SSHClient, proxy: paramiko.Channel | paramiko.ProxyCommand | None
) -> None:
    """Unblocks a connection attempt in whatever stage it is."""
    with suppress(Exception):
        client.close()
    if proxy is not None:
        with suppress(Exception):
            proxy.close()


def _tune(transport: paramiko.Transport) -> None:
    """Notice a peer that vanished; send small requests at once."""
    transport.set_keepalive(KEEPALIVE_S)
    if isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            dead_after_ms = DEAD_AFTER_S * 1000
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_after_ms)


def _left_s(deadline_s: float) -> float:
    return max(0.05, deadline_s - time.monotonic())
