"""The client of a board process's control socket, which unplugs, resets and disturbs its cable.

`python -m nodes.board.control SOCKET COMMAND...` prints the status after the last command, as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

__all__ = ["ControlError", "command"]

timeout_s = 5.0
answer_bytes_max = 65_536


class ControlError(Exception):
    """The board process is gone, or refuses the command."""


def command(control: Path, *words: str) -> dict[str, Any]:
    """Send one command (`status`, `plug`, `unplug [MS]`, `reset`, `silence on|off`,
    `noise SHARE MS SEED`, `noise off`, `middle HOW SEED COPIES DELAY_MS MS`, `middle off`,
    `inject host|board HEX`) and return the board process's status after it.
    """
    try:
        with socket.socket(socket.AF_UNIX) as line, line.makefile("rwb") as stream:
            line.settimeout(timeout_s)
            line.connect(str(control))
            stream.write(" ".join(words).encode() + b"\n")
            stream.flush()
            answer = stream.readline(answer_bytes_max)
    except OSError as error:
        raise ControlError(f"{control}: {error}") from error
    if not answer:
        raise ControlError(f"{control}: closed without an answer")
    status: dict[str, Any] = json.loads(answer)
    if not status.pop("ok"):
        raise ControlError(f"{control}: {status['error']}")
    return status


if __name__ == "__main__":
    after: dict[str, Any] = {}
    for words in sys.argv[2:]:
        after = command(Path(sys.argv[1]), *words.split())
    print(json.dumps(after))  # noqa: T201 - the answer
