"""Unplugs and replugs a board's cable and disturbs its line. Only boards that are processes have
such a cable.

A board that is a process of a run has its control socket on its host. A board of an emulated lab is
outside its host, as a device is, and is reached through the lab. A real cable needs a person.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventory.model import Lab
from nodes.board.control import ControlError, command
from testbed.boards.flash import is_plugged
from testbed.emulate.lab import RUNTIME
from testbed.errors import LabFault

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment
    from testbed.provision.layout import Node

__all__ = ["has_cable", "order_cable"]


def has_cable(lab: Lab, board: str) -> bool:
    """Whether `order_cable` can do something to this board's cable."""
    return not is_plugged(lab.boards[board]) or lab.stage_name() == "emulated"


def order_cable(deployment: Deployment, board: Node, *orders: str) -> dict[str, Any]:
    """Gives the orders one by one, in the words of `nodes.board.control.command`: "unplug", "inject
    host 0a0b". Returns the board's status after the last one."""
    lab, name, host = deployment.lab, board.name, deployment.host(board)
    if not is_plugged(lab.boards[name]):
        control = str(host.root / name / "control.sock")
        argv = [deployment.python(board), "-m", "nodes.board.control", control, *orders]
        answer: dict[str, Any] = json.loads(host.run(argv).stdout)
        return answer
    if not has_cable(lab, name):
        raise LabFault(f"{name}: a real cable cannot be ordered; use a board that is a process")
    emulated = RUNTIME / lab.lab.removeprefix("emulated-")
    status: dict[str, Any] = {}
    try:
        for order in orders:
            status = command(Path(emulated, "boards", name, "control.sock"), *order.split())
    except ControlError as error:
        raise LabFault(f"{name}: {error}") from error
    return status
