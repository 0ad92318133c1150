"""Undoing on the host itself: what happens there when nobody is left to undo it from here.

A fault arms its undo before it is applied and disarms it after it was healed by hand. If this
program, its machine or the network dies in between, the host runs the undo when its time has come.
`testbed restore` runs at once whatever is still armed. Elsewhere: what each fault's undo is.

An armed undo is a directory `undo/<name>` with the command and its input, and a process that sleeps
beside it. Whoever renames the directory away owns it, so it happens exactly once: by the timer, by
`fire`, or (disarmed) never.

A reboot or power cut undoes by itself what stands in the kernel (rules, links), and loses the
sleeper but not the directory, which is synced. `wake` puts a new sleeper beside each directory of
another boot, for the time that is left and never longer than it was armed for, since a Raspberry
Pi's clock starts in the past. It is called at every contact (`doctor`, `run`, `restore`), and by
the host itself at boot where a supervisor is (`at_boot`). An undo may so be begun twice when power
is cut in its middle: undos are repeatable.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from testbed.errors import LabFault
from testbed.fleet import HOSTS_AT_ONCE_MAX
from testbed.hosts.port import Host, HostFault, NodeCommand, Unit

__all__ = [
    "BOOT_UNIT",
    "UNDO_S_MAX",
    "Armed",
    "arm",
    "armed",
    "at_boot",
    "disarm",
    "fire",
    "survives_restarts",
    "wake",
]

UNDO_S_MAX = 60.0
"""How long an undo may take."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")

BOOT_UNIT = "undo"
"""The unit that wakes undos when a host starts."""

# Kills the sleeper of directory $1, unless its process id is of an earlier boot: then it may be
# anybody's by now. Debian's sh (dash) takes no `--` after `kill -KILL`, only after `kill -s KILL`.
_KILL = """
boot=$(cat /proc/sys/kernel/random/boot_id)
kill_sleeper() {
  [ "$(cat "$1/boot" 2>/dev/null)" = "$boot" ] || return 0
  pid=$(cat "$1/pid" 2>/dev/null) && kill -s KILL -- "-$pid" 2>/dev/null
  return 0
}
"""
# In a session of its own and with none of our streams, so neither a hang-up nor the end of the
# connection ends it. $1 name, $2 seconds, $3 "again" if it had begun when power was cut.
_SLEEP = """
begin_sleep() {
  setsid sh -c '
    sleep "$2"
    mv "undo/$1" "undo/.fired-$1" 2>/dev/null || [ "$3" = again ] || exit 0
    sh "undo/.fired-$1/run" <"undo/.fired-$1/input" >"log/undo-$1.log" 2>&1 || exit 1
    rm -rf "undo/.fired-$1"
  ' undo "$1" "$2" "$3" </dev/null >/dev/null 2>&1 &
  # Until it leads its session it may end with us.
  n=0
  until [ "$(cut -d " " -f 6 "/proc/$!/stat")" = "$!" ]; do
    n=$((n + 1))
    [ "$n" -le 250 ] || return 1
    sleep 0.02
  done
}
"""
# $1 name, $2 seconds. The command stands in undo/.new-$1 already. One of this name that had begun
# and did not succeed goes too: the new one could not take its place when its time has come.
_ARM = f"""{_KILL}{_SLEEP}
kill_sleeper "undo/$1"
kill_sleeper "undo/.fired-$1"
set -e
rm -rf "undo/$1" "undo/.fired-$1"
echo "$2" >"undo/.new-$1/for"
echo "$(( $(date +%s) + $2 ))" >"undo/.new-$1/due"
echo "$boot" >"undo/.new-$1/boot"
mv "undo/.new-$1" "undo/$1"
sync "undo/$1/for" "undo/$1/due" "undo/$1/boot" "undo/$1" undo
begin_sleep "$1" "$2" once
# On a slow machine its time may have come, and its directory be gone.
echo $! >"undo/$1/pid" || [ ! -e "undo/$1" ]
"""
# Prints what it woke. Two at once may both wake one: whoever renames its directory first does it.
_WAKE = f"""{_KILL}{_SLEEP}
for place in undo/* undo/.fired-*; do
  [ -e "$place/run" ] || continue
  # One that is just being finished may lose its files under our eyes.
  was=$(cat "$place/boot" 2>/dev/null) && due=$(cat "$place/due" 2>/dev/null) || continue
  long=$(cat "$place/for" 2>/dev/null) && [ "$was" != "$boot" ] || continue
  name=${{place#undo/}}; name=${{name#.fired-}}
  left=$((due - $(date +%s)))
  [ "$left" -ge 0 ] || left=0
  [ "$left" -le "$long" ] || left=$long
  echo "$boot" >"$place/boot"
  begun=again; [ ! -e "undo/$name" ] || begun=once
  begin_sleep "$name" "$left" "$begun"
  echo $! >"$place/pid"
  echo "$name $left"
done
"""
# An undo that has begun is waited for, so that what is done after disarming is done last.
# What an earlier one that was cut off left goes first: `mv` would else move into it.
_DISARM = f"""{_KILL}
rm -rf "undo/.off-$1"
if mv "undo/$1" "undo/.off-$1" 2>/dev/null; then
  kill_sleeper "undo/.off-$1"
  rm -rf "undo/.off-$1"
fi
n=0
while [ -e "undo/.fired-$1" ] && [ "$n" -lt "$2" ]; do sleep 0.1; n=$((n + 1)); done
[ ! -e "undo/.fired-$1" ]
"""
_FIRE = f"""{_KILL}
if mv "undo/$1" "undo/.fired-$1" 2>/dev/null; then
  kill_sleeper "undo/.fired-$1"
fi
[ -e "undo/.fired-$1" ] || exit 0
sh "undo/.fired-$1/run" <"undo/.fired-$1/input" && rm -rf "undo/.fired-$1"
"""
_LIST = """
now=$(date +%s)
for place in undo/* undo/.fired-*; do
  [ -e "$place/run" ] || continue
  due=$(cat "$place/due" 2>/dev/null) || continue
  name=${place#undo/}; name=${name#.fired-}
  echo "$name $((due - now))"
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


def wake(host: Host) -> Sequence[Armed]:
    """Undos that a restart of the host kept waiting go on; answers those. Overdue ones happen now.
    Changes nothing else: an undo whose sleeper is alive, and a running fault, are left alone.
    """
    return _parse(host, "wake undos", host.run(["sh", "-c", _WAKE, "wake"]).stdout)


def at_boot(host: Host) -> Unit:
    """What wakes a host's undos when it starts: a unit that is over at once unless one waits.

    With systemd it starts by itself; without, our supervisor brings it with the next unit.
    """
    script = f"cd {shlex.quote(str(host.root))} || exit 1\n{_WAKE}\nwait\n"
    return Unit(BOOT_UNIT, ("/bin/sh", "-c", script), restart=False, hardened=False)


@contextmanager
def survives_restarts(hosts: Iterable[Host]) -> Iterator[None]:
    """While it lasts, these hosts wake their undos by themselves when they start."""
    everyone = list(hosts)
    with ThreadPoolExecutor(HOSTS_AT_ONCE_MAX, "at-boot") as pool:
        list(pool.map(lambda host: host.start(at_boot(host)), everyone))
        try:
            yield
        finally:
            list(pool.map(_stop_waking, everyone))


def _stop_waking(host: Host) -> None:
    with suppress(HostFault):  # `restore` does it, when the host is back
        host.stop(BOOT_UNIT)


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
    return _parse(host, "list undos", host.run(["sh", "-c", _LIST, "armed"]).stdout)


def _parse(host: Host, action: str, said: str) -> Sequence[Armed]:
    try:
        return [Armed(*_words(line)) for line in said.splitlines()]
    except ValueError as error:
        raise LabFault(f"{host.name}: {action}: strange answer {json.dumps(said[:500])}") from error


def _words(line: str) -> tuple[str, int]:
    name, left_s = line.split()
    return name, int(left_s)
