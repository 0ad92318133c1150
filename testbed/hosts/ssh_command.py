"""One command on a remote machine, over a channel of its own, within a deadline.

Elsewhere: which commands are run, and what they mean (`ssh.py`); channels (`ssh_link.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import paramiko

from testbed.hosts.port import OUTPUT_BYTES_MAX, OutcomeUnknown, Unreachable
from testbed.hosts.ssh_channel import close_channel, execute, left_s
from testbed.hosts.ssh_link import SshLink

__all__ = ["SshCommands", "no_shell"]

_PIECE_BYTES = 32 * 1024

_MARK = b"\x02m2m\x03\n"
"""`command.sh` and `probe.sh` print it first. The login printed what comes before, so it is
dropped."""

_GREETING_BYTES_MAX = 4096
"""How much is kept of the login's own output before the mark."""


class SshCommands:
    """Runs commands on one machine. Each prints a mark before its own output begins."""

    def __init__(self, link: SshLink) -> None:
        self._link = link

    def run(
        self,
        command: str,
        action: str,
        deadline_s: float,
        given: Iterable[bytes] | None,
        sink: Callable[[bytes], object],
        *,
        slowness: float = 1.0,
    ) -> tuple[int, bytes]:
        """Exit code and standard error; standard output goes to `sink` piece by piece. `given` is
        its input. The host is `slowness` times slower than usual; errors say so."""
        name = self._link.name
        channel = self._link.session(deadline_s, action)
        try:
            helpers: list[threading.Thread] = []
            err = bytearray()
            after = _AfterMark(sink)
            silent = threading.Event()
            ended = False
            try:
                channel.settimeout(left_s(deadline_s))
                execute(channel, command, deadline_s)
                if given is not None:
                    helpers.append(_spawn(_feed, channel, given, silent))
                helpers.append(_spawn(_drain_stderr, channel, err))
                while piece := channel.recv(_PIECE_BYTES):
                    after.take(piece)
                    if time.monotonic() >= deadline_s:
                        raise TimeoutError
                    channel.settimeout(left_s(deadline_s))
                silent.set()
                ended = channel.status_event.wait(left_s(deadline_s))
                # We may have closed it just when it began (see `execute`).
                ended = ended and (channel.exit_status >= 0 or time.monotonic() < deadline_s)
            except TimeoutError:
                pass  # reported below, when the helper threads have ended
            except (paramiko.SSHException, EOFError) as error:
                raise OutcomeUnknown(name, action, f"connection lost: {error}") from error
            finally:
                if not ended:
                    close_channel(channel)
                for helper in helpers:
                    helper.join(left_s(deadline_s))
            code = channel.exit_status
        finally:
            close_channel(channel)
        if ended and not after.seen and code >= 0:
            raise no_shell(name, action, after.greeting or bytes(err))
        if ended and code >= 0:
            return code, bytes(err)
        if not ended:
            problem = "still running at the deadline; the machine ends it by itself now"
            fix = "is it busy or its card dying? "
            fix += f"Else slowness: in the inventory (now {slowness:.1f})"
            raise OutcomeUnknown(name, action, problem, fix)
        raise OutcomeUnknown(name, action, "connection lost while it ran")

    def begin(self, command: str, action: str, deadline_s: float) -> tuple[paramiko.Channel, bytes]:
        """Starts a command that runs until its channel is closed. Returns the channel and the first
        output. After that the command may be silent for any time."""
        channel = self._link.session(deadline_s, action)
        begun = bytearray()
        after = _AfterMark(begun.extend)
        try:
            execute(channel, command, deadline_s)
            while not after.seen:
                channel.settimeout(left_s(deadline_s))
                piece = channel.recv(_PIECE_BYTES)
                if not piece:
                    close_channel(channel)
                    raise no_shell(self._link.name, action, after.greeting)
                after.take(piece)
            channel.settimeout(None)
        except TimeoutError as error:
            close_channel(channel)
            raise OutcomeUnknown(self._link.name, action, "no answer in time") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            close_channel(channel)
            raise OutcomeUnknown(self._link.name, action, f"connection lost: {error}") from error
        return channel, bytes(begun)


class _AfterMark:
    """Passes on the output of a command. The login's output before the mark is kept separately."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink
        self._before = bytearray()
        self.seen = False

    @property
    def greeting(self) -> bytes:
        return bytes(self._before)

    def take(self, piece: bytes) -> None:
        if self.seen:
            self._sink(piece)
            return
        self._before += piece
        place = self._before.find(_MARK)
        if place >= 0:
            self.seen = True
            rest = bytes(self._before[place + len(_MARK) :])
            del self._before[place:]
            if rest:
                self._sink(rest)
        else:
            del self._before[:-_GREETING_BYTES_MAX]


def no_shell(host: str, action: str, said: bytes) -> Unreachable:
    """The error for a login that does not run our commands. `said`: what it printed instead."""
    problem = f"its login runs no command of ours; it says {said[-200:]!r}"
    fix = "give the login a POSIX shell, and no ForceCommand or restricted shell"
    return Unreachable(host, action, problem, fix)


def _spawn(work: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, daemon=True)
    thread.start()
    return thread


def _feed(channel: paramiko.Channel, given: Iterable[bytes], silent: threading.Event) -> None:
    """Writes until the command has ended. The main thread reports what happened to the command or
    the connection."""
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
