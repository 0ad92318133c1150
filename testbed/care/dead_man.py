"""A host undoes a fault by itself when the orchestrator is gone.

A fault arms its undo before it is applied and disarms it after it was healed. If this program, its
machine or the network dies in between, the host runs the undo when its time is over. `testbed
restore` runs every armed undo at once. Each fault defines its own undo.

An armed undo is a directory `undo/<name>` on the host, with the command and its input, and a
process that sleeps. The process that renames the directory owns the undo. So the undo runs once (by
the timer or by `fire`), or never if it was disarmed. The program on the host is `dead_man.sh`.

A power cut ends the sleeping process; the directory is synced and stays. `wake` starts a new
sleeper for each directory of an earlier boot, for the time that is left. A Raspberry Pi's clock may
start in the past, so this time is limited to the time for which the undo was armed. `doctor`, `run`
and `restore` call `wake`, and the host itself calls it at boot (`at_boot`). If power is cut while
an undo runs, it is run again: undos are repeatable.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from testbed.errors import LabFault
from testbed.fleet import at_once
from testbed.hosts.port import Host, HostFault, NodeCommand, Unit
from testbed.programs import shell

__all__ = ["UNDO_S_MAX", "Armed", "arm", "armed", "disarm", "fire", "survives_restarts", "wake"]

UNDO_S_MAX = 60.0
"""How long an undo may take, on a host that is not slow."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

BOOT_UNIT = "undo"
"""The unit that wakes undos when a host starts."""

_PROGRAM = "care/dead_man.sh"


@dataclass(frozen=True, slots=True)
class Armed:
    """An undo that waits on a host. `left_s` is negative when it is overdue."""

    name: str
    left_s: int


def arm(host: Host, name: str, after_s: float, undo: NodeCommand) -> None:
    """Make the host run `undo` in `after_s` seconds, unless it is disarmed before. Replaces an
    older undo of this name. If it raises LabFault, the fault must not be applied.
    """
    assert _NAME.fullmatch(name), f"name of an undo {name!r}: use a-z, 0-9, . and -"
    root = str(host.root)
    script = f"cd {shlex.quote(root)} && exec {shlex.join(undo.argv)}\n"
    host.put(undo.input, f"undo/.new-{name}/input", 0o600)
    host.put(script.encode(), f"undo/.new-{name}/run", 0o600)
    host.run(["mkdir", "-p", "log"])
    host.run(shell(_PROGRAM, "arm", name, str(max(1, math.ceil(after_s)))))


def wake(host: Host) -> Sequence[Armed]:
    """Go on with undos that a restart of the host interrupted, and return them. Overdue ones run
    now. An undo whose sleeper is alive is left alone, and so is a running fault.
    """
    return _parse(host, "wake undos", host.run(shell(_PROGRAM, "wake")).stdout)


def at_boot() -> Unit:
    """The unit that wakes a host's undos when the host starts. It ends at once if no undo waits."""
    return Unit(BOOT_UNIT, tuple(shell(_PROGRAM, "boot")), restart=False, hardened=False)


@contextmanager
def survives_restarts(hosts: Iterable[Host]) -> Iterator[None]:
    """Within the `with` block, these hosts wake their undos by themselves at boot."""
    everyone = list(hosts)
    at_once(lambda host: host.start(at_boot()), everyone)
    try:
        yield
    finally:
        at_once(_stop_waking, everyone)


def _stop_waking(host: Host) -> None:
    with suppress(HostFault):  # `restore` removes it when the host is back
        host.stop(BOOT_UNIT)


def disarm(host: Host, name: str) -> None:
    """Cancel the undo. If it has begun, wait until it is over. Repeatable."""
    tenths = round(UNDO_S_MAX * host.slowness * 10)
    result = host.run(
        shell(_PROGRAM, "disarm", name, str(tenths)),
        timeout_s=UNDO_S_MAX + 10,
        check=False,
    )
    if result.exit_code != 0:
        raise HostFault(
            host.name, f"disarm {name}", "its undo is still at work", "testbed restore -i FILE"
        )


def fire(host: Host, name: str) -> None:
    """Run an armed undo now. Does nothing if it is not armed; raises LabFault if it fails."""
    result = host.run(shell(_PROGRAM, "fire", name), timeout_s=UNDO_S_MAX, check=False)
    if result.exit_code != 0:
        said = (result.stderr or result.stdout).strip()[-500:]
        raise HostFault(host.name, f"undo {name}", said or f"exit code {result.exit_code}")


def armed(host: Host) -> Sequence[Armed]:
    """The undos that are armed on a host."""
    return _parse(host, "list undos", host.run(shell(_PROGRAM, "list")).stdout)


def _parse(host: Host, action: str, said: str) -> Sequence[Armed]:
    try:
        return [Armed(name, int(left_s)) for name, left_s in map(str.split, said.splitlines())]
    except ValueError as error:
        raise LabFault(f"{host.name}: {action}: strange answer {json.dumps(said[:500])}") from error
