"""One emulated host inside the keeper: its files, its boots, its power.

A host is a tree of processes in namespaces of its own over a private copy-on-write view of this
machine's root directory. Its disk (a tmpfs of limited size) survives reboots and power cuts;
everything else is new at each boot, as on a real machine.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from testbed.emulate import network
from testbed.emulate.cgroup import Groups
from testbed.emulate.plan import Board, LabPlan, Machine
from testbed.emulate.switch import Switch
from testbed.emulate.tools import TOOL_PATH, attempt, demand, tool
from testbed.errors import LabFault

__all__ = ["RunningMachine", "ssh_key_pair"]

_VISIBLE = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt"}
"""What a host sees of this machine's root directory; homes, data and this project it does not."""

_FRESH = {
    "boot": 0o755,
    "dev": 0o755,
    "etc/init.d": 0o755,
    **{f"etc/rc{level}.d": 0o755 for level in "0123456S"},
    "etc/ssh": 0o755,
    "etc/systemd/system": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var/log": 0o755,
    "var/spool/cron": 0o755,
    "var/tmp": 0o1777,
}
"""Directories that start empty."""

_MASKED = (
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "dbus-org.freedesktop.login1.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",  # it would set the kernel of the real machine
    "systemd-timesyncd.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100
MaxSessions 100
PidFile none
Subsystem sftp internal-sftp
"""

_JOIN_GROUPS = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'
_BOARD = 'mount --bind "$1" /dev/pts && mount --bind "$1/ptmx" /dev/ptmx && shift && exec "$@"'
_BOARD_READY_S = 20.0
_STOPPED_WITHIN_S = 15.0
_LAST_CALL_S = 0.5


def ssh_key_pair(comment: str) -> tuple[bytes, str]:
    """A new Ed25519 key: OpenSSH's private file, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()
    return private, f"{public} {comment}"


class RunningMachine:
    """A host of the lab; its methods may be called from any thread."""

    def __init__(
        self,
        plan: LabPlan,
        machine: Machine,
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
        """Make the host's disk; returns its public host key line."""
        for part in ("root", "disk", "pts", "serial"):
            (self._home / part).mkdir(parents=True)
        size = f"size={self._plan.options.disk_mb}m,mode=755"
        _mount("tmpfs", self._home / "disk", size)
        _mount("devpts", self._home / "pts", "newinstance,ptmxmode=0666,mode=620")
        upper = self._home / "disk" / "upper"
        for directory in (upper, self._home / "disk" / "work"):
            directory.mkdir()
        _hide(upper)
        serial = f"Hardware\t: testbed-emulated\nSerial\t\t: {self.machine.hw_serial}\n"
        (self._home / "cpuinfo").write_text("\n" + serial)
        private, public = ssh_key_pair(self.machine.name)
        etc = upper / "etc"
        hosts = "".join(f"{m.addr} {m.name}\n" for m in self._plan.machines)
        _write(etc / "hostname", f"{self.machine.name}\n")
        _write(etc / "hosts", f"127.0.0.1 localhost\n{hosts}")
        _write(etc / "machine-id", uuid.uuid4().hex + "\n")
        _write(etc / "fstab", "")
        _write(etc / "shadow", _without_passwords(Path("/etc/shadow").read_text()), 0o600)
        _write(etc / "ssh/sshd_config", _SSHD)
        _write(etc / "ssh/ssh_host_ed25519_key", private.decode(), 0o600)
        _write(etc / "ssh/authorized_keys", client_key + "\n")
        if self._plan.options.systemd:
            _systemd_files(etc)
        return public

    def on(self) -> None:
        """Power on; nothing if it is on."""
        with self._lock:
            if not self._wanted:
                self._wanted = True
                self._boot()

    def off(self) -> None:
        """Cut the power: every process of the host ends at once, in the middle of whatever."""
        with self._lock:
            self._wanted = False
            self._kill()

    def reboot(self) -> None:
        """In good order: processes are asked to end, then the host starts again."""
        with self._lock:
            if not self._wanted:
                raise LabFault(f"{self.machine.name} is off; power it on")
            init = self._init_pid()
            if init:
                inside = ("-t", str(init), "-p", "-m", "--")
                attempt("nsenter", *inside, "sh", "-c", "sync; kill -TERM -1")
                time.sleep(_LAST_CALL_S)
            self._kill()
            self._boot()

    def status(self) -> dict[str, object]:
        """For people: is it on, and how often was it started."""
        running = self._process is not None and self._process.poll() is None
        return {"on": running, "boots": self._boots, "addr": self.machine.addr}

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
            *("sh", "-c", _JOIN_GROUPS, "join", *map(str, join), "--"),
            *("nsenter", f"--net={netns}", *unshare, *(["--cgroup"] if systemd else [])),
            *("sh", str(Path(__file__).with_name("machine.sh"))),
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
        """reboot(2) inside ends the first process by SIGHUP, poweroff by SIGINT."""
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

    def _plug(self, board: Board) -> subprocess.Popen[bytes]:
        """The board stands outside the host; only its serial port is inside."""
        home = self._runtime / "boards" / board.name
        link = self._home / "serial" / board.port
        link.unlink(missing_ok=True)
        run = [sys.executable, "-m", "nodes.board", "--dir", str(home), "--link", str(link)]
        pts = str(self._home / "pts")
        with (self._console.parent / f"{board.name}.log").open("ab") as log:
            return subprocess.Popen(
                [tool("unshare"), "--mount", "sh", "-c", _BOARD, "board", pts, *run],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_for_boards(self) -> None:
        """Until every board's port is there."""
        until = time.monotonic() + _BOARD_READY_S
        pause = threading.Event()
        for board, process in zip(self._boards, self._board_processes, strict=True):
            link = self._home / "serial" / board.port
            while not link.is_symlink():
                if process.poll() is not None or time.monotonic() > until:
                    log = self._console.parent / f"{board.name}.log"
                    raise LabFault(f"board {board.name} does not start: {log.read_text()[-500:]}")
                pause.wait(0.02)

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


def _mount(kind: str, place: Path, options: str) -> None:
    demand("mount", "-t", kind, "-o", options, kind, str(place))


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _hide(upper: Path) -> None:
    """Overlay's marks: a whiteout takes a lower entry away, an opaque directory starts empty."""
    for place, mode in _FRESH.items():
        directory = upper / place
        directory.mkdir(mode=0o755, parents=True)
        directory.chmod(mode)
        os.setxattr(directory, "trusted.overlay.opaque", b"y")
    fresh = {place.partition("/")[0] for place in _FRESH}
    for entry in Path("/").iterdir():
        if entry.name not in _VISIBLE | fresh:
            os.mknod(upper / entry.name, stat.S_IFCHR | 0o600, os.makedev(0, 0))


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


def _without_passwords(shadow: str) -> str:
    """Nobody logs in by password, root by key: "*" is no password, where "!" were no login."""
    lines = [line.split(":") for line in shadow.splitlines() if ":" in line]
    return "".join(":".join([name, "*", *rest]) + "\n" for name, _, *rest in lines)


def _systemd_files(etc: Path) -> None:
    """Only what a headless Raspberry Pi needs; the machine's own services stay out."""
    system = etc / "systemd/system"
    _write(
        system / "testbed-sshd.service",
        "[Unit]\nAfter=network.target\n[Service]\nRuntimeDirectory=sshd\n"
        "ExecStart=/usr/sbin/sshd -D -e\nRestart=always\nKillMode=process\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    wants = system / "multi-user.target.wants"
    wants.mkdir()
    (wants / "testbed-sshd.service").symlink_to("/etc/systemd/system/testbed-sshd.service")
    (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for unit in _MASKED:
        (system / unit).symlink_to("/dev/null")
