"""Bringing hosts back to a clean state, whatever happened before; needs no run and no plan.

Clean is: nothing armed waits, no unit of ours runs, no process runs from our environment, no link
rule or filter of ours stands. Each step may be repeated; afterwards the host is looked at again,
and what is still there is named. Keys, the environment and the files of the last run stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from testbed.care.dead_man import Armed, armed, fire
from testbed.fleet import Tell
from testbed.hosts.port import Host, HostFault

__all__ = ["TABLE_PREFIX", "Leftover", "leftover", "remove_all", "restore"]

TABLE_PREFIX = "testbed"
"""Filter tables of ours begin so; queueing disciplines of ours have a handle below 7b00:."""

STOPS_AT_ONCE_MAX = 8

# Only what carries our mark is touched: tables named testbed..., disciplines with handle 7b..:.
_RULES = """
PATH=$PATH:/usr/sbin:/sbin
if [ "$(id -u)" != 0 ]; then sudo=$(command -v sudo) && sudo="$sudo -n"; fi
command -v nft >/dev/null && $sudo nft list tables 2>/dev/null |
  while read -r _ family name; do
    case $name in testbed*)
      echo "filter table $family $name"
      [ "$1" != remove ] || $sudo nft delete table "$family" "$name" ;;
    esac
  done
command -v tc >/dev/null && $sudo tc qdisc show 2>/dev/null |
  while read -r _ kind handle _ device rest; do
    case "$handle $rest" in 7b*:\\ root*)
      echo "$kind on $device"
      [ "$1" != remove ] || $sudo tc qdisc del dev "$device" root ;;
    esac
  done
:
"""
# Processes whose program is our environment's interpreter, apart from units (stopped before).
_PROCESSES = """
for place in /proc/[0-9]*; do
  words=$(tr '\\0\\n' '  ' <"$place/cmdline" 2>/dev/null) || continue
  case $words in "$1/env/bin/"*)
    echo "process ${place#/proc/}: $words" | cut -c 1-160
    [ "$2" != remove ] || kill -KILL "${place#/proc/}" ;;
  esac
done
:
"""


@dataclass(frozen=True, slots=True)
class Leftover:
    """What of ours stands on a host. `rules` and `processes` as a person reads them."""

    armed: Sequence[Armed] = ()
    units: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()

    @property
    def brief(self) -> str:
        """For a table: processes are told only where no unit explains them."""
        names = f"units {' '.join(self.units)}" if self.units else ""
        waiting = [f"armed {one.name} (in {one.left_s} s)" for one in self.armed]
        strays = [] if self.units else list(self.processes)
        return "; ".join(filter(None, [names, *waiting, *self.rules, *strays])) or "nothing"

    @property
    def lines(self) -> list[str]:
        waiting = [f"armed undo {one.name}, due in {one.left_s} s" for one in self.armed]
        return [*waiting, *(f"unit {name}" for name in self.units), *self.rules, *self.processes]


def leftover(host: Host) -> Leftover:
    """Look, change nothing."""
    return Leftover(
        armed(host),
        host.units(),
        _lines(host, _RULES, "show"),
        _lines(host, _PROCESSES, str(host.root), "show"),
    )


def restore(host: Host, tell: Tell) -> tuple[str, ...]:
    """Clean a host and verify it; answers what there was to clean.

    Raises LabFault that names what is still there.
    """
    tell("looking")
    found = leftover(host)
    problems: list[str] = []
    for one in found.armed:
        tell(f"undoing {one.name}")
        try:
            fire(host, one.name)
        except HostFault as fault:
            problems.append(str(fault))
    # Looked up again: an undo may just have started what it had stopped.
    units = host.units()
    if units:
        tell(f"stopping {len(units)} units")
        with ThreadPoolExecutor(STOPS_AT_ONCE_MAX, "stop") as pool:
            problems += filter(None, pool.map(lambda name: _stop(host, name), units))
    if found.rules:
        tell("removing link rules")
        _lines(host, _RULES, "remove")
    tell("verifying")
    _lines(host, _PROCESSES, str(host.root), "remove")
    left = leftover(host)
    if left.lines or problems:
        raise HostFault(host.name, "restore", "; ".join([*left.lines, *problems]))
    return tuple(found.lines)


def _stop(host: Host, name: str) -> str:
    """What was wrong, in words: one unit that does not end must not keep rules and others up."""
    try:
        host.stop(name)
    except HostFault as fault:
        return str(fault)
    return ""


def remove_all(host: Host) -> None:
    """Remove our directory from a host that is restored: environment, keys, files, lease."""
    root = str(host.root)
    assert root.count("/") >= 2, f"refusing to remove {root}"
    # From outside the directory that goes away, in which commands otherwise run.
    host.run(["sh", "-c", 'cd / && rm -rf -- "$1"', "remove", root])


def _lines(host: Host, script: str, *arguments: str) -> tuple[str, ...]:
    return tuple(host.run(["sh", "-c", script, "restore", *arguments]).stdout.splitlines())
