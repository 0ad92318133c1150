"""Restoring hosts on which units of ours run or are held down: by themselves, or by `restore`."""

from __future__ import annotations

import pytest

from testbed.care.dead_man import arm
from testbed.care.restore import leftover, restore
from testbed.hosts.port import HostFault, NodeCommand, Unit, UnitState
from testbed.hosts.ssh import SshHost
from tests.testbed.hosts_support import eventually

pytestmark = pytest.mark.lab


def test_a_held_down_unit_comes_back_by_itself(pi01: SshHost) -> None:
    """What `process.crash` arms: the orchestrator stops the unit and is never heard of again."""
    unit = Unit("replica", ("sleep", "600"))
    pi01.start(unit)
    start = pi01.start_command(unit)
    assert start is not None
    arm(pi01, "start-replica", 600, start)
    pi01.stop("replica")
    assert pi01.units() == ()
    pi01.run(["sh", "-c", 'pkill -x -P "$(cat undo/start-replica/pid)" sleep'])  # time is up
    eventually(lambda: pi01.status("replica").state is UnitState.ACTIVE)
    assert pi01.units() == ("replica",)


def test_restore_leaves_nothing_says_what_there_was_and_may_be_repeated(pi01: SshHost) -> None:
    pi01.start(Unit("replica", ("sleep", "600")))
    arm(pi01, "heal", 600, NodeCommand(("sh", "-c", "echo healed >>notes")))
    stray(pi01)
    found = " ".join(restore(pi01, lambda _: None))
    for part in ("heal", "unit replica", "env/bin/stray 600"):
        assert part in found
    assert pi01.get("notes") == b"healed\n", "an armed undo is run, not forgotten"
    assert leftover(pi01).lines == []
    assert restore(pi01, lambda _: None) == ()


def test_a_unit_that_cannot_be_stopped_keeps_nothing_else_from_being_cleaned(
    pi01: SshHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link rule or a stray process must not stay for its sake."""
    pi01.start(Unit("stuck", ("sleep", "600")))
    pi01.start(Unit("well", ("sleep", "600")))
    stray(pi01)

    def stop(name: str, **_: object) -> None:
        if name == "stuck":
            raise HostFault("pi01", "stop unit stuck", "it does not answer")
        SshHost.stop(pi01, name)

    with monkeypatch.context() as patched:
        patched.setattr(pi01, "stop", stop)
        with pytest.raises(HostFault, match="it does not answer"):
            restore(pi01, lambda _: None)
    assert pi01.units() == ("stuck",)
    assert not any("process" in line for line in leftover(pi01).lines)


def stray(inside: SshHost) -> None:
    """A process of our environment that no unit holds."""
    inside.run(["sh", "-c", "mkdir -p env/bin; ln -sf /bin/sleep env/bin/stray"])
    begin = f"setsid {inside.root}/env/bin/stray 600 >/dev/null 2>&1 </dev/null &"
    inside.run(["sh", "-c", begin])
    eventually(lambda: bool(leftover(inside).others))
