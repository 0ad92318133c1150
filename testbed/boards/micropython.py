"""Boards that run MicroPython and have its REPL on their USB port: mpremote's way of copying.

mpremote runs on the board's host (`on_host.py`), because that is where the port is.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from testbed import programs
from testbed.boards.driver import BoardDriver, BoardPlace
from testbed.boards.ports import SerialPort
from testbed.fleet import Tell
from testbed.hosts.port import Dialogue, HostFault

__all__ = ["MicroPythonBoard"]

CONFIG = "config.json"
"""On the board: what `nodes.board.flash` wrote, its name among it."""

INTERRUPT_S = 1.0
RESTART_S_MAX = 30.0
COPY_S_MAX = 120.0


class MicroPythonBoard(BoardDriver):
    """Interrupts the firmware, asks for the board's name, copies, compares SHA-256 on the board,
    restarts, reads the greeting.

    A firmware of ours takes Ctrl-C as data once it runs; then the board has to be restarted, and is
    interrupted in the moment after that: by us where we can, else by a person who is asked to.
    """

    def flash(
        self, place: BoardPlace, port: SerialPort, image: str, tell: Tell, begin: Callable[[], None]
    ) -> str:
        program = programs.python(place.python, "boards/on_host.py")
        with place.host.dialogue(program) as line:
            self._interrupt(line, place, port, tell)
            self._check_name(line, place, port)
            begin()
            tell("copying firmware and key")
            copied = self._ask(line, place, COPY_S_MAX, do="copy", image=image)
            if not copied["same"]:
                problem = f"files differ on the board after copying: {copied['differ']}"
                raise HostFault(place.host.name, f"flash {place.name}", problem, "flash it again")
            tell("restarting")
            answer = self._ask(line, place, RESTART_S_MAX, do="restart", **_where(place, port))
            return str(answer["greeting"])

    def _interrupt(self, line: Dialogue, place: BoardPlace, port: SerialPort, tell: Tell) -> None:
        tell("interrupting")
        order = _where(place, port)
        if self._ask(line, place, INTERRUPT_S, do="open", **order)["repl"]:
            return
        if place.reset is not None:
            place.reset()
            wait_s = RESTART_S_MAX / 3
        else:
            tell("waiting: press the board's reset, or replug it")
            wait_s = RESTART_S_MAX
        if not self._ask(line, place, wait_s, do="wait", **order)["repl"]:
            problem = f"no MicroPython REPL at {port.path} within {wait_s:g} s"
            fix = "install MicroPython on it; restart it while this command waits"
            raise HostFault(place.host.name, f"flash {place.name}", problem, fix)

    def _check_name(self, line: Dialogue, place: BoardPlace, port: SerialPort) -> None:
        """Before anything is overwritten: a board that is another of this lab is left alone."""
        name = str(self._ask(line, place, INTERRUPT_S * 5, do="who", config=CONFIG)["name"])
        if name in place.others:
            problem = f"the board at {port.path} is {name}; it was left as it is"
            fix = "exchange the cables or the match: of the two; --rename gives it this name"
            raise HostFault(place.host.name, f"flash {place.name}", problem, fix)

    def _ask(self, line: Dialogue, place: BoardPlace, limit_s: float, **order: Any) -> Any:
        answer = json.loads(
            line.ask(json.dumps({**order, "limit_s": limit_s}), timeout_s=limit_s + 15)
        )
        if "error" in answer:
            raise HostFault(place.host.name, f"flash {place.name}", str(answer["error"]))
        return answer


def _where(place: BoardPlace, port: SerialPort) -> dict[str, Any]:
    return {"path": port.path, "baud": place.board.line.baud}
