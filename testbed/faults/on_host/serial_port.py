"""Runs on a board's host, beside the process that has the port open: baud PORT RATE | reset PORT.

Settings and lines of a port belong to the device, not to the process that opened it. `baud` prints
whether the port took the rate; `reset` pulses DTR and RTS as a programmer does.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
import time

__all__: list[str] = []

PULSE_S = 0.05


def lines(port: int, request: int) -> None:
    fcntl.ioctl(port, request, struct.pack("i", termios.TIOCM_DTR | termios.TIOCM_RTS))


if __name__ == "__main__":
    descriptor = os.open(sys.argv[2], os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
    if sys.argv[1] == "baud":
        rate = getattr(termios, f"B{sys.argv[3]}")
        settings = termios.tcgetattr(descriptor)
        settings[4] = settings[5] = rate
        termios.tcsetattr(descriptor, termios.TCSANOW, settings)
        print(int(termios.tcgetattr(descriptor)[5] == rate))  # noqa: T201 - the answer
    else:
        lines(descriptor, termios.TIOCMBIC)
        time.sleep(PULSE_S)
        lines(descriptor, termios.TIOCMBIS)
        print(1)  # noqa: T201
