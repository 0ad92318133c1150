"""What flashing a kind of board means: one small class per way of doing it.

A driver prepares nothing on the orchestrator: firmware and key are put together on the board's own
host (`nodes.board.flash`), so a key never leaves it. Another kind of board is one more module here
and one more line in `DRIVERS` of `flash`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from inventory.model import Board
from testbed.boards.ports import SerialPort
from testbed.fleet import Tell
from testbed.hosts.port import Host

__all__ = ["BoardDriver", "BoardPlace", "Reset"]

Reset = Callable[[], None]
"""Restarts a board from here, where something can: a switched USB port, an emulated lab."""


@dataclass(frozen=True, slots=True)
class BoardPlace:
    """A board on its host; `python` is the interpreter there that has our code.

    `others`: names of boards that must not be overwritten when one of them answers here.
    """

    name: str
    board: Board
    host: Host
    python: str
    reset: Reset | None
    others: frozenset[str] = frozenset()


class BoardDriver(Protocol):
    """One way of flashing."""

    def flash(
        self, place: BoardPlace, port: SerialPort, image: str, tell: Tell, begin: Callable[[], None]
    ) -> str:
        """Copy the file tree `image` (a directory below the host's root) to the board, verify
        every file's hash on the board, restart it, and answer what it says of itself then.
        `begin` is called just before the first change to the board.

        Raises LabFault; the board then has to be flashed again, or is as it was if it is one of
        `place.others`.
        """
