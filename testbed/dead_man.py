"""Undoing on the host itself: what happens there when nobody is left to undo it from here.

A fault arms its undo before it is applied and disarms it after it was healed by hand. If this
program, its machine or the network dies in between, the host runs the undo when its time has come.
`testbed restore` runs at once whatever is still armed. Elsewhere: what each fault's undo is.

An armed undo is a directory `undo/<name>` with the command and its input, and a process that sleeps
beside it. Whoever renames the directory away owns it, so it happens exactly once: by the timer, by
`fire`, or (disarmed) never. A reboot loses the sleeper, not the directory: then it is overdue until
`restore`; what a reboot itself undoes (rules, links) is undone, and services come back by it.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from testbed.errors import LabFault
from testbed.hosts.port import Host, HostFault, NodeCommand

__all__ = ["UNDO_S_MAX", "Armed", "arm", "armed", "disarm", "fire"]

UNDO_S_MAX = 60.0
"""How long an undo may take."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

# $1 name, $2 seconds. The command stands in undo/.new-$1 already. The sleeper is in a session of
# its own and holds none of our streams, so neither a hang-up nor the end of the connection ends it.
_ARM = """
old=$(cat "undo/$1/pid" 2>/dev/null) && kill -KILL -- "-$old" 2>/dev/null
set -e
rm -rf "undo/$1"
echo "$(( $(date +%s) + $2 ))" >"undo/.new-$1/due"
mv "undo/.new-$1" "undo/$1"
setsid sh -c '
  sleep "$2"
  mv "undo/$1" "undo/.fired-$1" 2>/dev/null || exit 0
  sh "undo/.fired-$1/run" <"undo/.fired-$1/input" >"log/undo-$1.log" 2>&1 || exit 1
  rm -rf "undo/.fired-$1"
' undo "$1" "$2" </dev/null >/dev/null 2>&1 &
echo $! >"undo/$1/pid"
"""
# An undo that has begun is waited for, so that what is done after disarming is done last.
_DISARM = """
if mv "undo/$1" "undo/.off-$1" 2>/dev/null; then
  pid=$(cat "undo/.off-$1/pid" 2>/dev/null) && kill -KILL -- "-$pid" 2>/dev/null
  rm -rf "undo/.off-$1"
fi
n=0
while [ -e "undo/.fired-$1" ] && [ "$n" -lt "$2" ]; do sleep 0.1; n=$((n + 1)); done
[ ! -e "undo/.fired-$1" ]
"""
_FIRE = """
if mv "undo/$1" "undo/.fired-$1" 2>/dev/null; then
  pid=$(cat "undo/.fired-$1/pid" 2>/dev/null) && kill -KILL -- "-$pid" 2>/dev/null
fi
[ -e "undo/.fired-$1" ] || exit 0
sh "undo/.fired-$1/run" <"undo/.fired-$1/input" && rm -rf "undo/.fired-$1"
"""
_LIST = """
now=$(date +%s)
for place in undo/* undo/.fired-*; do
  [ -e "$place/run" ] || continue
  name=${place#undo/}; name=${name#.fired-}
  echo "$name $(( $(cat "$place/due") - now ))"
done
"""


@dataclass(frozen=True, slots=True)
class Armed:
    """An undo that waits on a host. `left_s` is negative when it is overdue."""

    name: str
    left_s: int


def arm(host: Host, name: str, after_s: float, undo: NodeCommand) -> None:
    """In `after_s` seconds the host itself runs `undo`, unless disarmed before. Replaces an older
    one of this name. Raises LabFault: then the fault must not be applied.
    """
    assert _NAME.fullmatch(name), f"name of an undo {name!r}: use a-z, 0-9, . and -"
    root = str(host.root)
    script = f"cd {shlex.quote(root)} && exec {shlex.join(undo.argv)}\n"
    host.put(undo.input, f"undo/.new-{name}/input", 0o600)
    host.put(script.encode(), f"undo/.new-{name}/run", 0o600)
    host.run(["mkdir", "-p", "log"])
    host.run(["sh", "-c", _ARM, "arm", name, str(max(1, math.ceil(after_s)))])


def disarm(host: Host, name: str) -> None:
    """It will not happen any more; one that has begun is over when this returns. Repeatable."""
    result = host.run(
        ["sh", "-c", _DISARM, "disarm", name, str(round(UNDO_S_MAX * 10))],
        timeout_s=UNDO_S_MAX + 10,
        check=False,
    )
    if result.exit_code != 0:
        raise HostFault(host.name, f"disarm {name}", "its undo is still at work", "testbed restore")


def fire(host: Host, name: str) -> None:
    """Run it now instead of later. Nothing if it is not armed; LabFault if it does not succeed."""
    argv = ["sh", "-c", _FIRE, "fire", name]
    result = host.run(argv, timeout_s=UNDO_S_MAX, check=False)
    if result.exit_code != 0:
        said = (result.stderr or result.stdout).strip()[-500:]
        raise HostFault(host.name, f"undo {name}", said or f"exit code {result.exit_code}")


def armed(host: Host) -> Sequence[Armed]:
    """What waits on a host now."""
    lines = host.run(["sh", "-c", _LIST, "armed"]).stdout.splitlines()
    try:
        return [Armed(line.split()[0], int(line.split()[1])) for line in lines]
    except (IndexError, ValueError) as error:
        raise LabFault(f"{host.name}: list undos: strange answer {json.dumps(lines)}") from error
