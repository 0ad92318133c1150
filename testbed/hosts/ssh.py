"""A machine that is reached over SSH. It has nothing of ours except one directory.

Here: commands, files and followed logs over an `SshLink`. Elsewhere: connecting (`ssh_link.py`),
supervised programs (`systemd.py`).

Files travel over a command's standard streams instead of SFTP. Writing, checking, syncing and
renaming is then one round trip and needs no SFTP server, and half a file never has the final name.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from signal import Signals
from typing import Self

import paramiko

from testbed.hosts.after_mark import AfterMark
from testbed.hosts.files import atomic_file, chunks, digest
from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    GET_BYTES_MAX,
    NO_SYSTEMD,
    NO_SYSTEMD_FIX,
    OUTPUT_BYTES_MAX,
    SLOWNESS_MAX,
    STOP_TIMEOUT_S,
    TRANSFER_TIMEOUT_S,
    CommandFailed,
    Dialogue,
    Follow,
    Host,
    HostFault,
    NodeCommand,
    OutcomeUnknown,
    Result,
    TransferFailed,
    Unit,
    UnitState,
    UnitStatus,
    Unreachable,
)
from testbed.hosts.ssh_dialogue import SshDialogue
from testbed.hosts.ssh_follow import SshFollow, close_channel, execute
from testbed.hosts.ssh_link import OfferedKey, SshLink, SshSettings
from testbed.hosts.systemd import SystemdUnits, systemd_scope
from testbed.programs import shell

__all__ = ["SshFacts", "SshHost"]

_PIECE_BYTES = 32 * 1024
_REMOTE_GRACE_S = 2.0
"""The machine itself ends a command so long after our deadline, also when we are gone by then."""

_PROBE_WORK_NS = 100_000_000
"""What `probe.sh` takes at most on a Raspberry Pi 4 that has nothing else to do."""


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
        self._link: SshLink = SshLink(name, addr, settings, jump._link if jump else None)
        self._wanted_root = PurePosixPath(root)
        self._slowness = settings.slowness
        self._lock = threading.RLock()
        self._facts: SshFacts | None = None
        self._units: SystemdUnits | None = None

    @property
    def name(self) -> str:
        return self._link.name

    @property
    def addr(self) -> str:
        return self._link.addr

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
                self._talk(command, "probe", deadline_s, None, out.extend)
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
                    raise self._no_shell("probe", bytes(out)) from None
            return self._facts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        input: bytes | None = None,  # noqa: A002 - as in the port
        env: Mapping[str, str] | None = None,
        check: bool = True,
        root: bool = False,
    ) -> Result:
        out = bytearray()
        action = shlex.join(argv)
        named = [f"{key}={value}" for key, value in (env or {}).items()]
        argv = ["env", *named, *argv] if named else argv
        argv = self.as_root(argv) if root else argv
        given = None if input is None else chunks(input)
        code, err = self._command(argv, action, timeout_s, given, self._bounded(out, action))
        result = Result(code, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and code != 0:
            raise CommandFailed(self.name, action, result)
        return result

    def as_root(self, argv: Sequence[str]) -> tuple[str, ...]:
        if self.facts.uid == 0:
            return tuple(argv)
        if not self.facts.sudo:
            fix = "give the login sudo without a password there"
            raise HostFault(self.name, shlex.join(argv), "this needs root", fix)
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

    def get(self, path: str | PurePosixPath, *, timeout_s: float = TRANSFER_TIMEOUT_S) -> bytes:
        source = self._path(path)
        content = bytearray()
        argv = ["head", "-c", str(GET_BYTES_MAX + 1), "--", source]
        code, err = self._command(argv, f"get {source}", timeout_s, None, content.extend)
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

    def log_path(self, name: str) -> PurePosixPath:
        return self.root / "log" / f"{name}.log"

    def follow(self, path: str | PurePosixPath) -> Follow:
        source = self._path(path)
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S * self.slowness
        argv = shell("hosts/follow.sh", source)
        channel, begun = self._begin(argv, f"follow {source}", deadline_s)
        return SshFollow(self.name, source, channel, begun)

    def dialogue(self, argv: Sequence[str]) -> Dialogue:
        action = shlex.join(argv)
        deadline_s = time.monotonic() + COMMAND_TIMEOUT_S * self.slowness
        channel, begun = self._begin(argv, action, deadline_s)
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
                self._units = SystemdUnits(self, systemd_scope(facts.uid, facts.sudo))
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
        return self._talk(command, action, deadline_s, given, sink)

    def _begin(
        self, argv: Sequence[str], action: str, deadline_s: float
    ) -> tuple[paramiko.Channel, bytes]:
        """A channel in which a command runs until it is closed, and what the command said first."""
        command = shlex.join(shell("hosts/command.sh", "talk", str(self.root), "0", *argv))
        channel = self._link.session(deadline_s, action)
        begun = bytearray()
        after = AfterMark(begun.extend)
        try:
            execute(channel, command, deadline_s)
            while not after.seen:
                channel.settimeout(_left_s(deadline_s))
                piece = channel.recv(_PIECE_BYTES)
                if not piece:
                    close_channel(channel)
                    raise self._no_shell(action, after.greeting)
                after.take(piece)
        except TimeoutError as error:
            close_channel(channel)
            raise OutcomeUnknown(self.name, action, "no answer in time") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            close_channel(channel)
            raise OutcomeUnknown(self.name, action, f"connection lost: {error}") from error
        return channel, bytes(begun)

    def _no_shell(self, action: str, said: bytes) -> Unreachable:
        problem = f"its login runs no command of ours; it says {said[-200:]!r}"
        fix = "give the login a POSIX shell, and no ForceCommand or restricted shell"
        return Unreachable(self.name, action, problem, fix)

    def _talk(
        self,
        command: str,
        action: str,
        deadline_s: float,
        given: Iterable[bytes] | None,
        sink: Callable[[bytes], object],
    ) -> tuple[int, bytes]:
        """Exit code and standard error; standard output goes to `sink` piece by piece."""
        channel = self._link.session(deadline_s, action)
        try:
            helpers: list[threading.Thread] = []
            err = bytearray()
            after = AfterMark(sink)
            silent = threading.Event()
            ended = False
            try:
                channel.settimeout(_left_s(deadline_s))
                execute(channel, command, deadline_s)
                if given is not None:
                    helpers.append(_spawn(_feed, channel, given, silent))
                helpers.append(_spawn(_drain_stderr, channel, err))
                while piece := channel.recv(_PIECE_BYTES):
                    after.take(piece)
                    if time.monotonic() >= deadline_s:
                        raise TimeoutError
                    channel.settimeout(_left_s(deadline_s))
                silent.set()
                ended = channel.status_event.wait(_left_s(deadline_s))
                # It may have been closed by us in the moment in which it began (see `execute`).
                ended = ended and (channel.exit_status >= 0 or time.monotonic() < deadline_s)
            except TimeoutError:
                pass  # told below, once the helpers are gone
            except (paramiko.SSHException, EOFError) as error:
                raise OutcomeUnknown(self.name, action, f"connection lost: {error}") from error
            finally:
                if not ended:
                    close_channel(channel)
                for helper in helpers:
                    helper.join(_left_s(deadline_s))
            code = channel.exit_status
        finally:
            close_channel(channel)
        if ended and not after.seen and code >= 0:
            raise self._no_shell(action, after.greeting or bytes(err))
        if ended and code >= 0:
            return code, bytes(err)
        if not ended:
            problem = "still running at the deadline; the machine ends it by itself now"
            slow = 1.0 if self._facts is None else self._facts.slowness
            fix = f"is it busy or its card dying? Else slowness: in the inventory (now {slow:.1f})"
            raise OutcomeUnknown(self.name, action, problem, fix)
        raise OutcomeUnknown(self.name, action, "connection lost while it ran")


def _spawn(work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def _feed(channel: paramiko.Channel, given: Iterable[bytes], silent: threading.Event) -> None:
    """Writes until the command has ended. What happened to it or the connection is reported by the
    main thread."""
    try:
        for piece in given:
            if silent.is_set():
                break
            channel.sendall(piece)
        channel.shutdown_write()
    except (OSError, EOFError, paramiko.SSHException):
        return


def _drain_stderr(channel: paramiko.Channel, err: bytearray) -> None:
    """Keeps the first OUTPUT_BYTES_MAX. The rest is read and dropped, so that nothing blocks."""
    try:
        while piece := channel.recv_stderr(_PIECE_BYTES):
            err += piece[: max(0, OUTPUT_BYTES_MAX - len(err))]
    except (OSError, EOFError, paramiko.SSHException):
        return


def _left_s(deadline_s: float) -> float:
    return max(0.05, deadline_s - time.monotonic())
