"""One emulated host inside the keeper: its boots, its power, its boards. Its files: `disk.py`.

A host is a tree of processes in namespaces of its own over a private copy-on-write view of this
machine's root directory. Its disk (a tmpfs of limited size) survives reboots and power cuts;
everything else is new at each boot, as on a real machine.
"""

from __future__ import annotations

import grp
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from testbed.emulate import network
from testbed.emulate.cgroup import Groups
from testbed.emulate.disk import clock_is_behind, make_disk, mount
from testbed.emulate.plan import EmulatedBoard, EmulatedMachine, LabPlan
from testbed.emulate.switch import Switch
from testbed.emulate.tools import TOOL_PATH, attempt, tool
from testbed.errors import LabFault
from testbed.programs import shell

__all__ = ["RunningMachine"]

_BOARD_READY_S = 20.0
_STOPPED_WITHIN_S = 15.0
_LAST_CALL_S = 0.5
_POLL_S = 0.02


class RunningMachine:
    """A host of the lab; its methods may be called from any thread."""

    def __init__(
        self,
        plan: LabPlan,
        machine: EmulatedMachine,
        *,
        runtime: Path,
        consoles: Path,
        groups: Groups,
        switch: Switch | None,
    ) -> None:
        self.machine = machine
        self._plan = plan
        self._runtime = runtime
        self._home = runtime / "m" / machine.name
        self._console = consoles / f"{machine.name}.log"
        self._groups = groups
        self._switch = switch
        self._boards = [board for board in plan.boards if board.host == machine.name]
        self._lock = threading.RLock()
        self._wanted = False
        self._boots = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._board_processes: list[subprocess.Popen[bytes]] = []
        self._watcher: threading.Thread | None = None

    def prepare(self, client_key: str) -> str:
        """Make the host's disk and terminals. Returns its public host key line."""
        for part in ("root", "disk", "pts", "serial", "firmware"):
            (self._home / part).mkdir(parents=True)
        serial_group = grp.getgrnam("dialout").gr_gid
        options = f"newinstance,ptmxmode=0666,mode=660,gid={serial_group}"
        mount("devpts", self._home / "pts", options)
        serial = f"Hardware\t: testbed-emulated\nSerial\t\t: {self.machine.hw_serial}\n"
        (self._home / "cpuinfo").write_text("\n" + serial)
        return make_disk(self._home / "disk", self._plan, self.machine, client_key)

    def on(self) -> None:
        """Power on. Does nothing if it is on."""
        with self._lock:
            if not self._wanted:
                self._wanted = True
                self._boot()

    def off(self) -> None:
        """Cut the power: every process of the host ends at once."""
        with self._lock:
            self._wanted = False
            self._kill()

    def reboot(self) -> None:
        """An orderly reboot: processes are asked to end, then the host starts again."""
        with self._lock:
            if not self._wanted:
                raise LabFault(f"{self.machine.name} is off; power it on")
            init, boots = self._init_pid(), self._boots
            if init and self._plan.options.systemd:
                os.kill(init, signal.SIGRTMIN + 5)  # systemd(1): the target reboot
            elif init:
                inside = ("-t", str(init), "-p", "-m", "--")
                attempt("nsenter", *inside, "sh", "-c", "sync; kill -TERM -1")
                time.sleep(_LAST_CALL_S)
        until = time.monotonic() + (_STOPPED_WITHIN_S if self._plan.options.systemd else 0)
        while self._boots == boots and time.monotonic() < until:
            time.sleep(_POLL_S)
        with self._lock:
            if self._boots == boots:
                self._kill()
                self._boot()

    def throttle(self, bits: int | None) -> None:
        """Set the throttling bits that the host's firmware reports from now on; None: it reports
        nothing."""
        flag = self._home / "firmware" / "throttled"
        new = flag.with_name("new")
        new.write_text("" if bits is None else f"{bits:#x}\n")
        new.replace(flag)

    def status(self) -> dict[str, object]:
        """Whether it is on, how often it was started, and more, for people."""
        running = self._process is not None and self._process.poll() is None
        behind = clock_is_behind(self._home / "disk/upper")
        clock = "behind" if behind else "right"
        return {"on": running, "boots": self._boots, "addr": self.machine.addr, "clock": clock}

    def _boot(self) -> None:
        machine, plan = self.machine, self._plan
        self._boots += 1
        netns = self._home / f"net-{self._boots}"
        if self._switch:
            self._switch.plug(machine.name, machine.data_mac, f"d-{machine.name}")
        network.cable(plan, machine, netns)
        (self._home / "boot_id").write_text(str(uuid.uuid4()) + "\n")
        systemd = plan.options.systemd
        join = self._groups.make(plan.lab_id, machine.name, plan.options.cpu_percent, systemd)
        unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
        argv = [
            *shell("emulate/join.sh", *map(str, join), "--"),
            *("nsenter", f"--net={netns}", *unshare, *(["--cgroup"] if systemd else [])),
            *shell("emulate/machine.sh"),
        ]
        env = {
            "PATH": TOOL_PATH,
            "DIR": str(self._home),
            "NAME": machine.name,
            "INIT": "systemd" if systemd else "simple",
            "CGROUP": self._groups.tree_version,
        }
        with self._console.open("wb") as console:
            process = subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        self._process = process
        self._board_processes = [self._plug(board) for board in self._boards]
        self._watcher = threading.Thread(
            target=self._watch, args=(process, netns), name=machine.name, daemon=True
        )
        self._watcher.start()

    def _watch(self, process: subprocess.Popen[bytes], netns: Path) -> None:
        """Waits for the end of the host's first process: reboot(2) inside the host ends it by
        SIGHUP, poweroff by SIGINT."""
        code = process.wait()
        network.unplug(netns)
        with self._lock:
            if self._process is not process:
                return
            self._end_boards()
            self._process = None
            if self._wanted and code == -signal.SIGHUP:
                self._boot()
            else:
                self._wanted = False

    def _kill(self) -> None:
        process, self._process = self._process, None
        self._end_boards()
        if process and process.poll() is None:
            init = _children(process.pid)
            for pid in init or [process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait(_STOPPED_WITHIN_S)

    def _init_pid(self) -> int | None:
        running = _children(self._process.pid) if self._process else []
        return running[0] if running else None

    def _plug(self, board: EmulatedBoard) -> subprocess.Popen[bytes]:
        """Plugs a board in. It runs outside the host; only its serial port is inside."""
        home = self._runtime / "boards" / board.name
        link = self._home / "serial" / board.port
        link.unlink(missing_ok=True)
        run = [sys.executable, "-m", "nodes.board", "--dir", str(home), "--link", str(link)]
        pts = str(self._home / "pts")
        with (self._console.parent / f"{board.name}.log").open("ab") as log:
            return subprocess.Popen(
                [tool("unshare"), "--mount", *shell("emulate/board.sh", pts, *run)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for_boards(self) -> None:
        """Wait until every board's port exists."""
        until = time.monotonic() + _BOARD_READY_S
        for board, process in zip(self._boards, self._board_processes, strict=True):
            link = self._home / "serial" / board.port
            while not link.is_symlink():
                if process.poll() is not None or time.monotonic() > until:
                    log = self._console.parent / f"{board.name}.log"
                    raise LabFault(f"board {board.name} does not start: {log.read_text()[-500:]}")
                time.sleep(_POLL_S)

    def _end_boards(self) -> None:
        for process in self._board_processes:
            process.terminate()
        for process in self._board_processes:
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._board_processes = []


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
