"""Flashes the boards of a lab: the right board, completely, and verified.

For each board: find it by identity, make firmware and key on its host, copy them
(`micropython.py`), find the board again, and compare its greeting with the flashed firmware. The
board's directory on the host keeps the host's copy of the key, and the values that the chain
records.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import msgspec

from inventory.entries import Board
from nodes.board.flash import Flashed
from testbed.boards.micropython import BoardPlace, copy_to_board
from testbed.boards.ports import find_board
from testbed.fleet import Step
from testbed.programs import shell

__all__ = ["FLASHED", "HOST_KEY", "FlashedBoard", "flash", "is_plugged"]

FLASHED = "flashed.json"
HOST_KEY = "host.key"
"""In a board's directory on its host: what the chain records, and the host's copy of the key."""

REPL_WINDOW_MS = 1_000
HASH_DIGITS = 16  # of the firmware's hash, in a greeting

_GREETING = re.compile(r"m2m-board/1 (\S+) boot=(\d+) key=(\d+) firmware=([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class FlashedBoard:
    """The result for one board. `flashed`: None if the board was only looked for."""

    port: str
    greeting: str
    flashed: Flashed | None


def is_plugged(board: Board) -> bool:
    """Whether it is a real device on a port. For any other board a run starts an interpreter as a
    process."""
    return board.match is not None


def flash(place: BoardPlace, step: Step) -> FlashedBoard:
    """Flash one plugged board with a new key. Raises LabFault. After that its old key is still
    valid; but if the board was changed already, it counts as not flashed."""
    host, name, board = place.host, place.name, place.board
    step("finding")
    port = find_board(host, name, board)
    step("making firmware and key")
    image = f"{name}/image"
    host.run(["sh", "-c", 'mkdir -p "$1" && rm -rf "$1/image" "$1/host.key.new"', "flash", name])
    argv = [place.python, "-m", "nodes.board.flash", "--dir", image, "--id", name]
    argv += ["--key", f"{name}/host.key.new", "--repl-window-ms", str(REPL_WINDOW_MS)]
    said = host.run(argv).stdout
    flashed = msgspec.json.decode(said, type=Flashed)

    def begin() -> None:
        # From the first change until the board has proved its key, it counts as not flashed.
        host.run(["rm", "-f", f"{name}/{FLASHED}"])

    try:
        greeting = copy_to_board(place, port, image, step, begin)
    finally:
        host.run(["rm", "-rf", image])
    step("verifying")
    _verify(place, flashed, greeting)
    again = find_board(host, name, board)
    if again.path != port.path:
        problem = f"it was at {port.path} and is at {again.path} now"
        raise place.fault(problem, "leave cables alone, flash it again")
    host.run(shell("boards/keep.sh", name, json.dumps(flashed)))
    return FlashedBoard(port.path, greeting, flashed)


def _verify(place: BoardPlace, flashed: Flashed, greeting: str) -> None:
    found = _GREETING.fullmatch(greeting)
    if not found:
        raise place.fault(f"strange greeting {greeting!r}")
    if found[1] != place.name:
        problem = f"the board at its port calls itself {found[1]}"
        raise place.fault(problem, "are two boards swapped?")
    if found[4] != flashed["firmware_sha256"][:HASH_DIGITS]:
        raise place.fault(f"it runs firmware {found[4]}, not what was copied", "flash it again")
