"""Asking a running lab's keeper, over a socket of root's own.

Faults use it where the emulated lab has no kernel feature for them: `shape` and `power`.
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
