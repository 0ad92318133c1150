"""Judges whether a lab is fit for a run: compares every host's report about itself with the
inventory.

`examine` asks one host. It changes nothing there, except that it wakes undos that have waited since
a restart (`testbed.care.dead_man`). `judge` (one host) and `compare` (all of them) are pure. Each
finding has the observed value and, if something is wrong, the fix. Connecting proves the host key
already. `testbed.care.host_watch` watches hosts during a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from inventory.model import Lab
from testbed.boards.flash import FLASHED, is_plugged
from testbed.boards.ports import SerialPort, matching, serial_ports
from testbed.care.clock import SYNC_COMMAND, ClockReading, clocks_apart, read_clock
from testbed.care.conditions import (
    RUN_DISK_FREE_MIN_MB,
    THROTTLED_SINCE_START,
    Conditions,
    open_facts,
    read_facts,
    throttled_words,
)
from testbed.care.dead_man import Armed, wake
from testbed.fleet import Step
from testbed.hosts.port import NO_ROOT_FIX, NO_SYSTEMD, NO_SYSTEMD_FIX, Host
from testbed.provision.install import DISK_FREE_MIN_MB
from testbed.provision.probe import probe
from testbed.provision.ready import staleness
from testbed.wheelhouse import MICROPYTHON_MACHINES, NO_MICROPYTHON_FIX, Wheelhouse

__all__ = ["Condition", "DoctorFinding", "Examined", "Grade", "compare", "examine", "judge"]

TEMPERATURE_MAX_C = 75.0
"""A Raspberry Pi slows itself down from 80 on."""

DISK_FREE_WARN_MB = 500
SUDO_SLOW_S = 2.0

_NAME_FIX = 'echo "127.0.1.1 $(hostname)" | sudo tee -a /etc/hosts'
_NEW_ID = "sudo rm /etc/machine-id && sudo systemd-machine-id-setup && sudo reboot"
_NEW_KEY = "sudo rm /etc/ssh/ssh_host_* && sudo ssh-keygen -A && sudo systemctl restart ssh"
Grade = Literal["ok", "warning", "failed"]


class Condition(Conditions, frozen=True, kw_only=True):
    """What a host says of itself before a run. None: it has no means to know."""

    hw_serial: str
    synchronised: bool | None
    interfaces: list[str]
    tools: list[str]
    systemd: bool
    machine: str
    netem: bool
    sudo_problem: str
    sudo_s: float
    name_resolves: bool
    unwritable: str
    noexec: bool
    machine_id: str
    host_key: str


_ONE_OF_A_KIND: tuple[tuple[str, str, Callable[[Condition], str]], ...] = (
    ("host key", _NEW_KEY, lambda condition: condition.host_key),
    ("machine id", _NEW_ID, lambda condition: condition.machine_id),
)


@dataclass(frozen=True, slots=True)
class Examined:
    """Everything that `judge` needs to know of a host. `lack`: why it is not ready for a run.
    `woken`: undos that had waited since a restart."""

    condition: Condition
    clock: ClockReading
    ports: tuple[SerialPort, ...]
    flashed: tuple[str, ...]
    lack: str
    woken: tuple[Armed, ...] = ()


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One check of one host or board.

    `fix`: what fixes it. `on_host`: the fix is a command for the host; otherwise it is for this
    machine, and NAMES stands for all hosts or boards that it fixes. `for_run`: the host is in
    order, but not ready.
    """

    check: str
    grade: Grade
    says: str
    fix: str = ""
    board: str = ""
    on_host: bool = False
    for_run: bool = False


def examine(lab: Lab, host: Host, wheelhouse: Wheelhouse, step: Step) -> Examined:
    """Ask a host everything. Raises LabFault if it does not answer."""
    step("looking")
    woken = tuple(wake(host))
    lack = staleness(probe(host), wheelhouse)
    step("reading clock")
    with open_facts(host, "python3") as dialogue:
        condition = read_facts(dialogue, "doctor", Condition)
        clock = read_clock(dialogue)
    step("looking at boards")
    boards = [n for n, b in lab.boards_in_use().items() if b.host == host.name and is_plugged(b)]
    ports = tuple(serial_ports(host)) if boards else ()
    look = f'for name; do [ ! -e "$name/{FLASHED}" ] || echo "$name"; done'
    flashed = host.run(["sh", "-c", look, "flashed", *boards]).stdout.split() if boards else []
    return Examined(condition, clock, ports, tuple(flashed), lack, woken)


def judge(lab: Lab, name: str, seen: Examined) -> Iterator[DoctorFinding]:
    """Every finding about one host and its boards."""
    yield from _identity(lab, name, seen.condition)
    yield from _disk(seen)
    if not seen.condition.systemd:
        yield DoctorFinding("systemd", "failed", NO_SYSTEMD, NO_SYSTEMD_FIX)
    yield from _login(seen.condition)
    yield from _health(seen.condition)
    yield from _clock(lab, name, seen)
    yield from _network(lab, name, seen.condition)
    if seen.lack:
        fix = "testbed provision -i FILE --limit NAMES"
        yield DoctorFinding("software", "warning", seen.lack, fix, for_run=True)
    else:
        yield DoctorFinding("software", "ok", "as here")
    yield from _boards(lab, name, seen)
    for one in seen.woken:
        when = f"in {one.left_s} s" if one.left_s else "now"
        says = f"{one.name} waited since a restart; it runs {when}"
        yield DoctorFinding("undo", "warning", says, "testbed restore -i FILE --limit NAMES")


def compare(lab: Lab, seen: Mapping[str, Examined]) -> dict[str, list[DoctorFinding]]:
    """Findings by host for which several hosts must be compared: copied cards, distant clocks."""
    found: dict[str, list[DoctorFinding]] = {name: [] for name in seen}
    for check, fix, of in _ONE_OF_A_KIND:
        owners: dict[str, list[str]] = {}
        for name, one in seen.items():
            owners.setdefault(of(one.condition), []).append(name)
        for value, names in owners.items():
            for name in names if value and len(names) > 1 else ():
                others = ", ".join(other for other in names if other != name)
                says = f"the same as that of {others}: was a card copied?"
                found[name].append(DoctorFinding(check, "failed", says, fix, on_host=True))
    for name, says in clocks_apart(lab, {n: e.clock for n, e in seen.items()}).items():
        found[name].append(DoctorFinding("clocks", "failed", says, SYNC_COMMAND, on_host=True))
    return found


def _identity(lab: Lab, name: str, seen: Condition) -> Iterator[DoctorFinding]:
    wanted = lab.hosts[name].hw_serial
    if wanted is None:
        says = f"the inventory does not identify it; it is {seen.hw_serial or 'nameless'}"
        fix = f'add hw_serial: "{seen.hw_serial}"' if seen.hw_serial else ""
        yield DoctorFinding("hardware", "warning" if fix else "ok", says, fix)
    elif wanted.lower() != seen.hw_serial.lower():
        says = f"hardware serial {seen.hw_serial or 'none'}, the inventory says {wanted}"
        fix = "testbed inventory discover -i FILE prints it; or another machine has its address"
        yield DoctorFinding("hardware", "failed", says, fix)
    else:
        yield DoctorFinding("hardware", "ok", wanted)


def _disk(seen: Examined) -> Iterator[DoctorFinding]:
    if seen.condition.unwritable:
        says = f"cannot write: {seen.condition.unwritable}"
        fix = "replace the card if it is dying; else: sudo mount -o remount,rw /"
        yield DoctorFinding("file system", "failed", says, fix, on_host=True)
    if seen.condition.noexec:
        fix = "mount it without noexec, or give the login another home"
        yield DoctorFinding("file system", "failed", "our directory is mounted noexec", fix)
    free = seen.condition.disk_free_mb
    grade: Grade = "warning" if free < DISK_FREE_WARN_MB else "ok"
    if free < (DISK_FREE_MIN_MB if seen.lack else RUN_DISK_FREE_MIN_MB):
        grade = "failed"
    yield DoctorFinding(
        "disk", grade, f"{free} MB free", "" if grade == "ok" else "remove files there"
    )


def _login(seen: Condition) -> Iterator[DoctorFinding]:
    if seen.sudo_s > SUDO_SLOW_S:
        why = "" if seen.name_resolves else ", and its own host name does not resolve"
        fix = "" if seen.name_resolves else _NAME_FIX
        yield DoctorFinding("sudo", "warning", f"takes {seen.sudo_s:.0f} s{why}", fix, on_host=True)


def _health(seen: Condition) -> Iterator[DoctorFinding]:
    if seen.temperature_c is not None:
        hot = seen.temperature_c > TEMPERATURE_MAX_C
        fix = "give it a heat sink or a fan" if hot else ""
        says = f"{seen.temperature_c:.0f} C"
        yield DoctorFinding("temperature", "failed" if hot else "ok", says, fix)
    if seen.throttled is not None:
        now = throttled_words(seen.throttled)
        before = throttled_words(seen.throttled >> THROTTLED_SINCE_START)
        if now:
            fix = "use the official power supply and a short cable"
            yield DoctorFinding("power", "failed", f"now: {', '.join(now)}", fix)
        elif before:
            says = f"since it was started: {', '.join(before)}"
            fix = "use a better power supply, then restart it"
            yield DoctorFinding("power", "warning", says, fix)
        else:
            yield DoctorFinding("power", "ok", "never throttled since it was started")


def _clock(lab: Lab, name: str, seen: Examined) -> Iterator[DoctorFinding]:
    limit_ms = lab.clock(name).max_error_ms
    offset_ms, bound_ms = seen.clock.offset_ms, seen.clock.bound_ms
    says = f"{offset_ms:+.2f} ms from here, known to {bound_ms:.2f} ms (at most {limit_ms:g})"
    if abs(offset_ms) - bound_ms > limit_ms:
        fix = f"{SYNC_COMMAND} (and here, one server for both); or raise clock: {{max_error}}"
        yield DoctorFinding("clock", "failed", says, fix, on_host=True)
    elif bound_ms > limit_ms:
        fix = "use a wired management network, or raise clock: {max_error}"
        yield DoctorFinding("clock", "warning", says, fix)
    else:
        yield DoctorFinding("clock", "ok", says)
    if seen.condition.synchronised is False:
        says = "its clock is not synchronised"
        yield DoctorFinding("time sync", "warning", says, SYNC_COMMAND, on_host=True)


def _network(lab: Lab, name: str, seen: Condition) -> Iterator[DoctorFinding]:
    net = lab.net(name)
    for key, interface in (("mgmt", net.mgmt), ("data", net.data)):
        if interface is not None and interface not in seen.interfaces:
            says = f"no interface {interface}; there are {', '.join(seen.interfaces)}"
            yield DoctorFinding("network", "failed", says, f"correct net.{key} in the inventory")
    needs = {"netem": ("tc", "iproute2"), "nft": ("nft", "nftables")}
    caps = lab.hosts[name].caps
    for cap, (tool, package) in needs.items():
        if cap not in caps:
            continue
        if tool not in seen.tools:
            fix = f"sudo apt-get install {package}"
            yield DoctorFinding(cap, "failed", f"no {tool}", fix, on_host=True)
        elif seen.sudo_problem:
            says = f"{tool} needs root: {seen.sudo_problem}"
            yield DoctorFinding(cap, "failed", says, NO_ROOT_FIX)
        elif cap == "netem" and not seen.netem:
            fix = "remove netem from caps, or install the kernel's sch_netem module"
            yield DoctorFinding(cap, "failed", "this kernel has no netem", fix)
        else:
            yield DoctorFinding(cap, "ok", "usable")


def _boards(lab: Lab, name: str, seen: Examined) -> Iterator[DoctorFinding]:
    for board_name, board in lab.boards_in_use().items():
        if board.host != name:
            continue
        check = f"board {board_name}"
        if not is_plugged(board):
            if seen.condition.machine not in MICROPYTHON_MACHINES:
                says = f"no MicroPython interpreter for a {seen.condition.machine} machine"
                yield DoctorFinding(check, "failed", says, NO_MICROPYTHON_FIX)
            continue
        found = matching(board, seen.ports)
        there = ", ".join(f"{port.usb_serial} ({port.path})" for port in seen.ports) or "none"
        if not found:
            fix = "plug it in, or correct match:"
            yield DoctorFinding(check, "failed", f"not found; ports: {there}", fix)
        elif len(found) > 1:
            says = f"{len(found)} ports match: {', '.join(port.path for port in found)}"
            fix = "match by usb_path: testbed inventory discover -i FILE prints it"
            yield DoctorFinding(check, "failed", says, fix)
        elif board_name not in seen.flashed:
            fix = "testbed flash -i FILE --limit NAMES"
            says = f"at {found[0].path}, not flashed"
            yield DoctorFinding(check, "warning", says, fix, board=board_name, for_run=True)
        else:
            yield DoctorFinding(check, "ok", found[0].path)
