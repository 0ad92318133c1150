"""Runs on a board's host with our environment: gives orders to a board that is a process.

The control socket of such a board exists only there. Arguments: the socket, then one order each.
Prints the board's status after the last, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from nodes.board.control import command

__all__: list[str] = []

if __name__ == "__main__":
    status = {}
    for words in sys.argv[2:]:
        status = command(Path(sys.argv[1]), *words.split())
    print(json.dumps(status))  # noqa: T201 - the answer
