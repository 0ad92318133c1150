"""Orders to the process that keeps a lab running, and its answers, in JSON.

It is the parent of the lab's processes, so only it knows how often each was started again, and only
it can start one that was given up. `testbed.control_socket` carries the lines.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from testbed.control_socket import ask_socket, obeying
from testbed.errors import ConfigurationError, LabFault, TestbedError
from testbed.hosts.port import UnitState
from testbed.provision.deployment import Deployment

__all__ = ["Look", "ProcessState", "Restart", "ask", "controlled"]

SOCKET = "control"


class Look(msgspec.Struct, frozen=True, tag="look"):
    """Order: what is the state of each process?"""


class Restart(msgspec.Struct, frozen=True, tag="restart"):
    """Order: start this process again, whether it runs or was given up. `check`: only say whether
    it exists."""

    name: str
    check: bool = False


class ProcessState(msgspec.Struct, frozen=True):
    """One process as its supervisor sees it. `restarts` counts restarts after unexpected deaths."""

    state: UnitState
    pid: int | None
    restarts: int
    exit_code: int | None


class _Answer(msgspec.Struct, frozen=True):
    """`problem` says why an order was not carried out. `usage` is true if it named a process that
    does not exist."""

    processes: dict[str, ProcessState] = {}
    problem: str | None = None
    usage: bool = False


_orders = msgspec.json.Decoder(Look | Restart)
_answers = msgspec.json.Decoder(_Answer)


def ask(home: Path, order: Look | Restart) -> dict[str, ProcessState]:
    """Gives the order. Returns every process by name, as it is after the order.

    Raises ConfigurationError if the order names no process, LabFault.
    """
    try:
        answer = _answers.decode(ask_socket(home / SOCKET, msgspec.json.encode(order)))
    except (OSError, msgspec.DecodeError) as error:
        raise LabFault(f"`testbed up` does not answer: {error}; is it stopped?") from error
    if answer.problem is not None:
        raise (ConfigurationError if answer.usage else LabFault)(answer.problem)
    return answer.processes


def controlled(home: Path, deployment: Deployment) -> AbstractContextManager[None]:
    """Obeys orders for the length of a `with` block."""
    return obeying(home / SOCKET, lambda line: msgspec.json.encode(_obey(deployment, line)))


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


def _look(deployment: Deployment) -> dict[str, ProcessState]:
    found = {}
    for node in deployment.processes:
        status = deployment.host(node).status(node.unit)
        found[node.name] = ProcessState(status.state, status.pid, status.restarts, status.exit_code)
    return found
