"""The operator during a soak: runs commands like a person, one after the other.

A command may report that the lab does not answer, because the lab is disturbed. A traceback or an
internal error is always a defect.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import msgspec

from testbed.errors import LabFault

__all__ = ["Command", "SoakOperator"]

PAUSE_S = 3.0
COMMAND_S_MAX = 180.0
SAID_CHARS_MAX = 400
PRIVILEGES = 4
_HEADLESS = ("Traceback (most recent call last)", "internal error")
_EXIT_CODES = (0, 1, 3)  # done; the chain said no; the lab does not answer


class Command(msgspec.Struct, frozen=True):
    """`problem` is empty unless the command itself was at fault."""

    words: str
    exit_code: int
    took_s: float
    problem: str


class SoakOperator:
    """Runs commands in a thread of its own from `start` to `stop`."""

    def __init__(self, seed: int, inventory: Path, scratch: Path, devices: tuple[str, ...]) -> None:
        self._dice = Random(f"{seed}/operator")  # noqa: S311 - repeatable, not secret
        self._inventory = inventory
        self._scratch = scratch
        self._devices = devices
        self._admitted: list[str] = []
        self._count = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="operator", daemon=True)
        self._child: subprocess.Popen[str] | None = None
        self.commands: list[Command] = []

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the current command has ended. Raises LabFault if it does not end."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(COMMAND_S_MAX + PAUSE_S)
        if self._thread.is_alive():
            raise LabFault("a command of the operator does not end")

    def abandon(self) -> None:
        """Ends at once, because the soak was interrupted."""
        self._over.set()
        if self._child is not None:
            self._child.kill()

    def run(self, *words: str) -> Command:
        """Runs one command and remembers it."""
        argv = [sys.executable, "-m", "testbed.cli", *words, "-i", str(self._inventory), "--json"]
        began_s = time.monotonic()
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True)
        try:
            said = "".join(self._child.communicate(timeout=COMMAND_S_MAX))
            beheaded = any(word in said for word in _HEADLESS)
            wrong = beheaded or self._child.returncode not in _EXIT_CODES
            problem = said.strip()[-SAID_CHARS_MAX:] if wrong else ""
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
            problem = f"it did not end within {COMMAND_S_MAX:.0f} s"
        if self._over.is_set() and self._child.returncode < 0:
            problem = ""  # we ended it ourselves
        command = Command(
            " ".join(words), self._child.returncode, round(time.monotonic() - began_s, 2), problem
        )
        self.commands.append(command)
        return command

    def _work(self) -> None:
        while not self._over.wait(self._dice.uniform(0, PAUSE_S)):
            words = self._words()
            command = self.run(*words)
            # While the lab is disturbed, an admission may stay without an answer.
            if words[:2] == ("device", "admit") and command.exit_code == 0:
                self._admitted.append(words[2])

    def _words(self) -> tuple[str, ...]:
        device = self._dice.choice(self._devices)
        match self._dice.randrange(7):
            case 0:
                return ("status",)
            case 1:
                return ("device", "list")
            case 2:
                return ("device", "show", device)
            case 3:
                return ("device", "renew", device)
            case 4:
                privilege = str(self._dice.randrange(1, PRIVILEGES))
                return ("device", "grant", device, "--privilege", privilege)
            case 5 if self._admitted:
                name = self._admitted.pop(self._dice.randrange(len(self._admitted)))
                return ("device", "revoke", name)
            case _:
                self._count += 1
                name = f"guest-{self._count}"
                return ("device", "admit", name, "--dir", str(self._scratch / name))
