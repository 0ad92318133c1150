"""All files about a run: manifest, schedule, events, faults, attacks.

They are read once, and leniently: a torn log of a killed process, or a run that was cut short, is
still evidence. Lines that could not be read are counted in `unreadable`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Set
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.schedule import Phase, Schedule, Trial
from testbed.checks.conditions import ClockLine, ConditionLine, EnergyLine, unfit
from testbed.checks.logs import (
    AttackLine,
    BrokerLine,
    FaultLine,
    LogEvent,
    RunLine,
    SerialFrame,
    read_events,
    read_lines,
)
from testbed.checks.records import Chain, read_chain
from testbed.errors import ConfigurationError

__all__ = ["BrokerRefusal", "Evidence", "broker_refusals", "genesis_of", "schedule_of"]

REFUSED = "refused: "  # a refusal in a broker's log begins so
_UNNAMED = ("?", "<unknown>")
ORCHESTRATOR_LOGS = frozenset({"run", "faults", "attacks", "clock", "conditions", "energy"})

E = TypeVar("E", bound=LogEvent)
T = TypeVar("T", bound=msgspec.Struct)


class BrokerRefusal(NamedTuple):
    """`t` is the wall clock in ns. `sender` is an address before the login, and a client id after
    it. Mosquitto does not always say whose connection it ends; such a refusal may be anybody's."""

    t: int
    reason: str
    sender: str

    def may_be(self, senders: Collection[str]) -> bool:
        """Whether it may be of one of these."""
        return self.sender in senders or self.sender in _UNNAMED


def broker_refusals(log: Path) -> Iterator[BrokerRefusal]:
    """Each refusal that a broker logged."""
    for line in read_lines(log, BrokerLine)[0]:
        if line.event.startswith(REFUSED):
            reason, _, rest = line.event.removeprefix(REFUSED).partition(" by ")
            yield BrokerRefusal(round(line.t_s * 1e9), reason, rest.partition(" ")[0])


class Evidence:
    """The files of one run. Raises ConfigurationError if the manifest or an input is not there:
    then the run never began."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.manifest = run.bundle.manifest
        whole = schedule_of(run.bundle)
        self.schedule = whole.part(run.entry.index)
        self.expect = whole.expect
        self.unreadable: Counter[str] = Counter()
        self.run_log = self._log("run.jsonl", RunLine)
        self.faults = self._log("faults.jsonl", FaultLine)
        self.attacks = self._log("attacks.jsonl", AttackLine)
        self.clocks = self._log("clock.jsonl", ClockLine)
        self.conditions = self._log("conditions.jsonl", ConditionLine)
        self.energy = self._log("energy.jsonl", EnergyLine)
        self._events = self._read_events()

    @cached_property
    def start_ns(self) -> int | None:
        """Wall time of the schedule's start; None if the run never started."""
        return next((line.start_ns for line in self.run_log if line.what == "start"), None)

    @property
    def completed(self) -> bool:
        """Whether all phases were completed."""
        return any(line.what == "end" for line in self.run_log)

    @cached_property
    def genesis(self) -> Genesis:
        """The genesis of the run's chain. Raises ConfigurationError."""
        return genesis_of(self.run)

    @cached_property
    def trial(self) -> Trial:
        return self.schedule.only

    @cached_property
    def unfit(self) -> tuple[str, ...]:
        """Why this run's figures do not count: hosts that were not fit during the run."""
        disturbed = {what for event in self.trial.events for what in event.disturbs}
        return unfit(self.conditions, self.clocks, disturbed)

    @cached_property
    def liars(self) -> frozenset[str]:
        """Replicas that the campaign made lie at some time."""
        return self._lied(_lies(self.trial))

    @cached_property
    def unhealed(self) -> frozenset[str]:
        """Replicas that lied to the end: what they store proves nothing."""
        healed = {line.event for line in self.faults if line.step == "healed"}
        return self._lied(_lies(self.trial) - healed)

    def _lied(self, events: Set[str]) -> frozenset[str]:
        return frozenset(
            name for line in self.faults if line.event in events for name in line.impaired
        )

    @property
    def ledgers(self) -> list[Path]:
        """The collected databases: first those of replicas that never lied, then the others; each
        in the order of names. A replica that was healed is judged like the others: only what it
        sent was forged, and its file is verified from the genesis anyway."""
        judged = [path for path in self.run.ledgers if path.stem not in self.unhealed]
        return sorted(judged, key=lambda path: (path.stem in self.liars, path.name))

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """What the judgement needs and does not have: files, and what was pruned from ledgers."""
        pruned = [entry.height for entry in self.longest.entries if entry.pruned]
        if not pruned:
            return self.uncollected
        what = f"payload and signature of {len(pruned)} records, pruned up to height {pruned[-1]}"
        return (*self.uncollected, what)

    @cached_property
    def uncollected(self) -> tuple[str, ...]:
        """Files that were not collected, although the judgement needs them. A missing ledger may
        hold a fork; only devices say which receipts they hold; only replicas say when they executed
        a block."""
        wanted = len(self.schedule.replicas) - len(self.unhealed)
        # Two files of one replica's ledger count as one.
        whose = {each.name if each.replica is None else each.replica for each in self.chains}
        lacking = wanted - len(whose)
        ledgers = [f"{lacking} of {wanted} ledgers"] if lacking > 0 else []
        devices = [each.name for each in self.trial.devices if each.role != "board"]
        logs = (f"the log of {name}" for name in (*self.silent, *self._lack(devices)))
        return (*ledgers, *logs)

    @cached_property
    def silent(self) -> tuple[str, ...]:
        """Replicas with a ledger but without a log: it is not known when they executed a block."""
        return self._lack(path.stem for path in self.ledgers)

    def _lack(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names without a log, or with an empty one: a process that ran logged at least its
        start."""
        logs = self.run.raw.glob("*.jsonl")
        there = {path.stem for path in logs if path.stat().st_size}
        return tuple(name for name in names if name not in there)

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """What `ledgers` contain."""
        return tuple(read_chain(path) for path in self.ledgers)

    @cached_property
    def longest(self) -> Chain:
        """The longest chain: the reference if replicas agree (`properties` says whether they
        do)."""
        nothing = Chain(name="", heads=(), entries=())
        return max(self.chains, key=lambda chain: chain.height, default=nothing)

    @property
    def idle(self) -> bool:
        """Whether devices should have been admitted, but no request took effect."""
        expected = any(device.enrol_at_ms is not None for device in self.trial.devices)
        return expected and not any(entry.took_effect for entry in self.longest.entries)

    def events(self, kind: type[E]) -> Iterator[E]:
        """The events of one type, of all processes, in the order of their wall clocks."""
        return (event for event in self._events if isinstance(event, kind))

    @cached_property
    def refused_at_broker(self) -> tuple[BrokerRefusal, ...]:
        """Each refusal that a broker logged, in order. A broker logs some hundred, then one a
        second."""
        logs = sorted((self.run.raw / "log").glob("*.log"))
        return tuple(sorted(each for path in logs for each in broker_refusals(path)))

    def serial(self, board: str) -> list[SerialFrame]:
        """The frames on a board's line."""
        return self._log(f"serial/{board}.log", SerialFrame)

    def phase_at(self, t_ns: int) -> Phase | None:
        """The phase at a wall time; None outside of all phases."""
        at_ms = self.at_ms(t_ns)
        found = (each for each in self.schedule.phases if each.start_ms <= at_ms < each.end_ms)
        return None if self.start_ns is None else next(found, None)

    def at_ms(self, t_ns: int) -> float:
        """Milliseconds from the start of the schedule."""
        return (t_ns - (self.start_ns or 0)) / 1e6

    def _log(self, name: str, kind: type[T]) -> list[T]:
        path = self.run.raw / name
        lines, unreadable = read_lines(path, kind)
        self.unreadable[name] += unreadable
        return lines

    def _read_events(self) -> list[LogEvent]:
        found: list[LogEvent] = []
        for path in sorted(self.run.raw.glob("*.jsonl")):
            if path.stem not in ORCHESTRATOR_LOGS:
                events, unreadable = read_events(path)
                self.unreadable[path.name] += unreadable
                found += events
        return sorted(found, key=lambda event: event.t)


def _lies(trial: Trial) -> frozenset[str]:
    """The events that make replicas lie."""
    return frozenset(event.id for event in trial.events if event.lies)


def schedule_of(bundle: Bundle) -> Schedule:
    """What was to happen. Its runs are those of the manifest: none was left out, and none is there
    twice. Raises ConfigurationError."""
    schedule = Schedule.from_json(bundle.read("inputs/schedule.json"))
    planned = [(each.index, each.trial, each.arm) for each in schedule.runs]
    if planned != [(each.index, each.trial, each.arm) for each in bundle.manifest.runs]:
        raise ConfigurationError(
            f"{bundle.path}: manifest.json and inputs/schedule.json have different runs; get both "
            "from where the campaign ran"
        )
    return schedule


def genesis_of(run: RunFolder) -> Genesis:
    """The genesis that a run's network was made from. Raises ConfigurationError."""
    try:
        return Genesis.decode(run.read("genesis.json"))
    except PeerFault as error:
        raise ConfigurationError(
            f"{run.path}/genesis.json: {error} (a run of the baseline has no chain)"
        ) from error
