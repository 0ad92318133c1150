"""This machine as a host. Units are child processes of ours. They end with us, even by kill -9."""

from __future__ import annotations

import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from signal import Signals

from nodes.disk import atomic_file
from testbed.hosts.exchange import DeadlinePassed, OutputTooLong, exchange
from testbed.hosts.files import chunks, digest
from testbed.hosts.guard import Guarded
from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    EXISTS_POLL_S,
    GET_BYTES_MAX,
    LINE_BYTES_MAX,
    OUTPUT_BYTES_MAX,
    STOP_TIMEOUT_S,
    TRANSFER_TIMEOUT_S,
    CommandFailed,
    CommandResult,
    Dialogue,
    Follow,
    Host,
    HostFault,
    OutcomeUnknown,
    TransferFailed,
    Unit,
    UnitState,
    UnitStatus,
)
from testbed.hosts.supervise import SupervisedUnit

__all__ = ["LocalHost"]

_PIECE_BYTES = 64 * 1024


class LocalHost(Host):
    """A directory of this machine and the child processes that live in it.

    Logs are `<root>/log/<unit>.log`. `close` (or leaving the `with` block) stops every unit.
    """

    def __init__(self, root: Path, *, name: str = "local") -> None:
        self.name = name
        self._root = root.resolve()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._root / "log").mkdir(mode=0o700, exist_ok=True)
        self._units: dict[str, SupervisedUnit] = {}
        self._lock = threading.Lock()

    @property
    def slowness(self) -> float:
        return 1.0

    @property
    def root(self) -> PurePosixPath:
        return PurePosixPath(self._root)

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
        argv = self.as_root(argv) if root else argv
        deadline_s = time.monotonic() + timeout_s
        action = shlex.join(argv)
        pipe = subprocess.PIPE
        try:
            child = Guarded(argv, cwd=self._root, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise HostFault(self.name, action, f"cannot start: {error}") from error
        try:
            out, err = exchange(child.process, input or b"", deadline_s, OUTPUT_BYTES_MAX)
            child.process.wait(max(0.05, deadline_s - time.monotonic()))
        except (DeadlinePassed, subprocess.TimeoutExpired):
            problem = f"still running after {timeout_s:g} s, ended"
            fix = "is this machine busy with something else?"
            raise OutcomeUnknown(self.name, action, problem, fix) from None
        except OutputTooLong:
            problem = f"printed more than {OUTPUT_BYTES_MAX} bytes, ended"
            fix = "let it write to a file and fetch that"
            raise OutcomeUnknown(self.name, action, problem, fix) from None
        finally:
            child.kill_group()
            code = child.wait()
            _close_pipes(child.process)
        result = CommandResult(code, out.decode(errors="replace"), err.decode(errors="replace"))
        if check and code != 0:
            raise CommandFailed(self.name, action, result)
        return result

    def as_root(self, argv: Sequence[str]) -> tuple[str, ...]:
        if os.geteuid() != 0:
            fix = "run testbed as root"
            raise HostFault(self.name, shlex.join(argv), "this needs root", fix)
        return tuple(argv)

    def put(
        self,
        source: bytes | Path,
        path: str | PurePosixPath,
        mode: int = 0o644,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        target = self._path(path)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(target, mode) as file:
                for piece in chunks(source):
                    file.write(piece)
                file.flush()
                if digest(Path(file.name)) != digest(source):
                    raise OSError("what was written reads back differently: is the disk broken?")
        except OSError as error:
            raise TransferFailed(self.name, f"put {target}", str(error)) from error

    def get(self, path: str | PurePosixPath) -> bytes:
        source = self._path(path)
        try:
            with source.open("rb") as file:
                content = file.read(GET_BYTES_MAX + 1)
        except OSError as error:
            raise TransferFailed(self.name, f"get {source}", str(error)) from error
        if len(content) > GET_BYTES_MAX:
            problem = f"larger than {GET_BYTES_MAX} bytes"
            raise TransferFailed(self.name, f"get {source}", problem, "use fetch")
        return content

    def exists(self, path: str | PurePosixPath, *, within_s: float = 0.0) -> bool:
        deadline_s = time.monotonic() + within_s
        while not (there := os.path.exists(self._path(path))):  # noqa: PTH110 - Path.exists may raise
            if time.monotonic() >= deadline_s:
                break
            time.sleep(EXISTS_POLL_S)
        return there

    def fetch(
        self,
        path: str | PurePosixPath,
        local_path: Path,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        source = self._path(path)
        try:
            with source.open("rb") as file, atomic_file(local_path) as copy:
                shutil.copyfileobj(file, copy)
        except OSError as error:
            raise TransferFailed(self.name, f"fetch {source}", str(error)) from error

    def start(self, unit: Unit) -> None:
        with self._lock:
            present = self._units.get(unit.name)
            if present and present.status().state is UnitState.ACTIVE:
                if present.unit == unit:
                    return
                present.stop(STOP_TIMEOUT_S)
            log = Path(self.log_path(unit.name))
            try:
                self._units[unit.name] = SupervisedUnit(unit, self._path(unit.cwd), log)
            except OSError as error:
                action = f"start unit {unit.name}"
                raise HostFault(self.name, action, str(error)) from error

    def stop(self, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        present = self._units.get(name)
        if present:
            present.stop(timeout_s)

    def signal(self, name: str, signal: Signals) -> None:
        present = self._units.get(name)
        if not (present and present.signal(signal)):
            action = f"send {signal.name} to unit {name}"
            raise HostFault(self.name, action, "it has no process at the moment")

    def status(self, name: str) -> UnitStatus:
        present = self._units.get(name)
        return present.status() if present else UnitStatus(UnitState.INACTIVE)

    def units(self) -> tuple[str, ...]:
        with self._lock:
            units = dict(self._units)
        return tuple(n for n, unit in units.items() if unit.status().state is UnitState.ACTIVE)

    def follow(self, path: str | PurePosixPath) -> Follow:
        return _LocalFollow(self.name, self._path(path))

    def dialogue(self, argv: Sequence[str]) -> Dialogue:
        return _LocalDialogue(self.name, argv, self._root)

    def close(self) -> None:
        with self._lock:
            units, self._units = list(self._units.values()), {}
        for unit in units:
            unit.ask_to_stop()
        for unit in units:
            unit.stop(STOP_TIMEOUT_S)

    def _path(self, path: str | PurePosixPath) -> Path:
        return self._root / path


_GNU_TAIL = ("-s", "0.2", "--max-unchanged-stats=1") if sys.platform == "linux" else ()


class _LocalFollow(Follow):
    """Reads the output of `tail -F`, which waits for notifications of the file system."""

    def __init__(self, host: str, path: Path) -> None:
        self._host = host
        self._path = path
        self._tail = Guarded(
            ["tail", "-n", "+1", "-F", *_GNU_TAIL, "--", str(path)],
            cwd=Path("/"),
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __next__(self) -> str:
        assert self._tail.process.stdout is not None
        stdout = self._tail.process.stdout
        line = b"" if stdout.closed else stdout.readline(LINE_BYTES_MAX + 1)
        if not line:
            raise StopIteration
        if len(line) > LINE_BYTES_MAX:
            problem = f"a line longer than {LINE_BYTES_MAX} bytes"
            raise HostFault(self._host, f"follow {self._path}", problem)
        return line.decode(errors="replace").rstrip("\r\n")

    def close(self) -> None:
        self._tail.kill_group()
        self._tail.process.wait()


class _LocalDialogue(Dialogue):
    def __init__(self, host: str, argv: Sequence[str], cwd: Path) -> None:
        self._host = host
        self._action = shlex.join(argv)
        self._rest = bytearray()
        pipe = subprocess.PIPE
        try:
            self._child = Guarded(
                argv, cwd=cwd, env=None, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise HostFault(host, self._action, f"cannot start: {error}") from error

    def ask(self, line: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        asking, answers = self._child.process.stdin, self._child.process.stdout
        assert asking is not None
        assert answers is not None
        deadline_s = time.monotonic() + timeout_s
        try:
            asking.write(line.encode() + b"\n")
            asking.flush()
            while (end := self._rest.find(b"\n")) < 0:
                if len(self._rest) > LINE_BYTES_MAX:
                    problem = f"a line longer than {LINE_BYTES_MAX} bytes"
                    raise OutcomeUnknown(self._host, self._action, problem)
                left_s = max(0.0, deadline_s - time.monotonic())
                ready, _, _ = select.select([answers], [], [], left_s)
                piece = os.read(answers.fileno(), _PIECE_BYTES) if ready else b""
                if not piece:
                    raise OutcomeUnknown(self._host, self._action, "no answer")
                self._rest += piece
        except OSError as error:
            raise OutcomeUnknown(self._host, self._action, str(error)) from error
        answer = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return answer.decode(errors="replace").rstrip("\r")

    def close(self) -> None:
        self._child.kill_group()
        self._child.wait()
        _close_pipes(self._child.process)


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with suppress(OSError):  # the child never read its input
                stream.close()
