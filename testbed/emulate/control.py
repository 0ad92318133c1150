"""Asking a running lab's keeper: one JSON line there, one back, over a socket of root's own.

Faults use it where the emulated lab has no kernel feature for them: `shape` and `power`.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from testbed.errors import LabFault

__all__ = ["ANSWER_BYTES_MAX", "KEEPER_TIMEOUT_S", "ask"]

ANSWER_BYTES_MAX = 4 * 1024 * 1024
KEEPER_TIMEOUT_S = 60.0


def ask(control: Path, **order: Any) -> dict[str, Any]:
    """The keeper's answer to one order; `do` names it, see `keeper.ORDERS`.

    Raises LabFault if the keeper is gone or refuses.
    """
    what = f"emulated lab: {order.get('do')} {order.get('host', '')}".rstrip()
    try:
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rwb") as stream:
            line.settimeout(KEEPER_TIMEOUT_S)
            line.connect(str(control))
            stream.write(json.dumps(order).encode() + b"\n")
            stream.flush()
            answer = json.loads(stream.readline(ANSWER_BYTES_MAX) or b"{}")
    except OSError as error:
        raise LabFault(f"{what}: {error}; is the lab up? testbed emulate up") from error
    if "error" in answer or not answer:
        raise LabFault(f"{what}: {answer.get('error', 'the keeper ended')}")
    return dict(answer)
