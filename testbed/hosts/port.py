"""The one narrow interface through which the orchestrator sees a machine.

Here: the verbs (`Host`), the small values they take and return, and the kinds of trouble they tell
apart. Elsewhere: `local.py` (this machine), `ssh.py` (any machine with an SSH server). Faults,
provisioning and campaigns know only this file, so they work on every kind of host.

Calls are synchronous and may come from several threads at once; the orchestrator parallelises over
hosts with threads. Every call has a deadline that covers connecting too.

Nothing given to `run`, `Unit.argv` or `Unit.env` may be secret (other users of the host can read
it): a secret travels by `put` with mode 0o600.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from signal import Signals
from typing import Protocol, Self

from testbed import programs
from testbed.errors import LabFault

__all__ = [
    "ACTION_CHARS_MAX",
    "BACKOFF_MAX_S",
    "BACKOFF_MIN_S",
    "COMMAND_TIMEOUT_S",
    "EXISTS_POLL_S",
    "GET_BYTES_MAX",
    "LINE_BYTES_MAX",
    "LOG_BYTES_MAX",
    "NO_ROOT_FIX",
    "NO_SYSTEMD",
    "NO_SYSTEMD_FIX",
    "OUTPUT_BYTES_MAX",
    "QUICK_DEATHS_MAX",
    "SLOWNESS_MAX",
    "STABLE_AFTER_S",
    "STOP_TIMEOUT_S",
    "TRANSFER_TIMEOUT_S",
    "CommandFailed",
    "CommandResult",
    "Dialogue",
    "Follow",
    "Host",
    "HostFault",
    "HostKeyRefused",
    "NodeCommand",
    "OutcomeUnknown",
    "TransferFailed",
    "Unit",
    "UnitState",
    "UnitStatus",
    "Unreachable",
]

COMMAND_TIMEOUT_S = 30.0
EXISTS_POLL_S = 0.1  # between two looks for a file that is waited for, see exists.sh
TRANSFER_TIMEOUT_S = 120.0
SLOWNESS_MAX = 100.0
"""A slower host is broken, not slow."""

STOP_TIMEOUT_S = 10.0
"""How long a stopped unit may take after SIGTERM before SIGKILL ends its process group."""

OUTPUT_BYTES_MAX = 16 * 1024 * 1024
"""The most that one command may print on one stream."""

GET_BYTES_MAX = 16 * 1024 * 1024
"""The largest file that `get` returns; `fetch` has no such limit."""

LINE_BYTES_MAX = 1024 * 1024
"""The longest line that `follow` and `dialogue` keep."""

LOG_BYTES_MAX = 16 * 1024 * 1024
"""A unit's log is rotated at this size, and one older file is kept."""

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 2.0
STABLE_AFTER_S = 1.0
"""A unit that ran this long is healthy again: its next death is restarted at once."""

QUICK_DEATHS_MAX = 6
"""After so many deaths in a row, none of them stable, a unit is given up and reads as failed."""

NO_ROOT_FIX = "let the login use sudo without a password and a terminal, or log in as root"

NO_SYSTEMD = "no systemd: nothing there would keep processes running"
NO_SYSTEMD_FIX = "install a system that has it: Raspberry Pi OS or Debian, 12 or newer"

ACTION_CHARS_MAX = 160
"""How much of the action is shown in an error message."""

_UNIT_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,47}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _brief(action: str) -> str:
    """The first line of an action, which may be a whole program."""
    first = action.partition("\n")[0]
    brief = first[:ACTION_CHARS_MAX]
    return action if brief == action else f"{brief} ..."


class HostFault(LabFault):
    """A machine did not do what it was asked. Names the host, the action and the fix."""

    def __init__(self, host: str, action: str, problem: str, fix: str = "") -> None:
        self.host = host
        self.action = _brief(action)
        self.problem = problem
        self.fix = fix
        super().__init__(f"{host}: {self.action}: {problem}" + (f"\n  fix: {fix}" if fix else ""))


class Unreachable(HostFault):
    """Definite: there was no connection, so nothing was done. Repeating is safe."""


class HostKeyRefused(Unreachable):
    """The machine that answered cannot prove that it is the right one. Nothing was sent to it."""

    def __init__(self, host: str, action: str, problem: str, fix: str, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        super().__init__(host, action, problem, fix)


class CommandFailed(HostFault):
    """Definite: the command ran to its end and failed."""

    def __init__(self, host: str, action: str, result: CommandResult) -> None:
        self.result = result
        said = (result.stderr.strip() or result.stdout.strip() or "(no output)")[-2000:]
        super().__init__(host, action, f"exit code {result.exit_code}: {said}")


class TransferFailed(HostFault):
    """Definite: the destination file is as it was before."""


class OutcomeUnknown(HostFault):
    """The connection broke, or the time ran out, before the action ended. The action may have
    happened or not. Try again only if repeating it is safe.
    """


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Exit code and output of a command. If signal n ended it, the exit code is 128 + n."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True)
class NodeCommand:
    """Something that a host can do by itself later, without a connection. Nothing in it is secret.

    The command reads `input` on its standard input and runs in the host's root.
    """

    argv: tuple[str, ...]
    input: bytes = b""


@dataclass(frozen=True, slots=True)
class Unit:
    """A long-running program that a host supervises: the name is unique on its host.

    `argv[0]` is an absolute path or found on the host's PATH, `cwd` absolute or below the host's
    `root`. With `restart`, the host starts it again when it dies without having been stopped.
    `hardened`: if the host can enforce it, the program may write below `root` only, and cannot gain
    privileges.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = "."
    restart: bool = True
    hardened: bool = True

    def __post_init__(self) -> None:
        assert _UNIT_NAME.fullmatch(self.name), f"unit name {self.name!r}: use a-z, 0-9 and -"
        assert self.argv, f"unit {self.name}: argv is empty"
        words = (*self.argv, *self.env.values(), self.cwd)
        assert not any("\0" in word for word in words), f"unit {self.name}: NUL in an argument"
        for name in self.env:
            assert _ENV_NAME.fullmatch(name), f"unit {self.name}: bad environment name {name!r}"


class UnitState(StrEnum):
    """ACTIVE: supervised; its pid is None for the moment between a death and the restart.

    FAILED: ended by itself with an error and will not be restarted. INACTIVE: never started,
    stopped on request, or ended by itself with exit code 0 and without `restart`.
    """

    ACTIVE = "active"
    FAILED = "failed"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """`restarts` counts since `start`; `exit_code` is that of the latest death, if any."""

    state: UnitState
    pid: int | None = None
    restarts: int = 0
    exit_code: int | None = None


class _Closed(Protocol):
    """An object that is closed at the end of a `with` block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None: ...


class Follow(_Closed, Protocol):
    """A file's lines from its beginning, and then new lines as they are written, without the line
    end.

    `close` may come from another thread and ends the iteration. The iterator raises `Unreachable`
    if the connection is lost, and another `HostFault` for a line longer than LINE_BYTES_MAX. No
    line is invented or repeated within one Follow.
    """

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str: ...


class Dialogue(_Closed, Protocol):
    """A command that answers each line with one line, until `close`."""

    def ask(self, line: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """The answer, without the line end. Raises OutcomeUnknown if none comes."""


class Host(_Closed, Protocol):
    """A machine. Relative paths are below `root`, our only directory on it."""

    name: str
    """The inventory's name of the machine."""

    @property
    def slowness(self) -> float:
        """Deadlines for this host are so many times longer. `run` and the other methods apply
        it."""

    @property
    def root(self) -> PurePosixPath:
        """The directory that belongs to us on that machine; made when first needed."""

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = COMMAND_TIMEOUT_S,
        input: bytes | None = None,  # noqa: A002 - the same name as in subprocess.run
        env: Mapping[str, str] | None = None,
        check: bool = True,
        root: bool = False,
    ) -> CommandResult:
        """Run a command to its end in `root`; no shell ever interprets an argument.

        A program that is not there reads as exit code 127. At the deadline the command is ended.
        With `root` it runs as root (`as_root`).

        Raises:
            CommandFailed: `check` and an exit code that is not 0.
            OutcomeUnknown: the deadline passed or the connection dropped in the middle.
            Unreachable: it was never started.
        """

    def as_root(self, argv: Sequence[str]) -> tuple[str, ...]:
        """The command that runs `argv` as root. Raises HostFault if the login may not become
        root."""

    def put(
        self,
        source: bytes | Path,
        path: str | PurePosixPath,
        mode: int = 0o644,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Write a file whole or not at all: write a temporary file beside it, compare SHA-256,
        rename.

        Missing parent directories are made.
        """

    def get(self, path: str | PurePosixPath) -> bytes:
        """A file's content, at most GET_BYTES_MAX; raises TransferFailed if it is not there."""

    def fetch(
        self,
        path: str | PurePosixPath,
        local_path: Path,
        *,
        timeout_s: float = TRANSFER_TIMEOUT_S,
    ) -> None:
        """Stream a file of any size into `local_path`, whole or not at all."""

    def exists(self, path: str | PurePosixPath, *, within_s: float = 0.0) -> bool:
        """Whether a file or directory is there. The host itself looks for it for `within_s`, so
        that waiting takes one call. False also if the login may not look there."""
        argv = programs.shell("hosts/exists.sh", str(path), str(round(within_s / EXISTS_POLL_S)))
        timeout_s = COMMAND_TIMEOUT_S + within_s
        return self.run(argv, check=False, timeout_s=timeout_s).exit_code == 0

    def start(self, unit: Unit) -> None:
        """Supervise a unit. If the same unit is active already, nothing happens. A unit that
        changed is replaced."""

    def stop(self, name: str, *, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End a unit (SIGTERM, then after a deadline SIGKILL to its group) and keep it from being
        restarted. Repeatable."""

    def signal(self, name: str, signal: Signals) -> None:
        """Send a signal to the unit's main process. After KILL the supervisor restarts the unit,
        because this is not a stop.

        Raises CommandFailed or HostFault if the unit has no process at the moment.
        """

    def status(self, name: str) -> UnitStatus:
        """The state of a unit. A name that was never started is INACTIVE."""

    def units(self) -> tuple[str, ...]:
        """Names of all units that were started here and not stopped, by anyone."""

    def start_command(self, unit: Unit) -> NodeCommand | None:
        """The command that does on the host what `start` does; None if its units end with this
        program."""
        return None

    def stop_command(self, name: str) -> NodeCommand | None:
        """The command that does on the host what `stop` does; None as for `start_command`."""
        return None

    def signal_command(self, name: str, signal: Signals) -> NodeCommand | None:
        """The command that does on the host what `signal` does; None as for `start_command`."""
        return None

    def log_path(self, name: str) -> PurePosixPath:
        """The file with a unit's standard output and standard error."""
        return self.root / "log" / f"{name}.log"

    def follow(self, path: str | PurePosixPath) -> Follow:
        """Like `tail -n +1 -F`: the file may appear later, be rotated or truncated."""

    def dialogue(self, argv: Sequence[str]) -> Dialogue:
        """Start a command in `root` and talk with it line by line: one question, one answer."""

    def close(self) -> None:
        """End the connection. Units of a LocalHost are its children and end with it."""
