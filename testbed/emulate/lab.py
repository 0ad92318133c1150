"""Makes an emulated lab, finds it again, and removes every trace of it.

`up` may be interrupted at any point. It writes the state file first, which names the lab;
everything made later has that name. The keeper holds all that the kernel can hold, and ends by
itself if `up` ends before it has sent `keep`. So `down` needs only the name.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec

from nodes.disk import write_atomically
from testbed.emulate import cgroup, network, preflight
from testbed.emulate.control import ask
from testbed.emulate.disk import ssh_key_pair
from testbed.emulate.inventory_file import FILES, inventory_text
from testbed.emulate.plan import EmulatedMachine, EmulationOptions, LabPlan, Shaping, make_plan
from testbed.emulate.tools import tool
from testbed.errors import ConfigurationError, LabFault
from testbed.fleet import at_once
from testbed.hosts.files import locked

__all__ = ["EmulatedLab", "down", "elsewhere", "find", "up"]

RUNTIME = Path("/run/testbed")
STATE = "emulated.json"
STATE_SCHEMA = "testbed.emulated/1"
SSH_ANSWERS_WITHIN_S = 30.0
_ENDS_WITHIN_S = 15.0
_POLL_S = 0.05
_ID_TRIES = 20


class _State(msgspec.Struct, frozen=True):
    """The state file. `plan` is added when it is made."""

    schema: Literal["testbed.emulated/1"]
    lab_id: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{4}$")]
    plan: LabPlan | None = None


@dataclass(frozen=True, slots=True)
class EmulatedLab:
    """A running emulated lab."""

    plan: LabPlan
    out: Path

    @property
    def inventory(self) -> Path:
        """The lab's inventory file. All other commands take it."""
        return self.out / FILES["inventory"]

    @property
    def control(self) -> Path:
        """The keeper's socket."""
        return RUNTIME / self.plan.lab_id / "control"

    def board_control(self, board: str) -> Path:
        """The control socket of a board's cable; see `nodes.board.control`."""
        if board not in [one.name for one in self.plan.boards]:
            raise ConfigurationError(f"no board {board} in this lab")
        return RUNTIME / self.plan.lab_id / "boards" / board / "control.sock"

    def ask(self, **order: Any) -> dict[str, Any]:
        """Give the keeper an order; see `control.ask`."""
        return ask(self.control, **order)

    def reboot(self, host: str) -> None:
        """Reboot a host in an orderly way; returns when its SSH server answers."""
        self.ask(do="reboot", host=self._known(host))
        self.wait_for_ssh([host])

    def power(self, host: str, to: str) -> None:
        """`off` cuts the power, `on` returns when the SSH server answers, `cycle` is both."""
        self.ask(do="power", host=self._known(host), to=to)
        if to != "off":
            self.wait_for_ssh([host])

    def throttle(self, host: str, bits: int | None) -> None:
        """Make a host's firmware report this throttling (`care.conditions.THROTTLED_BITS`)."""
        self.ask(do="throttle", host=self._known(host), bits=bits)

    def shape(self, source: str, target: str, shape: Mapping[str, float], for_s: float) -> None:
        """Shape one direction between two hosts (`switch.Shape`); `for_s` 0: until the next
        order."""
        pair = {"from": self._known(source), "to": self._known(target)}
        self.ask(do="shape", shape=dict(shape), for_s=for_s, **pair)

    def wait_for_ssh(self, hosts: list[str]) -> None:
        """Wait until the SSH servers of these hosts answer. If their time sync starts by itself,
        wait until it has stepped the clock."""
        machines = [machine for machine in self.plan.machines if machine.name in hosts]
        answers = at_once(self._comes_up, machines)
        silent = [one.name for one, ok in zip(machines, answers, strict=True) if not ok]
        if silent:
            log = (self.out / "console" / f"{silent[0]}.log").read_text(errors="replace")
            said = log.strip()[-1000:] or "nothing"
            names = ", ".join(silent)
            raise LabFault(f"no SSH server answers on {names}; {silent[0]}'s console says: {said}")

    def _comes_up(self, machine: EmulatedMachine) -> bool:
        """Whether the host answers. False as soon as the host has ended, or if it is silent for too
        long."""
        until = time.monotonic() + SSH_ANSWERS_WITHIN_S
        answers = False
        while time.monotonic() < until:
            answers = answers or _ssh_answers(machine.addr, within_s=1.0)
            status = self.ask(do="status")["hosts"][machine.name]
            if answers and (status["clock"] == "right" or self.plan.options.wrong_clock):
                return True
            if not status["on"]:
                return False
            time.sleep(_POLL_S)
        return False

    def _known(self, host: str) -> str:
        names = [machine.name for machine in self.plan.machines]
        if host not in names:
            raise ConfigurationError(f"no host {host} in this lab; there are {', '.join(names)}")
        return host


def up(out: Path, options: EmulationOptions) -> EmulatedLab:
    """Make the lab and its files in `out`, or find that it is up already.

    Raises ConfigurationError if this machine cannot make one, or if `out` holds another lab.
    """
    gaps = preflight.missing(options)
    if gaps:
        raise ConfigurationError("an emulated lab needs:\n  " + "\n  ".join(gaps))
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with locked(out):
        running = _running(out)
        if running:
            if running.plan.options != options:
                fix = f"testbed emulate down -i {out / FILES['inventory']}"
                raise ConfigurationError(f"another lab is up in {out}; take it down: {fix}")
            states = running.ask(do="status")["hosts"]
            running.wait_for_ssh([name for name, state in states.items() if state["on"]])
            return running
        _remove(out)
        try:
            return _make(out, options)
        except BaseException:
            _remove(out)
            _remove_if_empty(out)
            raise


def down(out: Path) -> bool:
    """Remove every trace of the lab in `out`; False if there was none. Repeatable."""
    out = out.resolve()
    if not _lab_ids(out):
        return False
    if os.geteuid() != 0:
        raise ConfigurationError("not root: sudo .venv/bin/testbed emulate down ...")
    if not out.exists():  # somebody has deleted the folder; the lab is still up
        _remove(out)
        return True
    with locked(out):
        _remove(out)
        _remove_if_empty(out)
    return True


def find(out: Path) -> EmulatedLab:
    """The running lab whose files are in `out`."""
    running = _running(out.resolve())
    if running is None:
        fix = f"testbed emulate up --out {out}"
        others = (other / FILES["inventory"] for other in elsewhere())
        found = "".join(f"\n  there is one: -i {other}" for other in others)
        raise ConfigurationError(f"no emulated lab is up in {out}; {fix}{found}")
    return running


def elsewhere() -> list[Path]:
    """The directories of all labs of this machine, running or left behind."""
    return sorted(set(_notes().values()))


def _notes() -> dict[str, Path]:
    """The folder of each lab of this machine, by its id; its files may be gone."""
    notes = {path.parent.name: _load(path) for path in RUNTIME.glob("*/keeper.json")}
    return {lab_id: Path(note["out"]) for lab_id, note in notes.items() if note}


def _lab_ids(out: Path) -> set[str]:
    """The ids of labs that have, or had, their files in `out`."""
    state = _state(out)
    noted = {lab_id for lab_id, place in _notes().items() if place == out}
    return noted | ({state.lab_id} if state else set())


def _make(out: Path, options: EmulationOptions) -> EmulatedLab:
    lab_id = _new_id(out)
    runtime = RUNTIME / lab_id
    consoles = out / "console"
    consoles.mkdir(exist_ok=True)
    private, public = ssh_key_pair(f"testbed-{lab_id}")
    shaping: Shaping = "netem" if preflight.kernel_has_netem() else "switch"
    with (consoles / "keeper.log").open("wb") as log:
        keeper = _start_keeper(runtime, consoles, log)
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with keeper.stdin, keeper.stdout:
        identity = _hear(keeper, consoles)
        identity |= {"started": _started(identity["init_pid"]), "out": str(out)}
        _save(runtime / "keeper.json", identity)
        with locked(RUNTIME):
            plan = make_plan(lab_id, options, *network.free_networks(), shaping)
            network.add_uplink(plan, identity["init_pid"])
        sketch = msgspec.to_builtins(plan)
        _save(out / STATE, {"schema": STATE_SCHEMA, "lab_id": lab_id, "plan": sketch})
        _say(keeper.stdin, json.dumps({"plan": sketch, "client_key": public}))
        keys = _hear(keeper, consoles)["host_keys"]
        network.add_data_uplink(plan, identity["init_pid"])
        _write_files(out, plan, private, keys)
        lab = EmulatedLab(plan, out)
        lab.wait_for_ssh([machine.name for machine in plan.machines])
        _say(keeper.stdin, "keep")
    return lab


def _new_id(out: Path) -> str:
    for _ in range(_ID_TRIES):
        lab_id = secrets.token_hex(2)
        _save(out / STATE, {"schema": STATE_SCHEMA, "lab_id": lab_id})
        with suppress(FileExistsError):
            (RUNTIME / lab_id).mkdir(mode=0o700, parents=True)
            return lab_id
    (out / STATE).unlink()
    raise LabFault(f"no free lab name below {RUNTIME}; take other emulated labs down")


def _start_keeper(runtime: Path, consoles: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # A shell is the first process of the namespace: it reaps orphans while the keeper runs.
    argv = [
        *(tool("unshare"), "--mount", "--net", "--pid", "--fork", "--kill-child"),
        *("sh", "-c", '"$@"; exit $?', "init"),
        *(sys.executable, "-m", "testbed.emulate.keeper", str(runtime), str(consoles)),
    ]
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )


def _hear(keeper: subprocess.Popen[bytes], consoles: Path) -> dict[str, Any]:
    assert keeper.stdout is not None
    line = keeper.stdout.readline()
    said: dict[str, Any] = json.loads(line) if line else {}
    if not line or "error" in said:
        log = (consoles / "keeper.log").read_text()[-2000:].strip()
        problem = said.get("error") or log or "its keeper ended"
        raise LabFault(f"cannot make the emulated lab: {problem}")
    return said


def _say(stream: IO[bytes], line: str) -> None:
    stream.write(line.encode() + b"\n")
    stream.flush()


def _write_files(out: Path, plan: LabPlan, private: bytes, keys: dict[str, str]) -> None:
    write_atomically(out / FILES["key"], private, 0o600)
    known = "".join(f"{m.addr} {' '.join(keys[m.name].split()[:2])}\n" for m in plan.machines)
    write_atomically(out / FILES["known_hosts"], known.encode())
    write_atomically(out / FILES["inventory"], inventory_text(plan).encode())


def _state(out: Path) -> _State | None:
    """The state that `up` wrote; None if there is no file. Raises ConfigurationError for any other
    content, because root removes paths that are made from its names."""
    path = out / STATE
    try:
        return msgspec.json.decode(path.read_bytes(), type=_State)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        fix = "remove it, if no emulated lab is up there"
        raise ConfigurationError(f"{path} is damaged: {error}; {fix}") from error


def _running(out: Path) -> EmulatedLab | None:
    state = _state(out)
    if state is None or state.plan is None:
        return None
    plan = state.plan
    identity = _load(RUNTIME / plan.lab_id / "keeper.json")
    alive = identity and _started(identity["init_pid"]) == identity["started"]
    lab = EmulatedLab(plan, out)
    return lab if alive and lab.control.exists() and lab.inventory.exists() else None


def _remove(out: Path) -> None:
    for lab_id in _lab_ids(out):
        _end_keeper(RUNTIME / lab_id)
        network.drop_uplinks(lab_id)
        cgroup.remove(lab_id)
        shutil.rmtree(RUNTIME / lab_id, ignore_errors=True)
        with suppress(OSError):  # another lab is in it, or it never had one
            RUNTIME.rmdir()
    shutil.rmtree(out / "console", ignore_errors=True)
    for name in (*FILES.values(), STATE):
        (out / name).unlink(missing_ok=True)
        for half_written in out.glob(f".{name}.*.part"):
            half_written.unlink()


def _remove_if_empty(out: Path) -> None:
    with suppress(OSError):  # a person may keep other files there
        out.rmdir()


def _end_keeper(runtime: Path) -> None:
    identity = _load(runtime / "keeper.json")
    if not identity:
        return
    pid = identity["init_pid"]
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _started(pid) == identity["started"]:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            ended, _, _ = select.select([handle], [], [], _ENDS_WITHIN_S)
            if not ended:
                raise LabFault(f"the emulated lab's first process {pid} does not end")
    finally:
        os.close(handle)


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot. It distinguishes the process from a later
    one with the same id."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _ssh_answers(addr: str, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection((addr, 22), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return True
        time.sleep(_POLL_S)
    return False


def _save(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(value, indent=1).encode() + b"\n")


def _load(path: Path) -> dict[str, Any] | None:
    try:
        value: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return value
