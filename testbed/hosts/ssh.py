"""A machine that is reached over SSH. Our only trace on it is one directory.

Here: commands, files and followed logs. Elsewhere: connecting (`ssh_link.py`), one command over a
channel (`ssh_command.py`), supervised programs (`systemd.py`).

Files are sent over a command's standard streams instead of SFTP. So writing, checking, syncing and
renaming take one round trip and need no SFTP server, and an incomplete file never has the final
name.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from signal import Signals

import paramiko

from nodes.disk import atomic_file
from testbed.hosts.files import chunks, digest
from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    GET_BYTES_MAX,
    NO_ROOT_FIX,
    NO_SYSTEMD,
    NO_SYSTEMD_FIX,
    OUTPUT_BYTES_MAX,
    SLOWNESS_MAX,
    STOP_TIMEOUT_S,
    TRANSFER_TIMEOUT_S,
    CommandFailed,
    CommandResult,
    Dialogue,
    Follow,
    Host,
    HostFault,
    NodeCommand,
    OutcomeUnknown,
    TransferFailed,
    Unit,
    UnitState,
    UnitStatus,
)
from testbed.hosts.ssh_channel import SshDialogue, SshFollow
from testbed.hosts.ssh_command import SshCommands, no_shell
from testbed.hosts.ssh_link import OfferedKey, SshLink, SshSettings
from testbed.hosts.systemd import SystemdUnits
from testbed.programs import shell

__all__ = ["SshHost"]

_REMOTE_GRACE_S = 2.0
"""The machine itself ends a command so long after our deadline, even if we are gone by then."""

_PROBE_WORK_NS = 100_000_000
"""The longest time that `probe.sh` needs on an idle Raspberry Pi 4."""


@dataclass(frozen=True, slots=True)
class SshFacts:
    """What the probe at the first connection found out about the machine."""

    uid: int
    home: PurePosixPath
    systemd: bool
    sudo: bool
    slowness: float


class SshHost(Host):
    """A machine behind an SSH server.

    `root` is absolute or below the login's home. `jump` is another SshHost. A machine without
    systemd has no units, and starts none.
    """

    def __init__(
        self,
        name: str,
        addr: str,
        settings: SshSettings,
        *,
        root: str | PurePosixPath = "testbed",
        jump: SshHost | None = None,
    ) -> None:
        self.name = name
        self._link: SshLink = SshLink(name, addr, settings, jump._link if jump else None)
        self._commands = SshCommands(self._link)
        self._wanted_root = PurePosixPath(root)
        self._slowness = settings.slowness
        self._lock = threading.RLock()
        self._facts: SshFacts | None = None
        self._units: SystemdUnits | None = None

    @property
    def slowness(self) -> float:
        return self.facts.slowness

    @property
    def root(self) -> PurePosixPath:
        return self.facts.home / self._wanted_root

    @property
    def facts(self) -> SshFacts:
        """Asked once. Raises as `run` does."""
        with self._lock:
            if self._facts is None:
                out = bytearray()
                deadline_s = time.monotonic() + COMMAND_TIMEOUT_S
                command = shlex.join(shell("hosts/probe.sh"))
                self._commands.run(command, "probe", deadline_s, None, out.extend)
                try:
                    uid, home, init, sudo, took_ns = out.decode().splitlines()
                    measured = min(SLOWNESS_MAX, max(1.0, int(took_ns) / _PROBE_WORK_NS))
                    self._facts = SshFacts(
                        int(uid),
                        PurePosixPath(home),
                        init == "systemd",
                        sudo == "sudo",
                        self._slowness or measured,
                    )
                except ValueError:
                    raise no_shell(self.name, "probe", bytes(out)) from None
            return self._facts

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        input: bytes | None = None,  # noqa: A002 - as in the port
        env: Mapping[str, str] | None = None,
        check: bool = True,
        root: bool = False,
    ) -> CommandResult:
        out = bytearray()
        action = shlex.join(argv)
        named = [f"{key}={value}" for key, value in (env or {}).items()]
        argv = ["env", *named, *argv] if named else argv
        argv = self.as_root(argv) if root else argv
        given = None if input is None else chunks(input)
        code, err = self._command(argv, action, timeout_s, given, self._bounded(out, action))
        result = CommandResult(code, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and code != 0:
            raise CommandFailed(self.name, action, result)
        return result

    def as_root(self, argv: Sequence[str]) -> tuple[str, ...]:
        if self.facts.uid == 0:
            return tuple(argv)
        if not self.facts.sudo:
            raise HostFault(self.name, shlex.join(argv), "this needs root", NO_ROOT_FIX)
        return ("sudo", "-n", "--", *argv)

    def put(
        self,
        source: bytes | Path,
        path: str | PurePosixPath,
        mode: int = 0o644,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        target = self._path(path)
        action = f"put {target}"
        try:
            sha = digest(source)
        except OSError as error:
            raise TransferFailed(self.name, action, str(error)) from error
        argv = shell("hosts/put.sh", target, f"{mode:o}", sha)
        out = bytearray()
        code, err = self._command(argv, action, timeout_s, chunks(source), out.extend)
        if code != 0:
            raise TransferFailed(self.name, action, err.decode(errors="replace").strip())

    def get(self, path: str | PurePosixPath) -> bytes:
        source = self._path(path)
        content = bytearray()
        argv = ["head", "-c", str(GET_BYTES_MAX + 1), "--", source]
        code, err = self._command(argv, f"get {source}", TRANSFER_TIMEOUT_S, None, content.extend)
        if code != 0:
            problem = err.decode(errors="replace").strip()
            raise TransferFailed(self.name, f"get {source}", problem)
        if len(content) > GET_BYTES_MAX:
            problem = f"larger than {GET_BYTES_MAX} bytes"
            raise TransferFailed(self.name, f"get {source}", problem, "use fetch")
        return bytes(content)

    def fetch(
        self,
        path: str | PurePosixPath,
        local_path: Path,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        source = self._path(path)
        action = f"fetch {source}"
        try:
            with atomic_file(local_path) as copy:
                argv = ["cat", "--", source]
                code, err = self._command(argv, action, timeout_s, None, copy.write)
                if code != 0:
                    raise TransferFailed(self.name, action, err.decode(errors="replace").strip())
        except OSError as error:
            raise TransferFailed(self.name, action, str(error)) from error

    def start(self, unit: Unit) -> None:
        self._systemd(f"start unit {unit.name}").start(unit)

    def stop(self, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        if self.facts.systemd:
            self._systemd("stop").stop(name, timeout_s)

    def signal(self, name: str, signal: Signals) -> None:
        self._systemd(f"send {signal.name} to unit {name}").signal(name, signal)

    def status(self, name: str) -> UnitStatus:
        if not self.facts.systemd:
            return UnitStatus(UnitState.INACTIVE)
        return self._systemd("status").status(name)

    def units(self) -> tuple[str, ...]:
        return self._systemd("units").units() if self.facts.systemd else ()

    def start_command(self, unit: Unit) -> NodeCommand | None:
        return self._systemd(f"start unit {unit.name}").start_command(unit)

    def stop_command(self, name: str) -> NodeCommand | None:
        return self._systemd(f"stop unit {name}").stop_command(name)

    def signal_command(self, name: str, signal: Signals) -> NodeCommand | None:
        return self._systemd(f"send {signal.name} to unit {name}").signal_command(name, signal)

    def follow(self, path: str | PurePosixPath) -> Follow:
        source = self._path(path)
        argv = shell("hosts/follow.sh", source)
        channel, begun = self._begin(argv, f"follow {source}")
        return SshFollow(self.name, source, channel, begun)

    def dialogue(self, argv: Sequence[str]) -> Dialogue:
        action = shlex.join(argv)
        channel, begun = self._begin(argv, action)
        return SshDialogue(self.name, action, channel, begun, self.slowness)

    def offered_key(self) -> OfferedKey:
        """The host key that it shows, without logging in. Raises Unreachable."""
        return self._link.offered_key("ask for its key")

    def close(self) -> None:
        self._link.close()

    def _systemd(self, action: str) -> SystemdUnits:
        facts = self.facts
        if not facts.systemd:
            raise HostFault(self.name, action, NO_SYSTEMD, NO_SYSTEMD_FIX)
        with self._lock:
            if self._units is None:
                self._units = SystemdUnits(self, system=facts.uid == 0 or facts.sudo)
            return self._units

    def _path(self, path: str | PurePosixPath) -> str:
        return str(self.root / path)

    def _bounded(self, out: bytearray, action: str) -> Callable[[bytes], None]:
        def keep(piece: bytes) -> None:
            out.extend(piece)
            if len(out) > OUTPUT_BYTES_MAX:
                problem = f"printed more than {OUTPUT_BYTES_MAX} bytes"
                fix = "let it write to a file and fetch that"
                raise OutcomeUnknown(self.name, action, problem, fix)

        return keep

    def _command(
        self,
        argv: Sequence[str],
        action: str,
        timeout_s: float,
        given: Iterable[bytes] | None,
        sink: Callable[[bytes], object],
    ) -> tuple[int, bytes]:
        timeout_s *= self.slowness
        deadline_s = time.monotonic() + timeout_s
        limit = f"{timeout_s + _REMOTE_GRACE_S:.1f}"
        verb = "run" if given is None else "feed"
        command = shlex.join(shell("hosts/command.sh", verb, str(self.root), limit, *argv))
        slowness = self.slowness
        return self._commands.run(command, action, deadline_s, given, sink, slowness=slowness)

    def _begin(self, argv: Sequence[str], action: str) -> tuple[paramiko.Channel, bytes]:
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S * self.slowness
        command = shlex.join(shell("hosts/command.sh", "talk", str(self.root), "0", *argv))
        return self._commands.begin(command, action, deadline_s)
