"""Power is cut while a fault is on and nobody is left: the host still undoes it, once."""

from __future__ import annotations

import pytest

from testbed.care.dead_man import arm, armed, disarm, fire, survives_restarts, wake
from testbed.care.restore import leftover
from testbed.emulate.lab import EmulatedLab
from testbed.hosts.port import NodeCommand, Unit, UnitState
from testbed.hosts.ssh import SshHost
from tests.testbed.hosts_support import eventually

pytestmark = pytest.mark.lab

REPLICA = Unit("replica", ("sh", "-c", "exec sleep 600"))


def note(word: str) -> NodeCommand:
    return NodeCommand(("sh", "-c", 'read -r word; echo "$word" >>notes'), word.encode() + b"\n")


def notes(inside: SshHost) -> list[str]:
    return inside.run(["cat", "notes"], check=False).stdout.split()


def test_an_undo_that_a_power_cut_kept_waiting_goes_on_at_the_next_contact(
    one_host: EmulatedLab, pi01: SshHost
) -> None:
    """Overdue it happens at once; with time left it waits; never twice, whoever asks again."""
    arm(pi01, "overdue", 600, note("overdue"))
    arm(pi01, "later", 600, note("later"))
    one_host.power("pi01", "off")
    one_host.power("pi01", "on")
    waiting = {one.name: one.left_s for one in armed(pi01)}
    assert set(waiting) == {"overdue", "later"}, "power cuts lose sleepers, not undos"
    pi01.put(b"1\n", "undo/overdue/due")  # long ago
    assert any(one.name == "overdue" and one.left_s < 0 for one in armed(pi01))
    assert notes(pi01) == []
    assert {one.name for one in wake(pi01)} == {"overdue", "later"}
    assert wake(pi01) == [], "they are awake"
    eventually(lambda: notes(pi01) == ["overdue"])
    assert [one.name for one in armed(pi01)] == ["later"]
    fire(pi01, "later")
    assert notes(pi01) == ["overdue", "later"]
    assert armed(pi01) == []


def test_one_that_was_disarmed_after_the_power_cut_never_happens(
    one_host: EmulatedLab, pi01: SshHost
) -> None:
    """And its old process id is nobody's to kill: it may be another process's by now."""
    pi01.run(["rm", "-f", "notes"])
    arm(pi01, "heal", 600, note("healed"))
    pi01.run(["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $! >undo/heal/pid"])
    bystander = pi01.run(["cat", "undo/heal/pid"]).stdout.strip()
    pi01.put(b"another boot\n", "undo/heal/boot")
    disarm(pi01, "heal")
    assert pi01.run(["kill", "-0", bystander], check=False).exit_code == 0
    pi01.run(["kill", bystander])
    assert wake(pi01) == []
    assert notes(pi01) == []


def test_an_undo_that_power_was_cut_in_the_middle_of_is_begun_again(
    one_host: EmulatedLab, pi01: SshHost
) -> None:
    pi01.run(["rm", "-f", "notes"])
    slow = "echo begun >>notes; [ -e quick ] || exec sleep 600; echo done >>notes"
    arm(pi01, "slow", 1, NodeCommand(("sh", "-c", slow)))
    eventually(lambda: notes(pi01) == ["begun"])
    one_host.power("pi01", "cycle")
    pi01.run(["touch", "quick"])
    assert [one.name for one in wake(pi01)] == ["slow"]
    eventually(lambda: notes(pi01) == ["begun", "begun", "done"])
    eventually(lambda: armed(pi01) == [])


def test_a_clock_that_starts_in_the_past_does_not_make_it_wait_longer(pi01: SshHost) -> None:
    """A Raspberry Pi has no clock of its own: after a power cut it lives in the past a while."""
    arm(pi01, "heal", 1, note("late"))
    disarm(pi01, "heal")
    pi01.run(["sh", "-c", "mkdir -p undo/heal; echo 'echo late >>notes' >undo/heal/run"])
    for name, content in (("input", ""), ("for", "1"), ("due", "9999999999"), ("boot", "old")):
        pi01.put(f"{content}\n".encode(), f"undo/heal/{name}")
    (woken,) = wake(pi01)
    assert woken.left_s <= 1
    eventually(lambda: "late" in notes(pi01))


def test_a_held_down_process_comes_back_by_itself_and_nothing_is_left(
    one_host: EmulatedLab, pi01: SshHost
) -> None:
    """Nobody connects between the power cut and the undo but who looks."""
    with survives_restarts([pi01]):
        _hold_down(pi01)
        one_host.power("pi01", "cycle")
        eventually(lambda: pi01.status("replica").state is UnitState.ACTIVE, deadline_s=60)
        assert armed(pi01) == []
        pi01.stop("replica")
    assert leftover(pi01).lines == []


def _hold_down(inside: SshHost) -> None:
    """What `process.crash` does, up to the moment when the orchestrator is gone."""
    inside.start(REPLICA)
    start = inside.start_command(REPLICA)
    assert start is not None
    arm(inside, "start-replica", 600, start)
    inside.stop("replica")
    inside.put(b"1\n", "undo/start-replica/due")  # when the power is back its time has come
