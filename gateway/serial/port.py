"""Finding and opening the serial port that a board is plugged into.

A port is found by a stable name or by a USB serial number. Then the board proves its key
(`host_session`). So swapped cables cause a refusal and never mix up two boards.
"""

from __future__ import annotations

import os
import termios
import time
from contextlib import suppress
from dataclasses import dataclass

import serial
from serial.tools import list_ports

from chain.errors import Misuse

__all__ = ["BoardPort", "PortFault"]

reset_pulse_ms = 50


class PortFault(Exception):
    """The port cannot be opened; `reason` is one of those that `uart.Gap` lists."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class BoardPort:
    """Where a board is plugged in: either `path` (a stable name, as in /dev/serial/by-id) or
    `usb_serial`. `reset_on_open` pulses DTR and RTS.
    """

    path: str | None = None
    usb_serial: str | None = None
    baud: int = 115_200
    reset_on_open: bool = False

    def __post_init__(self) -> None:
        if (self.path is None) == (self.usb_serial is None):
            raise Misuse("a board's port needs either a path or a USB serial number")

    def locate(self) -> str:
        """The device to open now. Raises PortFault unless there is exactly one."""
        if self.path is not None:
            return self.path
        found = [str(port.device) for port in list_ports.comports() if self._is_ours(port)]
        if len(found) != 1:
            reason = "ambiguous" if found else "absent"
            raise PortFault(reason, f"USB serial {self.usb_serial}: {found or 'no such port'}")
        return found[0]

    def _is_ours(self, port: object) -> bool:
        return getattr(port, "serial_number", None) == self.usb_serial

    def open(self) -> serial.Serial:
        """The port, non-blocking, locked for this process, without old data. Raises PortFault."""
        path = self.locate()
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
