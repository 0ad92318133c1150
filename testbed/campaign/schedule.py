"""The schedule: a campaign made concrete before anything runs, for one lab and one seed.

`expand` is pure and leaves no choice open: equal campaign, lab and seed give equal schedules, and
`schedule_hash` says so. Times are whole ms from the start of a run. What is run, stored and
replayed is the schedule; the random generator is never asked again.

The one thing that cannot be known beforehand is who the primary will be. So targets may hold
`primary` and `backup(K)` (the K-th replica after it): the runner resolves them when it applies the
event and records the name. Events that overlap in time and say `primary` mean the same replica,
the one found by the first of them; see `selectors`.

How arrivals are drawn is in `arrivals`, the bound on faulty replicas in `guard`.
"""

from __future__ import annotations

import hashlib
import json
from math import ceil
from random import Random
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from inventory.model import Lab
from testbed.campaign.arrivals import Device, devices, stream
from testbed.campaign.event import Event
from testbed.campaign.file import Campaign, Fault
from testbed.campaign.guard import check_guard
from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.quantities import Duration
from testbed.campaign.selectors import Selector, resolve
from testbed.errors import ConfigurationError

__all__ = ["Event", "Phase", "Run", "Schedule", "Trial", "WorkloadPlan", "expand"]

events_max: Final = 100_000  # per schedule
sends_max: Final = 2_000_000  # per schedule
run_ms_max: Final = 24 * 3600 * 1000


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Phase(_Model):
    """One phase of every run."""

    name: str
    start_ms: int
    end_ms: int


class Trial(_Model):
    """One draw of everything random. `seed` is for what a kind itself must draw while it runs."""

    index: int
    seed: int
    events: tuple[Event, ...]
    devices: tuple[Device, ...]


class Run(_Model):
    """One run: a trial's workload, with its events or (baseline) without."""

    index: int
    trial: int
    arm: Literal["baseline", "faults"]


class WorkloadPlan(_Model):
    """What a device's `sends_ms` are, and when an unanswered one counts as lost. The arrivals
    themselves are in the trials; `rate_per_s` and `arrivals` say what they were drawn from."""

    kind: Literal["enrol+data", "enrol"]
    rate_per_s: float
    arrivals: Literal["poisson", "uniform"]
    timeout_ms: int

    @property
    def in_words(self) -> str:
        rate = f"{self.rate_per_s:g}/s {self.arrivals}"
        return f"{self.kind} {rate}, timeout {self.timeout_ms / 1000:g} s"


class Schedule(_Model):
    """Everything that will happen, in the order of `runs`.

    `replicas` are host names by replica number; `max_faulty` None means that the guard is off.
    `cooldown_ms` is how long the hosts rest between two runs.
    """

    schema_version: Literal["testbed.schedule/2"] = Field(alias="schema")
    campaign: str
    lab: str
    seed: int
    replicas: tuple[str, ...]
    f: int
    max_faulty: int | None
    dead_man_ms: int | None
    cooldown_ms: int = 0
    workload: WorkloadPlan
    phases: tuple[Phase, ...]
    trials: tuple[Trial, ...]
    runs: tuple[Run, ...]

    @property
    def run_ms(self) -> int:
        """How long one run lasts."""
        return self.phases[-1].end_ms

    def part(self, index: int) -> Schedule:
        """The schedule of one run alone."""
        (run,) = (each for each in self.runs if each.index == index)
        (trial,) = (each for each in self.trials if each.index == run.trial)
        return self.model_copy(update={"trials": (trial,), "runs": (run,)})

    @property
    def only(self) -> Trial:
        """What happens in the one run of a `part`: without events if it is a baseline."""
        (run,), (trial,) = self.runs, self.trials
        return trial if run.arm == "faults" else trial.model_copy(update={"events": ()})

    @property
    def struck(self) -> tuple[Phase, ...]:
        """The phases in which faults and attacks fall, in runs that have them; what a baseline is
        compared in."""
        names = {event.phase for trial in self.trials for event in trial.events}
        return tuple(phase for phase in self.phases if phase.name in names)

    @property
    def schedule_hash(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        return hashlib.sha256(self.canonical_json()).hexdigest()

    def canonical_json(self) -> bytes:
        """Sorted keys, no spaces, ASCII: equal schedules are equal bytes."""
        plain = self.model_dump(mode="json", by_alias=True)
        return json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes | str) -> Schedule:
        """Read back what `canonical_json` wrote. Raises ConfigurationError."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "file"
            raise ConfigurationError(
                f"not a schedule that this version reads: {where}: {first['msg']}; "
                "make one with testbed plan --out"
            ) from error


def expand(campaign: Campaign, lab: Lab, seed: int | None = None) -> Schedule:
    """The schedule of a campaign on a lab; `seed` stands in for the campaign's own.

    Raises ConfigurationError: a part that the lab lacks, more faulty replicas at once than the
    guard allows, more events than the limits.
    """
    seed = campaign.seed if seed is None else seed
    phases = _phases(campaign)
    _bounded(campaign, phases, lab)
    bound = None if campaign.guard == "none" else campaign.guard
    max_faulty = None
    if bound is not None:
        max_faulty = lab.f if bound.max_faulty == "f" else bound.max_faulty
    trials = tuple(_trial(campaign, lab, phases, seed, i) for i in range(campaign.trials.count))
    if max_faulty is not None:
        for trial in trials:
            check_guard(trial.index, trial.events, tuple(lab.replicas()), max_faulty)
    return Schedule(
        schema="testbed.schedule/2",
        campaign=campaign.campaign,
        lab=lab.lab,
        seed=seed,
        replicas=tuple(lab.replicas()),
        f=lab.f,
        max_faulty=max_faulty,
        dead_man_ms=None if bound is None else round(bound.dead_man.ms),
        cooldown_ms=round(campaign.trials.cooldown.ms) if campaign.trials.cooldown else 0,
        workload=WorkloadPlan(
            kind=campaign.workload.kind,
            rate_per_s=campaign.workload.rate.per_s,
            arrivals=campaign.workload.arrivals,
            timeout_ms=round(campaign.workload.timeout.ms),
        ),
        phases=phases,
        trials=trials,
        runs=_runs(campaign),
    )


def _phases(campaign: Campaign) -> tuple[Phase, ...]:
    phases, start_ms = [], 0
    for name, span in campaign.phases.items():
        phases.append(Phase(name=name, start_ms=start_ms, end_ms=start_ms + round(span.ms)))
        start_ms = phases[-1].end_ms
    return tuple(phases)


def _bounded(campaign: Campaign, phases: tuple[Phase, ...], lab: Lab) -> None:
    """Refuse what would be too large, before any of it is made."""
    run_ms = phases[-1].end_ms
    sends = campaign.workload.rate.per_s * run_ms / 1000 * campaign.trials.count
    if run_ms > run_ms_max:
        raise ConfigurationError("phases: a run may last 24 h at most; shorten a phase")
    if sends > sends_max:
        raise ConfigurationError(
            f"workload: about {sends:.0f} sends, at most {sends_max}; lower rate, trials or phases"
        )
    by_name = {phase.name: phase for phase in phases}
    events = campaign.trials.count * sum(
        _count(fault, _phase(campaign, fault, by_name), lab) for fault in campaign.faults
    )
    if events > events_max:
        raise ConfigurationError(
            f"faults: up to {events} events, at most {events_max}; raise every: or lower trials"
        )


def _phase(campaign: Campaign, fault: Fault, by_name: dict[str, Phase]) -> Phase:
    name = campaign.phase_of(fault)
    assert name in by_name, f"{fault.id} was not checked by load_campaign"
    return by_name[name]


def _count(fault: Fault, phase: Phase, lab: Lab) -> int:
    """How often a fault is applied at most: once, or with `every` until `until`."""
    if fault.every is None:
        return 1
    until_ms = round(fault.until.ms) if fault.until else phase.end_ms - phase.start_ms
    span_ms = until_ms - fault.at.longest_ms(lab.chain.view_timeout_ms)
    return max(1, ceil(span_ms / round(fault.every.ms)))


def _runs(campaign: Campaign) -> tuple[Run, ...]:
    """A: baseline, B: faults. ABBA turns the order round in every second trial."""
    arms: list[tuple[int, Literal["baseline", "faults"]]] = []
    for trial in range(campaign.trials.count):
        pair: list[Literal["baseline", "faults"]] = ["baseline", "faults"]
        if campaign.trials.order == "faults":
            pair = ["faults"]
        elif campaign.trials.order == "ABBA" and trial % 2 == 1:
            pair.reverse()
        arms += [(trial, arm) for arm in pair]
    return tuple(Run(index=i, trial=trial, arm=arm) for i, (trial, arm) in enumerate(arms))


def _trial(campaign: Campaign, lab: Lab, phases: tuple[Phase, ...], seed: int, index: int) -> Trial:
    by_name = {phase.name: phase for phase in phases}
    events: list[Event] = []
    for fault in campaign.faults:
        events += _occurrences(fault, _phase(campaign, fault, by_name), lab, seed, index)
    events.sort(key=lambda event: (event.at_ms, event.id))
    spans = tuple((phase.name, phase.start_ms, phase.end_ms) for phase in phases)
    return Trial(
        index=index,
        seed=stream(seed, index, "kinds").getrandbits(53),
        events=tuple(events),
        devices=devices(campaign.workload, lab, spans, seed, index),
    )


def _occurrences(fault: Fault, phase: Phase, lab: Lab, seed: int, trial: int) -> list[Event]:
    """The events of one fault: one, or with `every` as many as heal within the phase."""
    kind = kinds()[fault.do]
    every_ms = round(fault.every.ms) if fault.every else 0
    events = []
    for number in range(_count(fault, phase, lab)):
        rng = stream(seed, trial, f"fault/{fault.id}/{number}")
        name = f"{fault.id}.{number + 1}" if every_ms else fault.id
        event = _event(
            fault, kind, lab, rng, (name, phase.name, phase.start_ms + number * every_ms)
        )
        if event.at_ms + event.for_ms <= phase.end_ms:
            events.append(event)
        elif number == 0:
            raise ConfigurationError(
                f"{fault.id}: ends {(event.at_ms + event.for_ms - phase.end_ms) / 1000:g} s after "
                f"phase {phase.name}; start it earlier, shorten it or lengthen the phase"
            )
    return events


def _event(fault: Fault, kind: Kind, lab: Lab, rng: Random, place: tuple[str, str, int]) -> Event:
    """One event of a fault; `place` is its id, its phase and the ms that `at` counts from."""
    name, phase, start_ms = place
    view_timeout_ms = lab.chain.view_timeout_ms
    at_ms = start_ms + fault.at.resolve_ms(rng, view_timeout_ms)
    for_ms, params = 0, dict[str, JsonValue]()
    selectors: dict[str, Selector] = {}
    plain = fault.model_dump(mode="json", include=set(kind.params.model_fields))
    for field in kind.params.model_fields:
        value: Any = getattr(fault, field)
        if isinstance(value, Selector):
            selectors[field.rstrip("_")] = value
        elif isinstance(value, Duration):
            value_ms = value.resolve_ms(rng, view_timeout_ms)
            if field == "for_":
                for_ms = value_ms
            else:
                params[f"{field}_ms"] = value_ms
        elif field != "for_":
            params[field] = plain[field]
    return Event(
        id=name,
        fault=fault.id,
        kind=kind.name,
        category=kind.category,
        layer=kind.layer,
        phase=phase,
        at_ms=at_ms,
        for_ms=for_ms,
        targets=_targets(fault, selectors, lab, rng),
        impairs=kind.impairs,
        disturbs=kind.disturbs,
        lies=kind.lies,
        params=params,
    )


def _targets(fault: Fault, selectors: dict[str, Selector], lab: Lab, rng: Random) -> dict[str, Any]:
    beside_primary = any(selector.word == "primary" for selector in selectors.values())
    found = {}
    for key, selector in selectors.items():
        try:
            found[key] = resolve(selector, lab, rng, beside_primary=beside_primary)
        except ConfigurationError as error:
            raise ConfigurationError(f"{fault.id}: {key}: {error}") from error
    return found
