"""Runs on a board's host, where mpremote is: one JSON order per line, one JSON answer.

`micropython.py` sends this file's text. It may import what hosts have: the standard library,
pyserial, mpremote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from mpremote.transport_serial import SerialTransport  # type: ignore[import-untyped]

__all__ = ["main"]

_PROMPTS = (b">>> ", b"raw REPL; CTRL-B to exit")
_GREETING = b"m2m-board/1 "


# An interpreter behind a PTY has no machine.reset: it ends, and is started again.
_RESET = """
try:
    from machine import reset
except ImportError:
    from sys import exit as reset
reset()
"""


class OpenBoard:
    """The board's port, opened and locked for this process."""

    def __init__(self) -> None:
        self._at: Any = None

    def open(self, path: str, baud: int, limit_s: float) -> dict[str, Any]:
        """Opens the port. Whether Ctrl-C brings the prompt in time."""
        if self._at is None:
            self._at = SerialTransport(path, baudrate=baud, timeout=0.05)
        return {"repl": self._interrupt(limit_s)}

    def wait(self, path: str, baud: int, limit_s: float) -> dict[str, Any]:
        """As `open`, but repeated while the board restarts: its port may disappear and come
        back."""
        until = time.monotonic() + limit_s
        while time.monotonic() < until:
            try:
                if self.open(path, baud, 0.5)["repl"]:
                    return {"repl": True}
            except Exception:
                self.let_go()
                time.sleep(0.1)
        return {"repl": False}

    def who(self, config: str, limit_s: float) -> dict[str, Any]:
        """The name that an earlier flashing gave the board; "" if we have never flashed it."""
        at = self._at
        at.serial.timeout = limit_s
        at.enter_raw_repl(soft_reset=False)
        if not at.fs_exists(config):
            return {"name": ""}
        try:
            return {"name": str(json.loads(at.fs_readfile(config))["board_id"])}
        except (ValueError, KeyError, TypeError):
            return {"name": ""}  # written only in part, or by another program

    def copy(self, image: str, limit_s: float) -> dict[str, Any]:
        """Writes every file and reads its hash back from the board."""
        del limit_s
        at = self._at
        at.serial.timeout = 5
        at.enter_raw_repl(soft_reset=False)
        differ = []
        top = Path(image)
        # main.py comes last: if the board loses power before that, it stays at its prompt.
        files = sorted(top.rglob("*"), key=lambda path: (path.name == "main.py", str(path)))
        for path in files:
            name = str(path.relative_to(top))
            if path.is_dir():
                if not at.fs_isdir(name):
                    at.fs_mkdir(name)
                continue
            content = path.read_bytes()
            sha = hashlib.sha256(content).digest()
            if not at.fs_exists(name) or at.fs_hashfile(name, "sha256") != sha:
                at.fs_writefile(name, content)
                if at.fs_hashfile(name, "sha256") != sha:
                    differ.append(name)
        return {"same": not differ, "differ": differ}

    def restart(self, path: str, baud: int, limit_s: float) -> dict[str, Any]:
        """Restarts the board by its own means; returns the greeting that it sends then."""
        self._at.exec_raw_no_follow(_RESET)
        self._at.serial.timeout = 0.1
        until = time.monotonic() + limit_s
        heard = bytearray()
        while time.monotonic() < until:
            try:
                if self._at is None:
                    self._at = SerialTransport(path, baudrate=baud, timeout=0.1)
                heard += self._at.serial.read(256)
            except Exception:  # its port may disappear for a moment
                self.let_go()
                time.sleep(0.1)
            start = heard.find(_GREETING)
            end = heard.find(b"\r\n", start)
            if start >= 0 and end >= 0:
                return {"greeting": heard[start:end].decode(errors="replace")}
        return {"error": f"no greeting within {limit_s:g} s; heard {bytes(heard[-200:])!r}"}

    def let_go(self) -> None:
        """Closes the port, in any state of the board."""
        at, self._at = self._at, None
        if at is not None:
            with contextlib.suppress(Exception):
                at.close()

    def _interrupt(self, limit_s: float) -> bool:
        until = time.monotonic() + limit_s
        heard = bytearray()
        while time.monotonic() < until:
            self._at.serial.write(b"\r\x03")
            heard += self._at.serial.read(512)
            if any(prompt in heard for prompt in _PROMPTS):
                return True
        return False


def main() -> None:
    """Answers orders until standard input ends."""
    board = OpenBoard()
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = getattr(board, order.pop("do"))(**order)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
