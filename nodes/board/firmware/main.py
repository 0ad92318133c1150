"""The firmware of a sensor board: an endless loop that samples, keeps readings, proves its key and
answers.

MicroPython runs this file at power-on, on a real board and in the interpreter behind a PTY. The
protocol on the line is `gateway/serial/session.py` and its neighbours, copied here unchanged.

`config.json` (written by flashing): board_id, key_version, firmware (hash), period_ms, sensor,
line, journal, repl_window_ms. `key.bin`: 32 bytes. `boot.txt`: how often this board has started.
"""

import io
import json
import os
import sys
import time

from files import finish_rename
from gateway.serial.board_session import BoardSession
from gateway.serial.session import greeting_prefix
from journal import Journal, NoJournal
from line import open_line
from sensor import open_sensor

idle_ms_max = 100


class BoardClock:
    """Milliseconds since boot. `ticks_ms` alone wraps after 12 days on real boards."""

    def __init__(self):
        self._last = time.ticks_ms()
        self._sum = 0

    def now_ms(self):
        ticks = time.ticks_ms()
        self._sum += time.ticks_diff(ticks, self._last)
        self._last = ticks
        return self._sum


def next_boot():
    """Counts this start. The number is on flash before anyone sees it, so that a power loss never
    repeats it."""
    finish_rename("boot.new", "boot.txt")
    try:
        with open("boot.txt") as file:
            boot = int(file.read()) + 1
    except OSError:
        boot = 1
    with open("boot.new", "w") as file:
        file.write(str(boot))
    os.rename("boot.new", "boot.txt")
    if hasattr(os, "sync"):
        os.sync()
    return boot


def start(config):
    """Returns (session, line, journal, sensor, clock) of this boot. The greeting is sent."""
    with open("key.bin", "rb") as file:
        key = file.read()
    boot = next_boot()
    clock = BoardClock()
    line = open_line(config["line"])
    # For a moment a typed Ctrl-C reaches the REPL: mpremote needs it.
    line.take_control_characters()
    line.wait_for_interrupt(config["repl_window_ms"])
    journal = Journal("held.bin") if config["journal"] else NoJournal()
    session = BoardSession(
        board_id=config["board_id"],
        key=key,
        key_version=config["key_version"],
        boot=boot,
        random=os.urandom,
        held=journal.load(),
    )
    greeting = "%s%s boot=%d key=%d firmware=%s" % (
        greeting_prefix,
        config["board_id"],
        boot,
        config["key_version"],
        config["firmware"][:16],
    )
    line.write(b"\x00" + greeting.encode() + b"\r\n\x00")
    return session, line, journal, open_sensor(config["sensor"]), clock


def run(config):
    session, line, journal, sensor, clock = start(config)
    period_ms = config["period_ms"]
    due_ms = 0
    while True:
        now_ms = clock.now_ms()
        data = line.read(max(0, min(due_ms - now_ms, idle_ms_max)))
        now_ms = clock.now_ms()
        if data:
            session.receive(data, now_ms)
        if now_ms >= due_ms:
            # A late sample does not shorten the interval to the next one.
            due_ms = max(due_ms + period_ms, now_ms)
            journal.append(session.sample(sensor.read(), now_ms))
        session.tick(now_ms)
        out = session.data_to_send()
        if out:
            line.write(out)
        journal.drop_acknowledged(session)


def main():
    with open("config.json") as file:
        config = json.load(file)
    try:
        run(config)
    except EOFError:
        end(0)  # the other end of the line is gone; only an interpreter behind a PTY sees this
    except Exception as error:
        report(error)
        restart()


def report(error):
    """Sends the traceback line by line, each ended like a frame, so that the host logs it."""
    text = io.StringIO()
    sys.print_exception(error, text)
    for line in text.getvalue().splitlines():
        sys.stdout.buffer.write(b"\x00" + line.encode() + b"\r\n\x00")


def restart():
    """A board that failed restarts itself. An interpreter ends, and its process starts it again."""
    try:
        from machine import reset
    except ImportError:
        end(1)
    time.sleep(1)
    reset()


def end(code):
    """Ends an interpreter, which would otherwise go to its REPL (see `nodes/board/pty.py`)."""
    os.putenv("MICROPYINSPECT", "")
    sys.exit(code)


main()
