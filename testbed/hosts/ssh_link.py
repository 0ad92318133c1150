"""Authenticated SSH connections to one machine, which are reopened after they broke.

Here: connecting within a deadline, strict host keys, jump hosts. Elsewhere: work over a connection
(`ssh.py`), the user's ssh_config (`ssh_config.py`), host keys (`host_keys.py`), the login's key
(`login_key.py`).

Fabric connects, over Paramiko. Some of their habits are corrected here:

- Fabric reads ssh_config by itself and accepts any host key. So it gets an empty configuration, the
  values from OpenSSH, and a policy that refuses.
- The time-out does not cover the banner, the login and the jump host's tunnel. One watchdog covers
  all.
- Paramiko keeps the refusal of a channel in one place per connection, where threads would read each
  other's. So channels are opened one by one.
- A connection does not notice that its peer vanished. So keep-alive and TCP_USER_TIMEOUT are set.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import paramiko
from fabric import Config, Connection  # type: ignore[import-untyped]

from testbed.hosts.host_keys import (
    RejectUnknown,
    UnknownHostKey,
    fingerprint,
    host_entry,
    known_keys,
)
from testbed.hosts.login_key import login_key
from testbed.hosts.openssh import LoginUnusable
from testbed.hosts.port import HostKeyRefused, Unreachable
from testbed.hosts.ssh_channel import left_s
from testbed.hosts.ssh_config import SshWay, ssh_way

__all__ = ["OfferedKey", "SshLink", "SshSettings"]

KEEPALIVE_S = 5
DEAD_AFTER_S = 20
"""If a peer acknowledges nothing for so long, it is gone, and so is the connection."""

JUMPS_MAX = 4

CONNECTIONS_MAX = 8
"""Connections to one machine at once. Each has as many sessions as the server allows."""

# Paramiko logs a whole traceback for every refused connection. We raise one clear error instead.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class SshSettings:
    """How to log in. A field that is None is taken from ssh_config, then from SSH's defaults.

    With `key`, only that key is offered. `known_hosts` None: the files that ssh_config names.
    `connect_timeout_s` covers TCP, tunnel, banner, key exchange and login. `slowness` is
    `Host.slowness`; None: it is measured.
    """

    user: str | None = None
    port: int | None = None
    key: Path | None = None
    known_hosts: Path | None = None
    connect_timeout_s: float = 5.0
    ssh_config: Path | None = None
    slowness: float | None = None


@dataclass(frozen=True, slots=True)
class OfferedKey:
    """The key that a machine shows, and the address, port and known_hosts file with which it would
    be stored."""

    addr: str
    port: int
    key: paramiko.PKey
    known_hosts: Path

    @property
    def entry(self) -> str:
        """How known_hosts names the machine."""
        return host_entry(self.addr, self.port)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.key)


@dataclass(frozen=True, slots=True)
class _Connection:
    """The lock `opening` is held while a channel is opened, so that each thread reads its own
    refusal."""

    fabric: Connection
    transport: paramiko.Transport
    opening: threading.Lock = field(default_factory=threading.Lock)

    @property
    def lives(self) -> bool:
        return self.transport.is_active()


class SshLink:
    """A connection that is opened when it is first needed; threads share it. If the machine allows
    no more sessions on it (OpenSSH: ten), there are several."""

    def __init__(
        self, name: str, addr: str, settings: SshSettings, jump: SshLink | None = None
    ) -> None:
        self.name = name
        self.addr = addr
        self._settings = settings
        self._jump = jump
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []

    def session(self, deadline_s: float, action: str) -> paramiko.Channel:
        """A channel for one command. A connection that broke while idle is opened again.

        Raises Unreachable (nothing was started) at the deadline, on the monotonic clock.
        """
        return self._channel("session", None, deadline_s, action)

    def tunnel(self, addr: str, port: int, deadline_s: float, action: str) -> paramiko.Channel:
        """A byte stream through this machine to another one."""
        return self._channel("direct-tcpip", (addr, port), deadline_s, action)

    def close(self) -> None:
        """End every connection. The next call opens a new one."""
        with self._lock:
            for connection in self._connections:
                _end(connection)
            self._connections.clear()

    def _channel(
        self, kind: str, dest: tuple[str, int] | None, deadline_s: float, action: str
    ) -> paramiko.Channel:
        full: list[_Connection] = []
        broken = False
        while True:
            connection = self._connection(full, deadline_s, action)
            try:
                with connection.opening:
                    return connection.transport.open_channel(
                        kind, dest, ("", 0) if dest else None, timeout=left_s(deadline_s)
                    )
            except paramiko.ChannelException as error:
                full.append(connection)
                if dest or len(full) == CONNECTIONS_MAX:
                    fix = "" if dest else "see MaxSessions in the machine's sshd_config"
                    raise Unreachable(self.name, action, f"refused: {error}", fix) from error
            except (paramiko.SSHException, OSError, EOFError) as error:
                self._discard(connection)
                if broken or time.monotonic() >= deadline_s:
                    problem = f"connection lost: {error or type(error).__name__}"
                    raise Unreachable(self.name, action, problem, self._hint()) from error
                broken = True

    def _connection(
        self, full: Sequence[_Connection], deadline_s: float, action: str
    ) -> _Connection:
        """The newest live connection that is not one of these; if there is none, a new one."""
        if not self._lock.acquire(timeout=left_s(deadline_s)):
            problem = "another thread is still connecting"
            raise Unreachable(self.name, action, problem, self._hint())
        try:
            for connection in reversed(self._connections):
                if connection.lives and connection not in full:
                    return connection
            limit_s = time.monotonic() + self._settings.connect_timeout_s
            connection = self._connect(min(deadline_s, limit_s), action)
            self._connections = [c for c in self._connections if c.lives] + [connection]
            return connection
        finally:
            self._lock.release()

    def _discard(self, broken: _Connection) -> None:
        """End a broken connection, but not a newer one that another thread has opened meanwhile."""
        with self._lock:
            _end(broken)
            self._connections = [c for c in self._connections if c.lives]

    def offered_key(self, action: str) -> OfferedKey:
        """The host key that the machine shows now. Asks without logging in, over the same route as
        a connection. The key proves nothing until a person compares it. Raises Unreachable.
        """
        deadline_s = time.monotonic() + self._settings.connect_timeout_s
        way = self._way(action)
        try:
            self._open(_stranger(way, {}), way, deadline_s, action)
        except UnknownHostKey as found:
            return OfferedKey(way.hostname, way.port, found.key, way.known_hosts[0])
        except Exception as error:
            late = time.monotonic() >= deadline_s
            raise self._explain(error, way, frozenset(), action, late) from error
        raise AssertionError("a client without known hosts was let in")

    def _connect(self, deadline_s: float, action: str) -> _Connection:
        way = self._way(action)
        entry = host_entry(way.hostname, way.port)
        try:
            known = known_keys(way.known_hosts, entry)
            connection = _stranger(way, self._login(way))
        except LoginUnusable as error:
            raise Unreachable(self.name, action, str(error), error.fix) from error
        for key in known.trusted:
            connection.client.get_host_keys().add(entry, key.get_name(), key)
        try:
            self._open(connection, way, deadline_s, action)
        except Exception as error:
            late = time.monotonic() >= deadline_s
            raise self._explain(error, way, known.revoked, action, late) from error
        _tune(connection.transport)
        return _Connection(connection, connection.transport)

    def _way(self, action: str) -> SshWay:
        """OpenSSH's settings, but with the inventory's known_hosts."""
        settings = self._settings
        try:
            way = ssh_way(self.addr, settings.user, settings.port, settings.ssh_config)
        except LoginUnusable as error:
            raise Unreachable(self.name, action, str(error), error.fix) from error
        if settings.known_hosts is not None:
            way = replace(way, known_hosts=(settings.known_hosts.expanduser(),))
        return way

    def _login(self, way: SshWay) -> dict[str, object]:
        """The keys to offer, as Paramiko's arguments. Raises LoginUnusable."""
        if self._settings.key is not None:
            key = login_key(self._settings.key.expanduser())
            return {"pkey": key, "allow_agent": False}
        files = [str(path) for path in way.identity_files if path.exists()]
        return {"key_filename": files, "allow_agent": not way.identities_only}

    def _open(self, connection: Connection, way: SshWay, deadline_s: float, action: str) -> None:
        """Connect and log in. The deadline covers every stage."""
        proxy = self._proxy(way, deadline_s, action)
        if proxy is not None:
            connection.connect_kwargs["sock"] = proxy
        limit_s = left_s(deadline_s)
        connection.connect_timeout = limit_s  # Fabric's own argument rounds 0.5 s to "for ever"
        for stage in ("banner_timeout", "auth_timeout", "channel_timeout"):
            connection.connect_kwargs[stage] = limit_s
        watchdog = threading.Timer(limit_s, _abort, (connection, proxy))
        watchdog.daemon = True
        watchdog.start()
        try:
            connection.open()
        except BaseException:
            _abort(connection, proxy)
            raise
        finally:
            watchdog.cancel()

    def _proxy(
        self, way: SshWay, deadline_s: float, action: str
    ) -> paramiko.Channel | paramiko.ProxyCommand | None:
        """The route if it is not direct: the jump host of the inventory, otherwise that of
        ssh_config."""
        if self._jump is None and way.proxy_jump:
            self._jump = self._jump_from(way.proxy_jump)
        if self._jump is not None:
            return self._jump.tunnel(way.hostname, way.port, deadline_s, action)
        if way.proxy_command:
            return paramiko.ProxyCommand(way.proxy_command)
        return None

    def _jump_from(self, proxy_jump: str) -> SshLink | None:
        link: SshLink | None = None
        for hop in proxy_jump.split(",")[:JUMPS_MAX]:
            user, _, rest = hop.strip().rpartition("@")
            host, _, port = rest.partition(":")
            settings = replace(
                self._settings, user=user or None, port=int(port) if port else None, key=None
            )
            link = SshLink(f"{self.name} via {host}", host, settings, link)
        return link

    def _explain(
        self, error: Exception, way: SshWay, revoked: frozenset[str], action: str, late: bool
    ) -> Unreachable:
        """The problem and its fix. Only the fix names the host's address and login, because the
        problem is written into the bundle of a run, and others read that."""
        if isinstance(error, Unreachable):  # the jump host's error already says everything
            return error
        where = f"{way.user}@{way.hostname} port {way.port}"
        trust = "compare the fingerprint on the machine itself, then:"
        trust += (
            f" testbed inventory trust {self.name} -i FILE (it is kept in {way.known_hosts[0]})"
        )
        if isinstance(error, UnknownHostKey):
            seen = fingerprint(error.key)
            problem = f"unknown host key {seen} ({error.key.get_name()})"
            if seen in revoked:
                problem = f"the host key {seen} is REVOKED in known_hosts"
                trust = "give the machine a new host key; somebody may have the old one"
            return HostKeyRefused(self.name, action, problem, trust, seen)
        if isinstance(error, paramiko.BadHostKeyException):
            seen, expected = fingerprint(error.key), fingerprint(error.expected_key)
            problem = (
                f"the host key CHANGED: it shows {seen}, known is {expected}."
                " A new SD card, or another machine in its place"
            )
            return HostKeyRefused(self.name, action, problem, trust, seen)
        # Paramiko also reports a time-out in this stage as a failed authentication.
        if isinstance(error, paramiko.AuthenticationException) and not late:
            key = self._settings.key
            fix = f"ssh-copy-id{f' -i {key}' if key else ''} -p {way.port} "
            fix += f"{way.user}@{way.hostname}"
            return Unreachable(self.name, action, f"login refused: {error}", fix)
        if late or isinstance(error, TimeoutError):
            limit_s = self._settings.connect_timeout_s
            problem = f"no connection in time (connect_timeout: {limit_s:g}s)"
            return Unreachable(self.name, action, problem, f"{self._hint()} ({where})")
        problem = f"cannot connect to its SSH port: {type(error).__name__}"
        return Unreachable(self.name, action, problem, f"{self._hint()} ({where}: {error})")

    def _hint(self) -> str:
        return f"is {self.addr} powered, on the network, and its SSH server running?"


def _stranger(way: SshWay, login: dict[str, object]) -> Connection:
    """A connection that is not open yet. It knows no host key, and refuses unknown ones."""
    connection = Connection(
        way.hostname,
        user=way.user,
        port=way.port,
        config=Config(ssh_config=paramiko.SSHConfig()),
        gateway=False,
        connect_kwargs={"look_for_keys": False, **login},
    )
    connection.client.set_missing_host_key_policy(RejectUnknown())
    return connection


def _end(connection: _Connection) -> None:
    with suppress(Exception):  # it may be broken, and is discarded anyway
        connection.fabric.close()


def _abort(connection: Connection, proxy: paramiko.Channel | paramiko.ProxyCommand | None) -> None:
    """Ends a connection attempt, in any stage."""
    with suppress(Exception):
        connection.client.close()
    if proxy is not None:
        with suppress(Exception):
            proxy.close()


def _tune(transport: paramiko.Transport) -> None:
    """Set options so that a vanished peer is noticed and small requests are sent at once."""
    transport.set_keepalive(KEEPALIVE_S)
    if isinstance(transport.sock, socket.socket):
        transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            dead_after_ms = DEAD_AFTER_S * 1000
            transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, dead_after_ms)
