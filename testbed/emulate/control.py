"""Gives orders to the keeper of a running lab, over a socket that only root can use.

Faults use it for `shape` and `power`, which no kernel feature provides in the emulated lab.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testbed.control_socket import ask_socket
from testbed.errors import LabFault

__all__ = ["ask"]


def ask(control: Path, **order: Any) -> dict[str, Any]:
    """The keeper's answer to one order; `do` names it, see `keeper.Keeper`.

    Raises LabFault if the keeper is gone or refuses.
    """
    what = f"emulated lab: {order.get('do')} {order.get('host', '')}".rstrip()
    try:
        answer = json.loads(ask_socket(control, json.dumps(order).encode()) or b"{}")
    except OSError as error:
        raise LabFault(f"{what}: {error}; is the lab up? testbed emulate up") from error
    if "error" in answer or not answer:
        raise LabFault(f"{what}: {answer.get('error', 'the keeper ended')}")
    return dict(answer)
