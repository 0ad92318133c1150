"""Connections to Mosquitto that do not log in: the oldest make room.

Mosquitto 2.0.11 waits 90 s for a CONNECT and refuses new connections while it is full. So one
stranger with enough silent connections would keep everybody out. Its log names each connection and
each login. This module shuts down a connection that takes too long to log in, and the oldest of too
many: Linux hands the sockets of a child to its parent (pidfd_getfd, since Linux 5.6).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import socket
import stat
from collections.abc import Callable, Collection
from itertools import islice
from pathlib import Path

from gateway.broker.port import DoorLimits

__all__ = ["Strangers", "shut_down"]

_CAME = re.compile(r"^New connection from (\S+) on port ")
_LOGGED_IN = re.compile(r"^New client connected from (\S+) as ")
_KNOWN_MAX = 8192  # those that left without a word are forgotten at their deadline
_PIDFD_GETFD = 438  # the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)


class Strangers:
    """Who is connected and has not logged in, by address and port. `now_s` is a monotonic clock."""

    def __init__(self, limits: DoorLimits, now_s: Callable[[], float]) -> None:
        self._limits = limits
        self._now_s = now_s
        self._since_s: dict[str, float] = {}  # the oldest first

    def take(self, line: str) -> None:
        """Takes one line that Mosquitto printed."""
        if came := _CAME.match(line):
            self._since_s.pop(came[1], None)
            self._since_s[came[1]] = self._now_s()
            if len(self._since_s) > _KNOWN_MAX:
                del self._since_s[next(iter(self._since_s))]
        elif known := _LOGGED_IN.match(line):
            self._since_s.pop(known[1], None)

    def due(self) -> frozenset[str]:
        """Those that must go now; they are forgotten."""
        late_s = self._now_s() - self._limits.connect_deadline_s
        too_many = len(self._since_s) - self._limits.handshakes_max
        late = sum(since_s <= late_s for since_s in self._since_s.values())
        gone = list(islice(self._since_s, max(0, too_many, late)))
        for peer in gone:
            del self._since_s[peer]
        return frozenset(gone)


def shut_down(pid: int, peers: Collection[str]) -> int:
    """Ends the connections of our child `pid` with these peers. Returns how many there were. Raises
    OSError if the kernel does not allow it, or the child is gone."""
    child = os.pidfd_open(pid)
    try:
        names = [each.name for each in Path(f"/proc/{pid}/fd").iterdir()]
        return sum(_shut_down(child, int(name), peers) for name in names)
    finally:
        os.close(child)


def _shut_down(child: int, descriptor: int, peers: Collection[str]) -> bool:
    ours = _libc.syscall(_PIDFD_GETFD, child, descriptor, 0)
    if ours < 0:
        number = ctypes.get_errno()
        if number == errno.EBADF:  # closed meanwhile
            return False
        raise OSError(number, os.strerror(number))
    if not stat.S_ISSOCK(os.fstat(ours).st_mode):
        os.close(ours)
        return False
    with socket.socket(fileno=ours) as found, contextlib.suppress(OSError, ValueError):
        host, port = found.getpeername()[:2]  # a listening socket has no peer
        if f"{host.partition('%')[0]}:{port}" in peers:
            found.shutdown(socket.SHUT_RDWR)
            return True
    return False
