"""Opening the serial port that a board is plugged into.

A port has a stable name (`testbed.boards` finds it). Then the board proves its key
(`host_session`). So swapped cables cause a refusal and never mix up two boards.
"""

from __future__ import annotations

import os
import termios
import time
from contextlib import suppress
from dataclasses import dataclass

import serial

__all__ = ["BoardPort", "PortFault"]

reset_pulse_ms = 50


class PortFault(Exception):
    """The port cannot be opened; `reason` is one of those that `uart.Gap` lists."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BoardPort:
    """Where a board is plugged in: a stable name, as in /dev/serial/by-id. `reset_on_open` pulses
    DTR and RTS.
    """

    path: str
    baud: int = 115_200
    reset_on_open: bool = False

    def open(self) -> serial.Serial:
        """The port, non-blocking, locked for this process, without old data. Raises PortFault."""
        path = self.path
        try:
            line = serial.Serial(path, self.baud, timeout=0, exclusive=True)
        except serial.SerialException as error:
            raise PortFault(_open_reason(path, error), str(error)) from error
        except (OSError, ValueError, termios.error) as error:
            # pyserial does not catch termios.error: the port disappeared between two of its calls.
            raise PortFault("port", f"{path}: {error}") from error
        try:
            # pyserial leaves the descriptor blocking: a full line would stop the event loop.
            os.set_blocking(line.fileno(), False)
            _keep_lines_on_close(line.fileno())
            if self.reset_on_open:
                _pulse_reset(line)
        except OSError as error:
            line.close()
            raise PortFault("port", f"{path}: {error}") from error
        return line


def _open_reason(path: str, error: serial.SerialException) -> str:
    if "exclusively lock" in str(error):
        return "busy"
    return "port" if os.path.exists(path) else "absent"  # noqa: PTH110 (path is a device name)


def _keep_lines_on_close(descriptor: int) -> None:
    """Without HUPCL, closing the port does not change DTR, so the next open resets no board."""
    with suppress(termios.error):
        settings = termios.tcgetattr(descriptor)
        settings[2] &= ~termios.HUPCL
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)


def _pulse_reset(line: serial.Serial) -> None:
    # A PTY has no such lines (ENOTTY). The board behind it is reset through its process.
    with suppress(OSError):
        line.dtr = False
        line.rts = True
        time.sleep(reset_pulse_ms / 1000)
        line.rts = False
        line.dtr = True
