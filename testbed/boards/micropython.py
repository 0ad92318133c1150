"""Copies firmware to boards that run MicroPython and have its REPL on their USB port.

mpremote does it on the board's host (`on_host.py`), where the port is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from inventory.entries import Board
from testbed import programs
from testbed.boards.ports import SerialPort
from testbed.fleet import Step
from testbed.hosts.port import Dialogue, Host, HostFault

__all__ = ["BoardPlace", "Reset", "copy_to_board"]

CONFIG = "config.json"
"""On the board: what `nodes.board.flash` wrote, its name among it."""

INTERRUPT_S = 1.0
RESTART_S_MAX = 30.0
COPY_S_MAX = 120.0


Reset = Callable[[], None]
"""Restarts a board from here. Only an emulated lab can."""


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

    def fault(self, problem: str, fix: str = "") -> HostFault:
        """The error of a flashing that failed."""
        return HostFault(self.host.name, f"flash {self.name}", problem, fix)


def copy_to_board(
    place: BoardPlace, port: SerialPort, image: str, step: Step, begin: Callable[[], None]
) -> str:
    """Copy the files of `image` (a directory below the host's root) to the board, compare SHA-256
    on the board, restart it, and return its greeting. `begin` is called just before the first
    change to the board.

    Our firmware takes Ctrl-C as data once it runs. Such a board must be restarted, and interrupted
    just after that: we restart it where we can, otherwise we ask a person to. Raises LabFault. Then
    the board must be flashed again, unless it is one of `place.others`: such a board is not
    changed.
    """
    with place.host.dialogue(programs.python(place.python, "boards/on_host.py")) as line:
        _interrupt(line, place, port, step)
        _check_name(line, place, port)
        begin()
        step("copying firmware and key")
        copied = _ask(line, place, COPY_S_MAX, do="copy", image=image)
        if not copied["same"]:
            problem = f"files differ on the board after copying: {copied['differ']}"
            raise place.fault(problem, "flash it again")
        step("restarting")
        answer = _ask(line, place, RESTART_S_MAX, do="restart", **_where(place, port))
        return str(answer["greeting"])


def _interrupt(line: Dialogue, place: BoardPlace, port: SerialPort, step: Step) -> None:
    step("interrupting")
    order = _where(place, port)
    if _ask(line, place, INTERRUPT_S, do="open", **order)["repl"]:
        return
    if place.reset is not None:
        place.reset()
        wait_s = RESTART_S_MAX / 3
    else:
        step("waiting: press the board's reset, or replug it")
        wait_s = RESTART_S_MAX
    if not _ask(line, place, wait_s, do="wait", **order)["repl"]:
        problem = f"no MicroPython REPL at {port.path} within {wait_s:g} s"
        raise place.fault(problem, "install MicroPython on it; restart it while this command waits")


def _check_name(line: Dialogue, place: BoardPlace, port: SerialPort) -> None:
    """Raises if another board of this lab answers. Call it before anything is overwritten."""
    name = str(_ask(line, place, INTERRUPT_S * 5, do="who", config=CONFIG)["name"])
    if name in place.others:
        problem = f"the board at {port.path} is {name}; it was left as it is"
        fix = "exchange the cables or the match: of the two; --rename gives it this name"
        raise place.fault(problem, fix)


def _ask(line: Dialogue, place: BoardPlace, limit_s: float, **order: Any) -> Any:
    answer = json.loads(line.ask(json.dumps({**order, "limit_s": limit_s}), timeout_s=limit_s + 15))
    if "error" in answer:
        raise place.fault(str(answer["error"]))
    return answer


def _where(place: BoardPlace, port: SerialPort) -> dict[str, Any]:
    return {"path": port.path, "baud": place.board.line.baud}
