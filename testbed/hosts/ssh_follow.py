"""Lines of a remote file as they are written, from `tail` on a channel."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import paramiko

from testbed.hosts.port import LINE_BYTES_MAX, Follow, HostFault, Unreachable

__all__ = ["SshFollow", "close_channel", "execute"]

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


def close_channel(channel: paramiko.Channel) -> None:
    """Close a channel, whatever state its connection is in."""
    with suppress(OSError, EOFError, paramiko.SSHException):  # the connection may be gone already
        channel.close()


def execute(channel: paramiko.Channel, command: str, deadline_s: float) -> None:
    """Make the channel run a command. Raises TimeoutError at the deadline, and otherwise what
    Paramiko raises.

    Paramiko waits without limit for the machine's answer, whatever the channel's time-out. A
    machine whose disk hangs opens channels and never answers.
    """
    left_s = max(0.05, deadline_s - time.monotonic())
    watchdog = threading.Timer(left_s, close_channel, (channel,))
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
