"""The resources that processes used, and the state of their hosts: from the events `usage`,
raw/conditions.jsonl and raw/energy.jsonl.

`testbed.checks.conditions` judges whether a host was fit; here its state is only shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from testbed.care.conditions import THROTTLED_SINCE_START, throttled_words
from testbed.checks.conditions import ClockLine, ConditionLine, EnergyLine
from testbed.checks.evidence import Evidence
from testbed.checks.logs import Started, Usage
from testbed.grouped import grouped
from testbed.report.columns import Table, table

__all__ = ["EnergyRow", "HostRow", "Machines", "ProcessRow", "machines_of", "machines_tables"]


class ProcessRow(msgspec.Struct, frozen=True, kw_only=True):
    """One process, from its first start to its last end. `traffic` has messages and bytes by
    (direction, peer, kind). Only replicas count traffic, signatures and syncs."""

    process: str
    lives: int
    cpu_s: float
    rss_max_mb: float
    signatures_made: int
    signatures_checked: int
    syncs: int
    syncs_s: float
    traffic: dict[tuple[str, str, str], tuple[int, int]]

    @property
    def sync_ms(self) -> float | None:
        """The mean of one sync."""
        return self.syncs_s / self.syncs * 1000 if self.syncs else None

    def moved(self, direction: str) -> tuple[int, float]:
        """Messages, and MB."""
        found = [each for key, each in self.traffic.items() if key[0] == direction]
        return sum(count for count, _ in found), sum(size for _, size in found) / 1e6


class HostRow(msgspec.Struct, frozen=True, kw_only=True):
    """One watched host. None: it has no means to know."""

    host: str
    temperature_max_c: float | None
    throttled: tuple[str, ...] | None
    undervoltage: bool | None
    cpu_min_mhz: float | None
    memory_min_mb: int | None
    disk_min_mb: int
    clock_bound_max_ms: float | None


class EnergyRow(msgspec.Struct, frozen=True, kw_only=True):
    """The energy of one host between the first and the last reading of its meter. `joules` is the
    sum over neighbouring readings of their mean power times the time between them; gaps are
    bridged."""

    host: str
    readings: int
    problems: int
    mean_w: float | None
    most_w: float | None
    joules: float | None


class Machines(msgspec.Struct, frozen=True, kw_only=True):
    processes: tuple[ProcessRow, ...]
    hosts: tuple[HostRow, ...]
    energy: tuple[EnergyRow, ...]


def machines_of(evidence: Evidence) -> Machines:
    used = grouped(evidence.events(Usage), lambda event: event.node)
    watched = grouped(evidence.conditions, lambda line: line.host)
    metered = grouped(evidence.energy, lambda line: line.host)
    started = evidence.events(Started)
    names = {str(each.replica): each.node for each in started if each.replica is not None}
    return Machines(
        processes=tuple(_process(name, told, names) for name, told in sorted(used.items())),
        hosts=tuple(_host(name, lines, evidence.clocks) for name, lines in sorted(watched.items())),
        energy=tuple(_energy(name, lines) for name, lines in sorted(metered.items())),
    )


def _process(name: str, events: Sequence[Usage], names: Mapping[str, str]) -> ProcessRow:
    """Counts begin again at each start, so the last event before each end counts. `names` of
    replicas, by number."""
    lasts = [
        event
        for event, after in zip(events, [*events[1:], None], strict=True)
        if after is None or after.cpu_s < event.cpu_s
    ]
    traffic: dict[tuple[str, str, str], tuple[int, int]] = defaultdict(lambda: (0, 0))
    for life in lasts:
        for direction, counted in (("sent", life.sent), ("received", life.received)):
            for key, (count, size) in counted.items():
                party, _, kind = key.rpartition("/")
                at = direction, names.get(party, party), kind
                before = traffic[at]
                traffic[at] = (before[0] + count, before[1] + size)
    return ProcessRow(
        process=name,
        lives=len(lasts),
        cpu_s=round(sum(each.cpu_s for each in lasts), 3),
        rss_max_mb=max(each.rss_max_mb for each in events),
        signatures_made=sum(each.signatures_made for each in lasts),
        signatures_checked=sum(each.signatures_checked for each in lasts),
        syncs=sum(each.syncs for each in lasts),
        syncs_s=round(sum(each.syncs_s for each in lasts), 4),
        traffic=dict(sorted(traffic.items())),
    )


def _host(name: str, lines: Sequence[ConditionLine], clocks: Iterable[ClockLine]) -> HostRow:
    seen = [line.seen for line in lines]
    bits = [each.throttled for each in seen if each.throttled is not None]
    alarms = [each.undervoltage for each in seen if each.undervoltage is not None]
    bounds = [line.bound_ms for line in clocks if line.host == name and line.bound_ms is not None]
    # Bits from before the first look do not belong to this run.
    came = [now | (now & ~bits[0]) >> THROTTLED_SINCE_START for now in bits]
    words = dict.fromkeys(word for each in came for word in throttled_words(each))
    speeds = [each.cpu_khz / 1000 for each in seen if each.cpu_khz is not None]
    memory = [each.memory_available_mb for each in seen if each.memory_available_mb is not None]
    heat = [each.temperature_c for each in seen if each.temperature_c is not None]
    return HostRow(
        host=name,
        temperature_max_c=max(heat, default=None),
        throttled=tuple(words) if bits else None,
        undervoltage=any(alarms) if alarms else None,
        cpu_min_mhz=min(speeds, default=None),
        memory_min_mb=min(memory, default=None),
        disk_min_mb=min(each.disk_free_mb for each in seen),
        clock_bound_max_ms=max(bounds, default=None),
    )


def _energy(name: str, lines: Sequence[EnergyLine]) -> EnergyRow:
    read = [(line.t / 1e9, line.watts) for line in lines if line.watts is not None]
    joules = sum((b_s - a_s) * (a_w + b_w) / 2 for (a_s, a_w), (b_s, b_w) in pairwise(read))
    took_s = read[-1][0] - read[0][0] if read else 0.0
    return EnergyRow(
        host=name,
        readings=len(read),
        problems=len(lines) - len(read),
        mean_w=round(joules / took_s, 3) if took_s > 0 else None,
        most_w=max((watts for _, watts in read), default=None),
        joules=round(joules, 1) if took_s > 0 else None,
    )


def machines_tables(machines: Machines) -> tuple[Table, ...]:
    """`usage` and `traffic` of processes that were traced, `energy` of hosts with a meter; none
    without."""
    return (*_of_processes(machines), *_of_meters(machines))


def _of_meters(machines: Machines) -> tuple[Table, ...]:
    if not machines.energy:
        return ()
    return (
        table(
            "energy",
            machines.energy,
            {
                "host": ("s", lambda each: each.host),
                "readings": ("i", lambda each: each.readings),
                "problems": ("i", lambda each: each.problems),
                "mean_w": ("f", lambda each: each.mean_w),
                "most_w": ("f", lambda each: each.most_w),
                "joules": ("f", lambda each: each.joules),
            },
        ),
    )


def _of_processes(machines: Machines) -> tuple[Table, ...]:
    if not machines.processes:
        return ()
    return (
        table(
            "usage",
            machines.processes,
            {
                "process": ("s", lambda each: each.process),
                "lives": ("i", lambda each: each.lives),
                "cpu_s": ("f", lambda each: each.cpu_s),
                "rss_max_mb": ("f", lambda each: each.rss_max_mb),
                "signatures_made": ("i", lambda each: each.signatures_made),
                "signatures_checked": ("i", lambda each: each.signatures_checked),
                "syncs": ("i", lambda each: each.syncs),
                "syncs_s": ("f", lambda each: each.syncs_s),
            },
        ),
        table(
            "traffic",
            _traffic(machines),
            {
                "process": ("s", lambda each: each[0]),
                "direction": ("s", lambda each: each[1]),
                "peer": ("s", lambda each: each[2]),
                "kind": ("s", lambda each: each[3]),
                "messages": ("i", lambda each: each[4]),
                "bytes": ("i", lambda each: each[5]),
            },
        ),
    )


def _traffic(machines: Machines) -> Iterator[tuple[str, str, str, str, int, int]]:
    for row in machines.processes:
        for (direction, peer, kind), (count, size) in row.traffic.items():
            yield row.process, direction, peer, kind, count, size
