"""Judges whether the hosts were fit during a run, from raw/conditions.jsonl and raw/clock.jsonl
alone.

`unfit` names the conditions that make a run's figures worthless: its verdict is then "invalid".
`unknown` names the values that could not be read, for the reader. Thresholds:

- power: a "now" bit of `vcgencmd get_throttled` in any reading, or a "since start" bit that
  appeared during the run; the kernel's undervoltage alarm; a growing throttling counter of a PC
  processor;
- disk: less free than `limits.disk_free_mb_min` in any reading;
- clock, against the inventory's `clock.max_error`: certainly off by more (offset minus bound),
  stepped by more while the host ran, or never known that exactly (even the best bound is wider).

A condition that a campaign disturbs on purpose (`ScheduledEvent.disturbs`) does not count against
the host. A host that did not answer is not unfit: it may have been switched off. A host that never
answered at all is unfit: it ran its processes, and nobody knows how. Temperature and memory are
shown, never judged: a host that is too hot throttles. On loopback nothing is watched
(`testbed.care.conditions.limits_of`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Annotated

import msgspec

from testbed.campaign.event import Disturbed
from testbed.care.conditions import THROTTLED_SINCE_START, Conditions, HostLimits, throttled_words
from testbed.checks.logs import Milliseconds, Whole
from testbed.grouped import grouped

__all__ = ["ClockLine", "ConditionLine", "EnergyLine", "unfit", "unknown"]

Watts = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]


class ConditionLine(msgspec.Struct, frozen=True, kw_only=True):
    """conditions.jsonl: one look at a host."""

    t: int
    host: str
    limits: HostLimits
    seen: Conditions


class ClockLine(msgspec.Struct, frozen=True, kw_only=True):
    """clock.jsonl: one reading, or the problem that there was instead."""

    t: int
    host: str
    offset_ms: Milliseconds | None = None
    bound_ms: Milliseconds | None = None
    wall_minus_monotonic_ns: Whole | None = None
    problem: str | None = None


class EnergyLine(msgspec.Struct, frozen=True, kw_only=True):
    """energy.jsonl: one reading of a host's meter, or the problem that there was instead."""

    t: int
    host: str
    watts: Watts | None = None
    total_wh: Watts | None = None
    problem: str | None = None


def unfit(
    conditions: Sequence[ConditionLine],
    clocks: Sequence[ClockLine],
    disturbed: Collection[Disturbed] = (),
) -> tuple[str, ...]:
    """Why the run does not count: one sentence for each host and problem."""
    found = [f"{host}: it was never seen: {why}" for host, why in _unseen(conditions, clocks)]
    for host, lines in grouped(conditions, lambda line: line.host).items():
        readings = [line for line in clocks if line.host == host]
        found += [f"{host}: {why}" for why in _power([line.seen for line in lines])]
        if "disk" not in disturbed:
            found += [f"{host}: {why}" for why in _disk(lines)]
        if "clock" not in disturbed:
            found += [f"{host}: {why}" for why in _clock(lines, readings)]
    return tuple(found)


def unknown(conditions: Sequence[ConditionLine]) -> tuple[str, ...]:
    """What could not be seen; one sentence names all hosts that lack the same."""
    lacks: dict[str, list[str]] = {}
    for host, lines in sorted(grouped(conditions, lambda line: line.host).items()):
        seen = [line.seen for line in lines]
        if not any(_tells_throttling(each) for each in seen):
            lacks.setdefault("whether they were throttled or short of voltage", []).append(host)
        if all(each.temperature_c is None for each in seen):
            lacks.setdefault("how hot they were", []).append(host)
    return tuple(f"not known of {', '.join(hosts)}: {what}" for what, hosts in lacks.items())


def _unseen(
    conditions: Sequence[ConditionLine], clocks: Sequence[ClockLine]
) -> Iterator[tuple[str, str]]:
    """Hosts that never answered, with the last problem. (Of this machine's own hosts only clocks
    are read, and a reading may fail now and then.)"""
    for host in sorted({line.host for line in clocks} - {line.host for line in conditions}):
        problems = [line.problem for line in clocks if line.host == host and line.problem]
        looks = sum(line.host == host and not line.problem for line in clocks)
        if problems and len(problems) >= looks:  # the clock may have answered first
            yield host, problems[-1]


def _tells_throttling(seen: Conditions) -> bool:
    known = (seen.throttled, seen.undervoltage, seen.throttle_count)
    return any(value is not None for value in known)


def _power(seen: Sequence[Conditions]) -> Iterator[str]:
    words = dict.fromkeys(w for each in seen for w in throttled_words(each.throttled or 0))
    for before, after in pairwise(seen):
        # The first reading may contain bits from before the run; a restart begins with no bit set.
        old = (before.throttled or 0) if before.boot == after.boot else 0
        came = (after.throttled or 0) & ~old
        words |= dict.fromkeys(throttled_words(came >> THROTTLED_SINCE_START))
    if any(each.undervoltage for each in seen):
        words["undervoltage"] = None
    if words:
        yield f"{', '.join(words)} during the run; use a better power supply, or cool it"
    counts = [(each.boot, each.throttle_count) for each in seen if each.throttle_count is not None]
    # The counter begins again at each boot, so readings of different boots are not compared.
    times = sum(b - a for (boot, a), (after, b) in pairwise(counts) if boot == after)
    if times > 0:
        yield f"its processor throttled {times} times during the run"


def _disk(lines: Sequence[ConditionLine]) -> Iterator[str]:
    least = min(lines, key=lambda line: line.seen.disk_free_mb - line.limits.disk_free_mb_min)
    free_mb, limit_mb = least.seen.disk_free_mb, least.limits.disk_free_mb_min
    if free_mb < limit_mb:
        yield f"only {free_mb} MB of disk were free, {limit_mb} are needed; remove files there"


def _clock(lines: Sequence[ConditionLine], readings: Sequence[ClockLine]) -> Iterator[str]:
    limit_ms = lines[0].limits.clock_error_ms_max
    known = [(r.offset_ms, r.bound_ms) for r in readings if r.offset_ms is not None and r.bound_ms]
    far = [(offset, bound) for offset, bound in known if abs(offset) - bound > limit_ms]
    if far:
        offset_ms, bound_ms = max(far, key=lambda pair: abs(pair[0]))
        yield (
            f"its clock was {offset_ms:+.2f} ms off (known to {bound_ms:.2f} ms),"
            f" at most {limit_ms:g} ms wanted"
        )
    elif known and (best_ms := min(bound for _, bound in known)) > limit_ms:
        yield (
            f"its clock was never known better than to {best_ms:.2f} ms, {limit_ms:g} ms"
            " wanted; use a wired management network, or raise clock.max_error"
        )
    for before, after in pairwise(line.seen for line in lines):
        step_ms = (after.wall_minus_monotonic_ns - before.wall_minus_monotonic_ns) / 1e6
        if before.boot == after.boot and abs(step_ms) > limit_ms:
            yield f"its clock was set by {step_ms:+.2f} ms during the run"
