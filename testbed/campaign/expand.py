"""Makes a schedule from campaign, lab and seed. It is a pure function, and the schedule leaves no
choice open. The same campaign, lab and seed give the same schedule, and so the same
`schedule_hash`. `arrivals` draws the arrivals; `guard` has the bound on faulty replicas.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from random import Random
from typing import Any, Final, Literal

from pydantic import JsonValue

from inventory.model import Lab
from testbed.campaign.arrivals import devices, profile_of, stream
from testbed.campaign.event import ScheduledEvent
from testbed.campaign.file import Campaign, Fault
from testbed.campaign.guard import check_guard
from testbed.campaign.kinds import Kind, Targets, kinds
from testbed.campaign.quantities import Duration
from testbed.campaign.schedule import Phase, Run, Schedule, Trial, WorkloadPlan
from testbed.campaign.selectors import Selector, hosts_of, means_hosts, resolve
from testbed.errors import ConfigurationError
from testbed.systems.chain import CHAIN
from testbed.systems.system import System

__all__ = ["expand"]

events_max: Final = 100_000  # per schedule
sends_max: Final = 2_000_000  # per schedule
run_ms_max: Final = 24 * 3600 * 1000


@dataclass(frozen=True)
class Place:
    """Where a campaign runs: the whole lab, and the part of it that the system uses."""

    lab: Lab
    used: Lab
    system: System


def expand(
    campaign: Campaign, lab: Lab, seed: int | None = None, system: System = CHAIN
) -> Schedule:
    """The schedule of a campaign on a lab, for a system under test; `seed` stands in for the
    campaign's own. Arrivals are drawn for the whole lab, so every system gets the same ones. An
    event for a part that the system lacks is skipped, with the reason.

    Raises ConfigurationError for a part that the lab lacks, for more faulty replicas at once than
    the guard allows, and for more events than the limits.
    """
    seed = campaign.seed if seed is None else seed
    phases = _phases(campaign)
    _bounded(campaign, phases, lab)
    bound = None if campaign.guard == "none" else campaign.guard
    max_faulty = None
    if bound is not None and system.bears_faults:
        max_faulty = lab.f if bound.max_faulty == "f" else bound.max_faulty
    place = Place(lab, system.lab(lab), system)
    trials = tuple(_trial(campaign, place, phases, seed, i) for i in range(campaign.trials.count))
    if max_faulty is not None:
        for trial in trials:
            check_guard(trial.index, trial.events, max_faulty)
    return Schedule(
        schema="testbed.schedule/3",
        campaign=campaign.campaign,
        system=system.name,
        lab=lab.lab,
        seed=seed,
        replicas=tuple(place.used.replicas()),
        f=place.used.f,
        max_faulty=max_faulty,
        dead_man_ms=None if bound is None else round(bound.dead_man.ms),
        cooldown_ms=round(campaign.trials.cooldown.ms) if campaign.trials.cooldown else 0,
        trace_every=campaign.trace_every,
        workload=WorkloadPlan(
            kind=campaign.workload.kind,
            rate_per_s=campaign.workload.rate.per_s,
            arrivals=campaign.workload.arrivals,
            timeout_ms=round(campaign.workload.timeout.ms),
            shape=campaign.workload.shape.in_words if campaign.workload.shape else None,
        ),
        phases=phases,
        trials=trials,
        runs=_runs(campaign),
        expect=campaign.expect.of(system.name),
    )


def _phases(campaign: Campaign) -> tuple[Phase, ...]:
    phases, start_ms = [], 0
    for name, span in campaign.phases.items():
        phases.append(Phase(name=name, start_ms=start_ms, end_ms=start_ms + round(span.ms)))
        start_ms = phases[-1].end_ms
    return tuple(phases)


def _bounded(campaign: Campaign, phases: tuple[Phase, ...], lab: Lab) -> None:
    """Refuse a schedule that would be too large, before any of it is made."""
    run_ms = phases[-1].end_ms
    spans = tuple(phase.span for phase in phases)
    sends = profile_of(campaign.workload, spans).sends * campaign.trials.count
    if run_ms > run_ms_max:
        raise ConfigurationError("phases: a run may last 24 h at most; shorten a phase")
    if sends > sends_max:
        raise ConfigurationError(
            f"workload: about {sends:.0f} sends, at most {sends_max}; lower rate, trials or phases"
        )
    events = campaign.trials.count * sum(
        _count(fault, _phase(campaign, fault, phases), lab) for fault in campaign.faults
    )
    if events > events_max:
        raise ConfigurationError(
            f"faults: up to {events} events, at most {events_max}; raise every: or lower trials"
        )


def _phase(campaign: Campaign, fault: Fault, phases: tuple[Phase, ...]) -> Phase:
    found = [phase for phase in phases if phase.name == campaign.phase_of(fault)]
    assert found, f"{fault.id} was not checked by load_campaign"
    return found[0]


def _count(fault: Fault, phase: Phase, lab: Lab) -> int:
    """How often a fault is applied at most: once, or repeatedly with `every`, until `until`."""
    if fault.every is None:
        return 1
    until_ms = round(fault.until.ms) if fault.until else phase.end_ms - phase.start_ms
    span_ms = until_ms - fault.at.longest_ms(lab.chain.view_timeout_ms)
    return max(1, ceil(span_ms / round(fault.every.ms)))


def _runs(campaign: Campaign) -> tuple[Run, ...]:
    """A is the baseline, B has the faults. ABBA reverses the order in every second trial."""
    arms: list[tuple[int, Literal["baseline", "faults"]]] = []
    for trial in range(campaign.trials.count):
        pair: list[Literal["baseline", "faults"]] = ["baseline", "faults"]
        if campaign.trials.order == "faults":
            pair = ["faults"]
        elif campaign.trials.order == "ABBA" and trial % 2 == 1:
            pair.reverse()
        arms += [(trial, arm) for arm in pair]
    return tuple(Run(index=i, trial=trial, arm=arm) for i, (trial, arm) in enumerate(arms))


def _trial(
    campaign: Campaign, place: Place, phases: tuple[Phase, ...], seed: int, index: int
) -> Trial:
    events: list[ScheduledEvent] = []
    for fault in campaign.faults:
        events += _occurrences(fault, _phase(campaign, fault, phases), place, seed, index)
    events.sort(key=lambda event: (event.at_ms, event.id))
    spans = tuple(phase.span for phase in phases)
    return Trial(
        index=index,
        seed=stream(seed, index, "kinds").getrandbits(53),
        events=tuple(events),
        devices=place.system.devices(devices(campaign.workload, place.lab, spans, seed, index)),
    )


def _occurrences(
    fault: Fault, phase: Phase, place: Place, seed: int, trial: int
) -> list[ScheduledEvent]:
    """The events of one fault: one, or with `every` all that can heal within the phase."""
    kind = kinds()[fault.do]
    every_ms = round(fault.every.ms) if fault.every else 0
    events = []
    for number in range(_count(fault, phase, place.lab)):
        rng = stream(seed, trial, f"fault/{fault.id}/{number}")
        name = f"{fault.id}.{number + 1}" if every_ms else fault.id
        event = _event(
            fault, kind, place, rng, (name, phase.name, phase.start_ms + number * every_ms)
        )
        if event.at_ms + event.for_ms <= phase.end_ms:
            events.append(event)
        elif number == 0:
            raise ConfigurationError(
                f"{fault.id}: ends {(event.at_ms + event.for_ms - phase.end_ms) / 1000:g} s after "
                f"phase {phase.name}; start it earlier, shorten it or lengthen the phase"
            )
    return events


def _event(
    fault: Fault, kind: Kind, place: Place, rng: Random, when: tuple[str, str, int]
) -> ScheduledEvent:
    """One event of a fault; `when` is its id, its phase and the ms that `at` counts from."""
    name, phase, start_ms = when
    view_timeout_ms = place.lab.chain.view_timeout_ms
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
    targets, why_not = _targets_used(fault, kind, selectors, place, rng)
    mechanism = ""
    if not why_not:
        mechanism, why_not = _mechanism(kind, place, targets)
    return ScheduledEvent(
        id=name,
        fault=fault.id,
        kind=kind.name,
        category=kind.category,
        layer=kind.layer,
        phase=phase,
        at_ms=at_ms,
        for_ms=for_ms,
        targets=targets,
        impairs=kind.impairs(place.used, targets, params),
        disturbs=kind.disturbs,
        lies=kind.lies,
        params=params,
        mechanism=mechanism,
        skipped=why_not or None,
    )


def _mechanism(kind: Kind, place: Place, targets: Targets) -> tuple[str, str]:
    """The mechanism's name, or the reasons why there is none. Without targets the event concerns
    the whole lab."""
    names = [name for found in targets.values() for name in found]
    lab = place.used
    chosen, why_not = kind.choose(lab, hosts_of(names or lab.active, lab), place.system)
    return (chosen.name, "") if chosen else ("", why_not)


def _targets_used(
    fault: Fault, kind: Kind, selectors: dict[str, Selector], place: Place, rng: Random
) -> tuple[dict[str, tuple[str, ...]], str]:
    """The targets; or, if the lab has such targets but the system does not use them, the reason why
    there are none. Raises ConfigurationError if the lab has none either.
    """
    before = rng.getstate()
    try:
        return _targets(fault, kind, selectors, place.used, rng), ""
    except ConfigurationError as error:
        rng.setstate(before)
        _targets(fault, kind, selectors, place.lab, rng)
        return {}, f"the {place.system.name} has no such part: {error}"


def _targets(
    fault: Fault, kind: Kind, selectors: dict[str, Selector], lab: Lab, rng: Random
) -> dict[str, tuple[str, ...]]:
    beside_primary = any(selector.word == "primary" for selector in selectors.values())
    fields = kind.params.model_fields.items()
    to_hosts = {name.rstrip("_") for name, field in fields if means_hosts(field)}
    found = {}
    for key, selector in selectors.items():
        try:
            found[key] = resolve(
                selector, lab, rng, beside_primary=beside_primary, to_hosts=key in to_hosts
            )
        except ConfigurationError as error:
            raise ConfigurationError(f"{fault.id}: {key}: {error}") from error
    return found
