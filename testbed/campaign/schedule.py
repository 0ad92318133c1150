"""The schedule: a campaign made concrete before anything runs, for one lab and one seed.

Times are whole ms from the start of a run. `expand` makes the schedule. It is run, stored, replayed
and judged. For sends it has profile, seed and hash (`nodes.device.sends`), not each time. The times
are drawn again where they are needed, also on the devices; times that do not fit the hash are
refused.

Only the primary cannot be known beforehand. So targets may contain `primary` and `backup(K)` (the
K-th replica after it): the runner resolves them when it applies the event, and logs the name. In
overlapping events `primary` is the same replica; see `selectors`.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from inventory.entries import Strict
from nodes.device.sends import SENDS_MAX, Draw, Gaps
from testbed.campaign.event import ScheduledEvent, SystemName
from testbed.campaign.expect import Expect, Name
from testbed.errors import ConfigurationError
from testbed.profile import Span

__all__ = [
    "DeviceRole",
    "Phase",
    "Run",
    "Schedule",
    "ScheduledDevice",
    "ScheduledEvent",
    "Trial",
    "WorkloadPlan",
]


DeviceRole = Literal["mobile", "environment", "board"]


class Phase(Strict):
    """One phase of every run."""

    name: str
    start_ms: int
    end_ms: int

    @property
    def span(self) -> Span:
        return self.name, self.start_ms, self.end_ms


class ScheduledDevice(Strict):
    """A device and when it acts.

    `host` is where it runs. `enrol_at_ms` is None for a board, because its environment host
    sponsors it. Its sends are those of all `draws` together.
    """

    name: str
    role: DeviceRole
    host: str
    enrol_at_ms: int | None
    draws: tuple[Draw, ...] = ()

    @property
    def sends_ms(self) -> dict[str, tuple[int, ...]]:
        """The times of its sends by phase, increasing, in ms from the start of the run. Raises
        ConfigurationError if this version draws other times."""
        try:
            drawn = [draw.sends_ms for draw in self.draws]
        except ValueError as error:
            raise ConfigurationError(str(error)) from error
        if len(drawn) == 1:
            return drawn[0]
        phases = dict.fromkeys(phase for each in drawn for phase in each)
        return {
            phase: tuple(sorted(at for each in drawn for at in each.get(phase, ())))
            for phase in phases
        }

    @model_serializer(mode="wrap")
    def _only_what_there_is(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name != "draws" or value}


class Trial(Strict):
    """One draw of everything random. `seed` is for what a kind must draw while it runs."""

    index: int
    seed: int
    events: tuple[ScheduledEvent, ...]
    devices: tuple[ScheduledDevice, ...]

    @model_validator(mode="after")
    def _ends(self) -> Self:
        """A schedule from a stranger must not draw without end."""
        sends = sum(draw.profile.sends for device in self.devices for draw in device.draws)
        if sends > SENDS_MAX:
            raise ConfigurationError(f"{sends:g} sends in one run: at most {SENDS_MAX:,}")
        return self


class Run(Strict):
    """One run: a trial's workload, with its events or (baseline) without."""

    index: int
    trial: int
    arm: Literal["baseline", "faults"]


class WorkloadPlan(Strict):
    """What devices send, and when an unanswered send counts as lost. The profiles are in the
    trials; `rate_per_s` is the rate outside of `shape`."""

    kind: Literal["enrol+data", "enrol"]
    rate_per_s: float
    arrivals: Gaps
    timeout_ms: int
    shape: str | None = None  # in words

    @model_serializer(mode="wrap")
    def _only_what_there_is(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if name != "shape" or value}

    @property
    def in_words(self) -> str:
        rate = f"{self.rate_per_s:g}/s {self.arrivals}{f', {self.shape}' if self.shape else ''}"
        return f"{self.kind} {rate}, timeout {self.timeout_ms / 1000:g} s"


class Schedule(Strict):
    """Everything that will happen, in the order of `runs`.

    `system` is what is under test. `replicas` are host names by replica number; `max_faulty` None
    means that the guard is off. `cooldown_ms` is how long the hosts rest between two runs. One in
    `trace_every` requests is traced (0: none).
    """

    schema_version: Literal["testbed.schedule/3"] = Field(alias="schema")
    campaign: Name
    system: SystemName = "chain"
    lab: Name
    seed: int
    replicas: tuple[str, ...]
    f: int
    max_faulty: int | None
    dead_man_ms: int | None
    cooldown_ms: int = 0
    trace_every: int = Field(default=1, ge=0)
    workload: WorkloadPlan
    phases: tuple[Phase, ...]
    trials: tuple[Trial, ...]
    runs: tuple[Run, ...]
    expect: Expect = Expect()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """A schedule from a stranger may have runs without a trial, or two with one number."""
        runs, trials = [run.index for run in self.runs], [trial.index for trial in self.trials]
        is_unique = len({*runs}) == len(runs) and len({*trials}) == len(trials)
        if not (runs and self.phases and is_unique and {r.trial for r in self.runs} <= {*trials}):
            raise ConfigurationError("not a schedule: its runs, trials and phases do not fit")
        return self

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
        """The trial of the one run of a `part`: without events if the run is a baseline."""
        (run,), (trial,) = self.runs, self.trials
        return trial if run.arm == "faults" else trial.model_copy(update={"events": ()})

    @property
    def struck(self) -> tuple[Phase, ...]:
        """The phases that have faults and attacks in the runs with faults. A baseline is compared
        in these phases."""
        names = {event.phase for trial in self.trials for event in trial.events}
        return tuple(phase for phase in self.phases if phase.name in names)

    @property
    def what_happens(self) -> Schedule:
        """The schedule without expectations: equal for schedules in which the same happens."""
        return self.model_copy(update={"expect": Expect()})

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
