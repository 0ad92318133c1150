"""A real OpenSSH server of our own on a free loopback port, and waiting on conditions."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from testbed.bench.network import HeldPort
from testbed.hosts.host_keys import host_entry
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings

__all__ = ["SSHD", "SshServer", "eventually", "free_port", "free_ports", "ssh_server_missing"]

SSHD = Path("/usr/sbin/sshd")


def eventually(condition: Callable[[], bool], deadline_s: float = 60.0) -> None:
    """Wait until the condition holds; the deadline only bounds a failing test. A look may cost a
    command over SSH: most of the time is left to those who are waited for."""
    until = time.monotonic() + deadline_s
    pause = threading.Event()
    while True:
        began = time.monotonic()
        if condition():
            return
        looked = time.monotonic()
        assert looked < until, "it did not happen in time"
        pause.wait(min(1.0, 0.01 + 4 * (looked - began)))


def free_ports(number: int = 16) -> int:
    """The first of so many in a row that are free now: by default more than a lab has processes."""
    for first in range(21_000, 60_000, number):
        try:
            for port in range(first, first + number):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def ssh_server_missing() -> str:
    """Why there can be no SSH server here, or nothing."""
    if not SSHD.exists():
        return f"{SSHD} is missing: apt-get install openssh-server"
    return ""


_dead: list[HeldPort] = []


def free_port() -> int:
    """Nobody listens there, and nobody will while these tests run."""
    _dead.append(HeldPort())
    return _dead[-1].number


class SshServer:
    """sshd as the current user with its own host key, known_hosts and one authorised key."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(parents=True)
        self._held = HeldPort()
        self.port = self._held.number
        self.key = home / "client_key"
        self.known_hosts = home / "known_hosts"
        for path in (home / "host_key", self.key):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
            subprocess.run(keygen, check=True)
        shutil.copy(home / "client_key.pub", home / "authorized_keys")
        public = " ".join((home / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"{host_entry('127.0.0.1', self.port)} {public}\n")
        (home / "config").write_text(
            f"ListenAddress 127.0.0.1:{self.port}\nHostKey {home}/host_key\nPidFile none\n"
            f"AuthorizedKeysFile {home}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "AllowTcpForwarding yes\n"
            "SetEnv SHLVL=2\n"  # keeps bash from reading a long ~/.bashrc for every command
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.stop()
        self._held.release()

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        argv = [str(SSHD), "-D", "-e", "-f", str(self.home / "config")]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stderr=log)
        eventually(self._answers)

    def stop(self) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def drop_connections(self) -> None:
        """End every session, but not the server: what a network failure does."""
        assert self._process is not None
        subprocess.run(["pkill", "-KILL", "-P", str(self._process.pid)], check=True)

    def settings(self, **changes: object) -> SshSettings:
        values: dict[str, object] = {
            "user": getpass.getuser(),
            "port": self.port,
            "key": self.key,
            "known_hosts": self.known_hosts,
            "ssh_config": Path("/dev/null"),
        }
        return SshSettings(**(values | changes))  # type: ignore[arg-type]

    def host(
        self, *, root: Path, name: str = "pi01", jump: SshHost | None = None, **changes: object
    ) -> SshHost:
        settings = self.settings(**changes)
        return SshHost(name, "127.0.0.1", settings, root=str(root), jump=jump)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False
