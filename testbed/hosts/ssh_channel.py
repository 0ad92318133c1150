"""The users of one channel: a command that begins, a file that is followed, a dialogue."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import paramiko

from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    LINE_BYTES_MAX,
    Dialogue,
    Follow,
    HostFault,
    OutcomeUnknown,
    Unreachable,
)

__all__ = ["SshDialogue", "SshFollow", "close_channel", "execute", "left_s"]

_PIECE_BYTES = 32 * 1024


class SshFollow(Follow):
    """The channel's command must print the file and end when its input does."""

    def __init__(self, host: str, path: str, channel: paramiko.Channel, begun: bytes) -> None:
        self._host = host
        self._path = path
        self._channel = channel
        self._closed = False
        self._rest = bytearray(begun)

    def __next__(self) -> str:
        while (end := self._rest.find(b"\n")) < 0:
            piece = self._channel.recv(_PIECE_BYTES)
            if not piece:
                if self._closed:
                    raise StopIteration
                raise Unreachable(self._host, f"follow {self._path}", "connection lost")
            if len(self._rest) > LINE_BYTES_MAX:
                problem = f"a line longer than {LINE_BYTES_MAX} bytes"
                raise HostFault(self._host, f"follow {self._path}", problem)
            self._rest += piece
        line = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return line.decode(errors="replace").rstrip("\r")

    def close(self) -> None:
        self._closed = True
        close_channel(self._channel)


class SshDialogue(Dialogue):
    """Uses one channel. Both ends send short lines, so neither waits for the other's buffer."""

    def __init__(
        self, host: str, action: str, channel: paramiko.Channel, begun: bytes, slowness: float
    ) -> None:
        self._host = host
        self._action = action
        self._channel = channel
        self._rest = bytearray(begun)
        self._slowness = slowness

    def ask(self, line: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        timeout_s *= self._slowness
        deadline_s = time.monotonic() + timeout_s
        try:
            self._channel.settimeout(timeout_s)
            self._channel.sendall(line.encode() + b"\n")
            while (end := self._rest.find(b"\n")) < 0:
                if len(self._rest) > LINE_BYTES_MAX:
                    problem = f"a line longer than {LINE_BYTES_MAX} bytes"
                    raise OutcomeUnknown(self._host, self._action, problem)
                self._channel.settimeout(left_s(deadline_s))
                piece = self._channel.recv(_PIECE_BYTES)
                if not piece:
                    raise OutcomeUnknown(self._host, self._action, "it ended without an answer")
                self._rest += piece
        except TimeoutError as error:
            raise OutcomeUnknown(self._host, self._action, "no answer in time") from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise OutcomeUnknown(self._host, self._action, f"connection lost: {error}") from error
        answer = bytes(self._rest[:end])
        del self._rest[: end + 1]
        return answer.decode(errors="replace").rstrip("\r")

    def close(self) -> None:
        close_channel(self._channel)


def close_channel(channel: paramiko.Channel) -> None:
    """Close a channel, in any state of its connection."""
    with suppress(OSError, EOFError, paramiko.SSHException):  # the connection may be gone already
        channel.close()


def execute(channel: paramiko.Channel, command: str, deadline_s: float) -> None:
    """Make the channel run a command. Raises TimeoutError at the deadline, and otherwise what
    Paramiko raises.

    Paramiko ignores the channel's time-out while it waits for the machine's answer. A machine whose
    disk hangs opens channels and never answers.
    """
    watchdog = threading.Timer(left_s(deadline_s), close_channel, (channel,))
    watchdog.daemon = True
    watchdog.start()
    try:
        channel.exec_command(command)
    except (paramiko.SSHException, EOFError) as error:
        if time.monotonic() >= deadline_s:
            raise TimeoutError from error
        raise
    finally:
        watchdog.cancel()


def left_s(deadline_s: float) -> float:
    """Seconds until a deadline on the monotonic clock; after it, still a moment."""
    return max(0.05, deadline_s - time.monotonic())
