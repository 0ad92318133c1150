"""Orders to a process that keeps a lab: one line there, one line back, over its own Unix socket.

Asking writes no file, so it works while the disk is full. `testbed.standing.control` and
`testbed.emulate.control` define orders and answers.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["ask_socket", "obeying"]

LINE_BYTES_MAX = 4 * 1024 * 1024
ANSWER_S_MAX = 60.0
WAITING_MAX = 128
"""Connections that may wait while the process is busy. It must be many, because a campaign shapes
many links at once."""
_PATH_BYTES_MAX = 100  # of a socket's name, on every system


def ask_socket(path: Path, order: bytes) -> bytes:
    """The answer; empty if the process ended meanwhile. Raises OSError."""
    with _short(path) as name, socket.socket(socket.AF_UNIX) as line:
        line.settimeout(ANSWER_S_MAX)
        line.connect(name)
        with line.makefile("rwb") as stream:
            stream.write(order + b"\n")
            stream.flush()
            return stream.readline(LINE_BYTES_MAX)


@contextmanager
def obeying(path: Path, obey: Callable[[bytes], bytes]) -> Iterator[None]:
    """Answers orders for the length of a `with` block, each in a thread of its own."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = obey(self.rfile.readline(LINE_BYTES_MAX))
            with suppress(OSError):  # nobody waits for it any more
                self.wfile.write(answer + b"\n")

    class Server(socketserver.ThreadingUnixStreamServer):
        request_queue_size = WAITING_MAX
        daemon_threads = True

    with _short(path) as name:
        server = Server(name, Handler)
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name of the socket that is short enough, even if its directory has a long name."""
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
