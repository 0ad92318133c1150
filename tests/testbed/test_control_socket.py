"""Orders to a process that keeps a lab arrive, also when it is busy and many come at once."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from testbed.control_socket import WAITING_MAX, ask_socket, obeying


def test_orders_that_come_while_the_process_is_busy_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket with a time limit does not wait for room in the queue: it fails at once."""
    free, accept = threading.Event(), socketserver.UnixStreamServer.get_request

    def when_free(server: Any) -> Any:
        free.wait()
        return accept(server)

    monkeypatch.setattr(socketserver.UnixStreamServer, "get_request", when_free)
    path = tmp_path / "control"
    with obeying(path, lambda order: order.strip().upper()), ExitStack() as open_lines:
        lines = [
            open_lines.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(WAITING_MAX)
        ]
        for line in lines:
            line.settimeout(10)
            line.connect(str(path))
        free.set()
        assert ask_socket(path, b"shape") == b"SHAPE\n"
        for line in lines:
            line.sendall(b"links\n")
            assert line.recv(16) == b"LINKS\n"
