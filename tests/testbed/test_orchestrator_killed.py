"""kill -9 of the orchestrator in the middle of a fault: nobody is left, and still all is undone.

In loopback everything ends with the orchestrator. Over SSH hosts undo by themselves what was armed,
and what a host cannot undo (its own power) a guardian does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nodes.board.control import command as order
from testbed.campaign.file import load_campaign
from testbed.campaign.kinds import Kind, kinds
from testbed.care.dead_man import armed
from testbed.care.restore import leftover
from testbed.emulate.lab import EmulatedLab
from testbed.faults.switch import SWITCH
from testbed.hosts.port import HostFault
from testbed.hosts.ssh import SshHost
from tests.testbed.command_line import run_testbed
from tests.testbed.emulate_support import emulated, host
from tests.testbed.hosts_support import eventually
from tests.testbed.kind_examples import campaign, event, lasting
from tests.testbed.labs import local_lab

STARTED_S_MAX = 120.0
UNDONE_S_MAX = 120.0
DEAD_MAN = "guard: {max_faulty: 4, dead_man: 2s}"
EACH = pytest.mark.parametrize("kind", lasting(), ids=lambda kind: kind.name)


class Orchestrator:
    """`testbed run`, to be killed."""

    def __init__(self, home: Path, inventory: Path, text: str) -> None:
        self.out = home / "runs"
        file = home / "killed.yaml"
        file.write_text(text)
        self.said = home / "said"
        argv = ["run", str(file), "-i", str(inventory), "--out", str(self.out)]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "testbed.cli", *argv],
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def steps(self, step: str) -> list[str]:
        """The events that have come so far."""
        lines = [
            line
            for log in self.out.glob("*/run/*/raw/faults.jsonl")
            for line in log.read_text().splitlines()
        ]
        return [each["event"] for each in map(json.loads, lines) if each["step"] == step]

    def reach(self, step: str, count: int) -> None:
        def reached() -> bool:
            return len(self.steps(step)) >= count or self.process.poll() is not None

        eventually(reached, STARTED_S_MAX)
        assert self.process.poll() is None, self.said.read_text()

    def kill(self) -> list[psutil.Process]:
        """What was running of it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        return below


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[Path, str], Orchestrator]]:
    begun: list[Orchestrator] = []

    def start(inventory: Path, text: str) -> Orchestrator:
        begun.append(Orchestrator(tmp_path, inventory, text))
        return begun[-1]

    yield start
    for each in begun:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.wait()


def running(processes: list[psutil.Process]) -> list[str]:
    """Those that have not ended."""
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:160])
        except psutil.NoSuchProcess:
            continue
    return found


def nothing_is_left(processes: list[psutil.Process]) -> None:
    assert len(processes) > 10, "a lab was up"
    eventually(lambda: not running(processes), UNDONE_S_MAX)


@pytest.fixture
def loopback(tmp_path: Path) -> Path:
    path = tmp_path / "lab.yaml"
    path.write_text(local_lab(mobiles=1, spare="r5", chain={"checkpoint_interval": 8}))
    return path


def test_in_loopback_all_ends_with_it(
    begin: Callable[[Path, str], Orchestrator], loopback: Path
) -> None:
    """Of several kinds at once: a stopped process, one that lies, helpers, a host without power."""
    events = [
        event(kinds()[name], on)
        for name, on in (
            ("byzantine.silent", "replica(0)"),
            ("process.stop", "replica(1)"),
            ("process.restart-storm", "replica(2)"),
            ("process.cpu", "environment"),
            ("process.memory", "gateway"),
            ("process.io", "gateway"),
            ("host.power-cut", "host(phones)"),
        )
    ]
    orchestrator = begin(loopback, campaign(events))
    orchestrator.reach("applied", len(events))
    nothing_is_left(orchestrator.kill())


@EACH
def test_every_kind_has_an_example(tmp_path: Path, kind: Kind) -> None:
    """Or it would be left out here: `kind_examples.NEEDS` has what a kind needs."""
    path = tmp_path / "one.yaml"
    path.write_text(campaign([event(kind)]))
    (fault,) = load_campaign(path).faults
    assert fault.do == kind.name


@pytest.mark.soak
@EACH
def test_in_loopback_all_ends_with_it_whatever_the_kind(
    begin: Callable[[Path, str], Orchestrator], loopback: Path, kind: Kind
) -> None:
    orchestrator = begin(loopback, campaign([event(kind)]))
    orchestrator.reach("applied", 1)
    nothing_is_left(orchestrator.kill())


# --- hosts of their own -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLab]:
    files = tmp_path_factory.mktemp("lab")
    with emulated(files / "lab", hosts=5, boards=2) as made:  # the fifth is a spare too
        for word in ("provision", "flash"):
            command(made, word)
        in_the_clear(made).write_text(made.inventory.read_text() + "broker: {kind: embedded}\n")
        yield made


def in_the_clear(lab: EmulatedLab) -> Path:
    """Its inventory with a broker without TLS, or nobody could stand in between."""
    return lab.inventory.with_name("in-the-clear.yaml")


def command(lab: EmulatedLab, *words: str) -> str:
    """One of our commands on the lab; it succeeds."""
    done = run_testbed(*words, "-i", str(lab.inventory))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_faults(inside: SshHost) -> list[str]:
    """What a fault has left on a host: armed undos, helpers, orders; that it does not answer."""
    try:
        orders = inside.run(["sh", "-c", f"ls */{SWITCH}/*.json 2>/dev/null; :"]).stdout
        helpers = [name for name in inside.units() if name.startswith("fault-")]
        return [*(one.name for one in armed(inside)), *helpers, *orders.split()]
    except HostFault as fault:
        return [str(fault)]


def of_cables(lab: EmulatedLab) -> list[str]:
    """What a fault or an attack has left on boards' lines."""
    found = []
    for board in ("th01", "th02"):
        status = order(lab.board_control(board), "status")
        if not status["plugged"] or status["noise"] or status["middle"]:
            found.append(f"{board}: {status}")
    return found


def killed_in_the_middle(
    start: Callable[[Path, str], Orchestrator], lab: EmulatedLab, events: list[dict[str, object]]
) -> None:
    """Nothing of the events is left on hosts and lines; `restore` then finds nothing but the run's
    own processes."""
    names = [machine.name for machine in lab.plan.machines]
    command(lab, "restore")
    orchestrator = start(in_the_clear(lab), campaign(events).replace("guard: none", DEAD_MAN))
    orchestrator.reach("applied", len(events))
    orchestrator.kill()
    for name in names:
        with host(lab, name) as inside:
            eventually(lambda: of_faults(inside) == [], UNDONE_S_MAX)
    eventually(lambda: of_cables(lab) == [], UNDONE_S_MAX)
    command(lab, "restore")
    for name in names:
        with host(lab, name) as inside:
            assert leftover(inside).lines == []


@pytest.mark.soak
@pytest.mark.lab
def test_hosts_undo_several_kinds_by_themselves(
    begin: Callable[[Path, str], Orchestrator], lab: EmulatedLab
) -> None:
    """Each by another undo: a unit, a signal, an order, rules of links, a cable."""
    kinds_at_once = {
        "store.alter": "replica(0)",
        "process.stop": "replica(1)",
        "byzantine.silent": "replica(2)",
        "process.cpu": "replica(3)",
        "net.partition": None,
        "serial.mitm": None,
        "device.mitm": None,
    }
    events = [event(kinds()[name], on, for_="8s") for name, on in kinds_at_once.items()]
    killed_in_the_middle(begin, lab, events)


@pytest.mark.lab
@pytest.mark.soak
@EACH
def test_hosts_undo_it_by_themselves(
    begin: Callable[[Path, str], Orchestrator], lab: EmulatedLab, kind: Kind
) -> None:
    killed_in_the_middle(begin, lab, [event(kind, "host(pi02)", for_="5s")])
