"""What whole hosts suffer, on an emulated one: a full disk, a reboot, no power; and their undos."""

from __future__ import annotations

import pytest

from testbed.care.dead_man import arm, armed
from testbed.emulate.lab import EmulatedLab
from testbed.faults.guardian import Guardian
from testbed.faults.host import RebootBySystem
from testbed.hosts.port import HostFault, NodeCommand
from testbed.hosts.ssh import SshHost
from testbed.programs import shell
from tests.testbed.hosts_support import eventually

pytestmark = pytest.mark.lab

FILL = shell("faults/on_host/fill.sh", "fault-full")
ROOM = NodeCommand(("rm", "-f", "fault-full", "fault-full.rest"))


def free_kb(inside: SshHost) -> int:
    return int(inside.run(["df", "-Pk", "."]).stdout.splitlines()[1].split()[3])


def boot_of(inside: SshHost) -> str | None:
    """None while it does not answer."""
    try:
        return inside.run(["cat", "/proc/sys/kernel/random/boot_id"], timeout_s=3).stdout
    except HostFault:
        return None


def test_a_disk_is_filled_to_the_last_byte_and_the_host_itself_makes_room_again(
    pi01: SshHost,
) -> None:
    """Its undo needs no room."""
    before_kb = free_kb(pi01)
    arm(pi01, "room", 5, ROOM)
    pi01.run(FILL)
    assert free_kb(pi01) == 0 or armed(pi01) == []  # a slow machine may have undone it already
    eventually(lambda: armed(pi01) == [])
    eventually(lambda: free_kb(pi01) > before_kb // 2)
    assert pi01.run(["ls"]).stdout.split().count("fault-full") == 0


def test_a_host_restarts_in_good_order_and_is_known_by_its_boot_id(pi01: SshHost) -> None:
    before = boot_of(pi01)
    assert before is not None
    pi01.run(RebootBySystem.command, root=True, check=False)
    eventually(lambda: boot_of(pi01) not in (None, before))


def test_a_dark_host_is_switched_on_when_its_orchestrator_is_gone(
    one_host: EmulatedLab, pi01: SshHost
) -> None:
    """The end of the guardian's time stands for it; its pipe is in `test_guardian`."""
    one_host.power("pi01", "off")
    assert boot_of(pi01) is None
    guardian = Guardian(one_host.inventory, ["pi01"], 0.1)
    eventually(lambda: boot_of(pi01) is not None)
    guardian.dismiss()
