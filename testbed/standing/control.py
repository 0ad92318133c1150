"""Asking the process that keeps a lab running: one JSON line there, one back, over its own socket.

It is the parent of the lab's processes, so only it knows how often each was started again, and only
it can start one that was given up. Asking writes no file: it works while the disk is full.
"""

from __future__ import annotations

import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from testbed.errors import ConfigurationError, LabFault, TestbedError
from testbed.hosts.port import UnitState
from testbed.provision.deployment import Deployment

__all__ = ["Look", "Process", "Restart", "ask", "controlled"]

SOCKET = "control"
LINE_BYTES_MAX = 1024 * 1024
ANSWER_S_MAX = 60.0
_PATH_BYTES_MAX = 100  # of a socket's name, on every system


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Order: how does each process do?"""


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """Order: start this process again, whether it runs or was given up. `check`: only say whether
    there is one of this name."""

    name: str
    check: bool = False


class Process(msgspec.Struct, frozen=True):
    """One process as its supervisor sees it; `restarts` are deaths that nobody asked for."""

    state: UnitState
    pid: int | None
    restarts: int
    exit_code: int | None


class _Answer(msgspec.Struct, frozen=True):
    """`problem` says why an order was not carried out; `usage` that it named what is not there."""

    processes: dict[str, Process] = {}
    problem: str | None = None
    usage: bool = False


_orders = msgspec.json.Decoder(Look | Restart)
_answers = msgspec.json.Decoder(_Answer)


def ask(home: Path, order: Look | Restart) -> dict[str, Process]:
    """Every process by name, after the order was carried out.

    Raises ConfigurationError if the order names no process, LabFault.
    """
    try:
        with _named(home) as name, socket.socket(socket.AF_UNIX) as line:
            line.settimeout(ANSWER_S_MAX)
            line.connect(name)
            with line.makefile("rwb") as stream:
                stream.write(msgspec.json.encode(order) + b"\n")
                stream.flush()
                answer = _answers.decode(stream.readline(LINE_BYTES_MAX))
    except (OSError, msgspec.DecodeError) as error:
        raise LabFault(f"`testbed up` does not answer: {error}; is it stopped?") from error
    if answer.problem is not None:
        raise (ConfigurationError if answer.usage else LabFault)(answer.problem)
    return answer.processes


@contextmanager
def controlled(home: Path, deployment: Deployment) -> Iterator[None]:
    """Obeys orders for the length of a `with` block."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = _obey(deployment, self.rfile.readline(LINE_BYTES_MAX))
            with suppress(OSError):  # nobody waits for it any more
                self.wfile.write(msgspec.json.encode(answer) + b"\n")

    with _named(home) as name:
        server = socketserver.ThreadingUnixStreamServer(name, Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="control", daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _obey(deployment: Deployment, line: bytes) -> _Answer:
    try:
        order = _orders.decode(line)
        if isinstance(order, Restart):
            if order.name not in {node.name for node in deployment.processes}:
                known = ", ".join(node.name for node in deployment.processes)
                return _Answer(problem=f"no process is called {order.name}: {known}", usage=True)
            if not order.check:
                deployment.restart(deployment.node(order.name))
        return _Answer(_look(deployment))
    except (msgspec.DecodeError, TestbedError, OSError) as error:
        return _Answer(problem=str(error))


def _look(deployment: Deployment) -> dict[str, Process]:
    found = {}
    for node in deployment.processes:
        status = deployment.host(node).status(node.unit)
        found[node.name] = Process(status.state, status.pid, status.restarts, status.exit_code)
    return found


@contextmanager
def _named(home: Path) -> Iterator[str]:
    """A name of the socket that is short enough, wherever `home` is."""
    path = home / SOCKET
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET}"
    finally:
        os.close(directory)
