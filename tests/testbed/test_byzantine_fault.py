"""Lying replicas as a campaign's fault: how a lie is seen, and that it is undone in any case.

Watch, host and dead man are the real ones; the replicas' logs are in the test's hand.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from inventory.load import load_lab
from testbed.campaign.event import ScheduledEvent
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import kinds
from testbed.campaign.reach import Reach
from testbed.campaign.run import RunLog, Runner
from testbed.campaign.watch import Watch
from testbed.care.dead_man import armed
from testbed.errors import LabFault
from testbed.faults.switch import SWITCH, equip
from testbed.faults.witness import Witness
from testbed.hosts.port import Unreachable
from testbed.provision.configs import CONFIG, File
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from tests.testbed.hosts_support import eventually
from tests.testbed.outliving import Outliving


class Lab:
    """The packaged lab, set up by hand: its replicas exist as directories and as logs."""

    def __init__(self, root: Path) -> None:
        lab = load_lab()
        self.hosts = {name: Outliving(root / name, name=name) for name in lab.hosts}
        python = dict.fromkeys(lab.hosts, sys.executable)
        self.deployment = Deployment(lab, self.hosts, python, print)
        self.replicas = self.deployment.with_role("replica")
        self.watch = Watch(self.deployment, Reach(lambda _: None, lambda *_, **__: None))
        self.n = 0

    def armed(self) -> set[str]:
        """The names of the undos that wait on the replicas' hosts."""
        hosts = map(self.deployment.host, self.replicas)
        return {undo.name for host in hosts for undo in armed(host)}

    def log(self, name: str, event: str, **fields: Any) -> None:
        """A line of a replica's log."""
        self.n += 1
        line = {"t": 10**18 + self.n, "n": self.n, "event": event, **fields}
        self.watch.take(self.deployment.node(name), json.dumps(line))

    def block(self, name: str, height: int, *, age_ms: int = 0, time_us: int = 10**15) -> None:
        self.log(
            name,
            "block",
            height=height,
            view=0,
            time_us=time_us - age_ms * 1000,
            executed_us=0,
            pre_prepared_us=0,
        )

    def counters(self, name: str, heard: int, refused: int = 0) -> None:
        self.log(name, "counters", faults={"0/bad-signature": refused}, heard={"0": heard, "9": 7})

    @property
    def witness(self) -> Witness:
        """Of what is logged from now on about r1."""
        return Witness(self.watch, self.replicas, self.replicas[:1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    for host in lab.hosts.values():
        host.close()


def test_a_primary_is_replaced_when_others_go_on_without_it(lab: Lab) -> None:
    witness = lab.witness
    lab.log("r1", "view", view=1, seq=1)  # a liar's own word is nothing
    assert not witness.replaced()
    lab.log("r2", "view", view=1, seq=1)
    assert witness.replaced()
    assert not lab.witness.replaced()  # who is primary no more cannot be replaced


def test_silence_is_seen_by_everybody_for_a_second(lab: Lab) -> None:
    witness = lab.witness
    for name in ("r2", "r3", "r4"):
        lab.counters(name, heard=5)
    assert not witness.quiet()
    for name, heard in (("r2", 5), ("r3", 5), ("r4", 6)):
        lab.counters(name, heard=heard)
    assert not witness.quiet()
    lab.counters("r4", heard=6)
    assert witness.quiet()


def test_what_was_refused_before_proves_nothing(lab: Lab) -> None:
    lab.counters("r2", heard=5, refused=1)
    witness = lab.witness
    lab.counters("r2", heard=6, refused=9)  # up to the order to lie, perhaps
    lab.counters("r2", heard=7, refused=9)
    assert not witness.refused()
    lab.counters("r2", heard=7, refused=10)
    assert witness.refused()


def test_a_lie_must_arrive_and_be_admitted(lab: Lab) -> None:
    witness = lab.witness
    lab.counters("r2", heard=5)
    lab.counters("r2", heard=6)
    assert not witness.lied()
    lab.log("r1", "byzantine-acts", trick="wrong-field", acts=1)
    assert witness.lied()


def test_late_is_later_than_before(lab: Lab) -> None:
    """Clocks of hosts may differ: only the change counts."""
    for height in range(1, 6):
        lab.block("r2", height, age_ms=500)
    witness = lab.witness
    for height in range(6, 9):
        lab.block("r2", height, age_ms=505)
    assert not witness.late(100)
    for height in range(9, 15):
        lab.block("r2", height, age_ms=600)
    assert witness.late(100)


def test_a_fork_is_two_blocks_of_one_height_at_honest_replicas(lab: Lab) -> None:
    witness = lab.witness
    lab.block("r1", 5, time_us=1)
    lab.block("r2", 5, time_us=2)
    lab.block("r3", 5, time_us=2)
    assert not witness.forked()
    lab.block("r4", 5, time_us=3)
    assert witness.forked()


def fault(
    lab: Lab,
    kind: str,
    undo_after_s: float = 60.0,
    *,
    on: str = "primary",
    mechanism: str | None = None,
    **params: Any,
) -> Injection:
    event = ScheduledEvent(
        id="lie",
        fault="lie",
        kind=kind,
        category="fault",
        layer="consensus",
        phase="attack",
        at_ms=0,
        for_ms=1000,
        targets={"on": (on,)},
        params=params,
    )
    scene = Scene(
        event=event,
        deployment=lab.deployment,
        watch=lab.watch,
        primary=lambda: lab.replicas[0],
        rng=Random(7),
        captures=Path(),
        undo_after_s=undo_after_s,
    )
    (found, *_) = (m for m in kinds()[kind].mechanisms if mechanism in (m.name, None))
    return found.make(scene)


def orders(lab: Lab) -> Path:
    """The file of the order to the primary."""
    return Path(lab.hosts["r1"].root) / lab.replicas[0].file(f"{SWITCH}/effects.lie.json")


def applied(lab: Lab, lie: Injection, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `apply` when the replica takes the order at once."""
    put = lab.deployment.put

    def taken(node: Node, file: File) -> None:
        put(node, file)
        lab.log(node.name, "ordered", order=Path(file.name).name)

    monkeypatch.setattr(lab.deployment, "put", taken)
    lie.arm()
    lie.apply()


def test_an_order_says_what_the_campaign_says(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = fault(lab, "byzantine.delay", message="pre-prepare", by_ms=900)
    applied(lab, lie, monkeypatch)
    assert json.loads(orders(lab).read_text()) == {
        "trick": "delay",
        "message": "PP",
        "delay_ms": 900,
        "seed": Random(7).getrandbits(31),
    }
    assert orders(lab).stat().st_mode & 0o777 == 0o600


def test_healing_takes_the_order_and_its_undo_back_and_may_be_repeated(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = fault(lab, "byzantine.silent")
    applied(lab, lie, monkeypatch)
    # Who is primary is known only when it strikes: every replica that it may be has its undo.
    assert lab.armed() == {f"effects-lie-r{n}" for n in (1, 2, 3, 4)}
    lie.heal()
    lie.heal()
    assert not orders(lab).exists()
    lie.close()
    assert lab.armed() == set()


@pytest.mark.parametrize(
    "kind", ["byzantine.silent", "byzantine.false-seal", "disk.slow", "process.stop"]
)
def test_healing_needs_no_other_host_and_what_waits_there_is_disarmed_when_it_is_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Any replica may be the primary when it strikes: all their hosts have an undo."""
    monkeypatch.setattr(Outliving, "signal", lambda *_: None)
    lie = fault(lab, kind, by_ms=50)
    applied(lab, lie, monkeypatch)
    lab.hosts["r3"].lost = True
    lie.heal()
    lie.close()
    lab.hosts["r3"].lost = False
    (left,) = lab.armed()
    assert left.endswith("-r3")
    lab.deployment.revive(lab.replicas[2])
    assert lab.armed() == set()


@pytest.mark.parametrize(
    ("kind", "mechanism"), [("host.power-cut", "kill"), ("host.reboot", "restart")]
)
def test_a_fault_of_a_whole_host_is_closed_whatever_its_processes_are_called(
    lab: Lab, kind: str, mechanism: str
) -> None:
    dark = fault(lab, kind, on="gw1", mechanism=mechanism)
    dark.arm()
    dark.heal()
    dark.close()


def test_a_fault_that_cannot_be_healed_leaves_no_undo_on_other_hosts(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host that was hit is lost: the run fails, and the next one finds the others clean."""
    monkeypatch.setattr(Outliving, "signal", lambda *_: None)
    stopped = fault(lab, "process.stop")
    monkeypatch.setattr(stopped, "repair", lambda node: lab.hosts[node.host].run(["true"]))

    def lose(_: float) -> Seen:
        lab.hosts["r1"].lost = True
        return Seen("stopped")

    monkeypatch.setattr(stopped, "observe", lose)
    monkeypatch.setattr(Runner, "_make", lambda *_: stopped)
    event = stopped.scene.event.model_copy(update={"for_ms": 0})
    schedule = expand(load_campaign(find_campaign("quick-start")), lab.deployment.lab, 7).part(0)
    trial = schedule.only.model_copy(update={"events": (event,)})
    schedule = schedule.model_copy(update={"trials": (trial,)})
    with RunLog(tmp_path) as log:
        runner = Runner(schedule, lab.deployment, lab.watch, log, tmp_path, inventory=None)
        with pytest.raises(Unreachable):
            runner.run()
    lab.hosts["r1"].lost = False
    (left,) = lab.armed()
    assert left.endswith("-r1")


def test_the_host_itself_takes_the_order_back_if_nobody_else_does(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The orchestrator is gone after `apply`: the dead man on the host makes it honest again."""
    # Long enough that a slow machine has applied it by then.
    applied(lab, fault(lab, "byzantine.silent", undo_after_s=5.0), monkeypatch)
    eventually(lambda: not orders(lab).exists())


def test_who_lies_already_is_not_made_to_lie_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied(lab, fault(lab, "byzantine.silent"), monkeypatch)
    with pytest.raises(LabFault, match="is there already"):
        fault(lab, "byzantine.flood").arm()


def test_a_replica_that_does_not_take_the_order_is_a_fault_of_the_lab(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.faults.switch.TAKEN_S_MAX", 0.1)
    lie = fault(lab, "byzantine.silent")
    lie.arm()
    with pytest.raises(LabFault, match="was not taken"):
        lie.apply()


def test_only_a_campaign_that_needs_it_puts_the_switch_into_configs(lab: Lab) -> None:
    deployment = lab.deployment
    for node in deployment.nodes:
        deployment.put(node, File(CONFIG, b'{"name": "x"}'))
    equip(deployment)
    for node in deployment.nodes:
        config = json.loads(deployment.host(node).get(node.file(CONFIG)))
        has_switch = node.role in ("replica", "gateway", "environment", "mobile")
        assert config == {"name": "x"} | ({"switch": SWITCH} if has_switch else {})
        assert deployment.programs.get(node.name) == (
            f"nodes.switch.{node.role}" if has_switch else None
        )
    assert kinds()["process.crash"].mechanisms[0].equip is None
