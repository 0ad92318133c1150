"""A dialogue with a command on a remote machine, line by line."""

from __future__ import annotations

import time

import paramiko

from testbed.hosts.port import COMMAND_TIMEOUT_S, LINE_BYTES_MAX, Dialogue, OutcomeUnknown
from testbed.hosts.ssh_follow import close_channel

__all__ = ["SshDialogue"]

_PIECE_BYTES = 4096


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
                self._channel.settimeout(max(0.05, deadline_s - time.monotonic()))
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
