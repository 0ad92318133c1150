"""The campaign file: the model of a campaign YAML, and how it is read.

It is as strict as the inventory, and the same loader reads it. The model is built from the kinds
that are registered in `kinds`. So each kind's own parameters are checked and appear in the schema,
like all other keys. `expand` makes a schedule from a campaign.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import lru_cache, reduce
from importlib import resources
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import ConfigDict, Discriminator, Field, Tag, create_model

from inventory.entries import Strict
from inventory.load import load_yaml
from inventory.mistake import Mistake
from inventory.schema import Schema, schema_of
from nodes.device.sends import Gaps, Segment
from testbed.campaign.expect import FIRST_COMMIT, Expect, Name, SafetyProperty, Text
from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.quantities import (
    Duration,
    DurationField,
    RateField,
    SpanField,
)
from testbed.errors import ConfigurationError
from testbed.profile import Span, bursts, ramp, steps

__all__ = [
    "Campaign",
    "Fault",
    "Guard",
    "Trials",
    "Workload",
    "campaign_paths",
    "campaign_schema",
    "find_campaign",
    "load_campaign",
    "trace_every_max",
]

faults_max: Final = 200
phases_max: Final = 16
trace_every_max: Final = 1_000_000
seed_max: Final = 2**53 - 1  # exact in every JSON reader


class _Model(Strict):
    model_config = ConfigDict(defer_build=True)


class Trials(_Model):
    """How many trials there are, and which runs each has. Order `faults`: one run with faults. AB,
    ABBA: also a run without faults (A) with the same seed, in this order, so that both have equal
    conditions. The hosts rest for `cooldown` between two runs."""

    count: int = Field(default=1, ge=1, le=10_000)
    order: Literal["faults", "AB", "ABBA"] = "faults"
    cooldown: SpanField | None = None


class _Shaped(_Model):
    """In the phase `in` the rate goes from the workload's `rate` to `to`."""

    phase: Name = Field(alias="in")
    to: RateField


class Steps(_Shaped):
    """Rises in steps of equal length, each higher than the one before by the same factor."""

    kind: Literal["steps"]
    count: int = Field(default=8, ge=2, le=100)

    def segments(self, span: Span, per_s: float) -> tuple[Segment, ...]:
        return steps(span, per_s, self.to.per_s, self.count)

    @property
    def in_words(self) -> str:
        return f"in {self.count} steps to {self.to.text} in {self.phase}"


class Ramp(_Shaped):
    """Rises evenly."""

    kind: Literal["ramp"]

    def segments(self, span: Span, per_s: float) -> tuple[Segment, ...]:
        return ramp(span, per_s, self.to.per_s)

    @property
    def in_words(self) -> str:
        return f"rising to {self.to.text} in {self.phase}"


class Bursts(_Shaped):
    """The rate is `to` for the time `for`, and then the workload's rate again; once in each
    `every`."""

    kind: Literal["bursts"]
    lasting: SpanField = Field(alias="for")
    every: SpanField

    def segments(self, span: Span, per_s: float) -> tuple[Segment, ...]:
        lasting_ms, every_ms = round(self.lasting.ms), round(self.every.ms)
        return bursts(span, per_s, self.to.per_s, for_ms=lasting_ms, every_ms=every_ms)

    @property
    def in_words(self) -> str:
        each = f"{self.lasting.text} every {self.every.text}"
        return f"bursts of {self.to.text} for {each} in {self.phase}"


class Workload(_Model):
    """What devices do. `enrol+data`: every device is admitted in the first half of the first
    phase, then mobiles and boards add data at `rate`, shared among them evenly, open-loop.
    `enrol`: new identities ask for admission at `rate`."""

    kind: Literal["enrol+data", "enrol"]
    rate: RateField
    arrivals: Gaps = "poisson"
    shape: Annotated[Steps | Ramp | Bursts, Field(discriminator="kind")] | None = None
    timeout: SpanField = Duration.parse("5s")


class Fault(_Model):
    """The keys that all kinds of fault and attack share. `do` names the kind, which has more
    keys."""

    id: Name
    do: str
    phase: Name | None = Field(
        default=None, alias="in", description="Phase; default: the one called attack or fault."
    )
    at: DurationField = Field(default=Duration.parse("0s"), description="From the phase's start.")
    every: SpanField | None = Field(default=None, description="Again and again, this far apart,")
    until: SpanField | None = Field(default=None, description="until then, else the phase's end.")


class Guard(_Model):
    """At most `max_faulty` replicas are faulty at once. Hosts undo faults by themselves after
    `dead_man`."""

    max_faulty: Annotated[
        Annotated[Literal["f"], Tag("f")] | Annotated[int, Field(ge=0, le=1000), Tag("number")],
        Discriminator(lambda value: "f" if isinstance(value, str) else "number"),
    ] = "f"
    dead_man: SpanField = Duration.parse("30s")


class Campaign(_Model):
    """One campaign file. Phases run in file order."""

    schema_version: Literal["testbed.campaign/1"] = Field(
        default="testbed.campaign/1", alias="schema"
    )
    campaign: Name
    about: Text | None = None
    seed: int = Field(default=0, ge=0, le=seed_max)
    trials: Trials = Trials()
    workload: Workload
    phases: dict[Name, SpanField] = Field(min_length=1, max_length=phases_max)
    faults: tuple[Fault, ...] = ()
    trace_every: int = Field(
        default=1,
        ge=0,
        le=trace_every_max,
        description="One in so many requests is traced, in all processes; 0: none.",
    )
    guard: Annotated[
        Annotated[Literal["none"], Tag("none")] | Annotated[Guard, Tag("bound")],
        Discriminator(lambda value: "none" if isinstance(value, str) else "bound"),
    ] = Guard()
    expect: Expect = Expect()

    def phase_of(self, fault: Fault) -> str | None:
        """Name of the phase in which a fault falls; None if that is not known."""
        if fault.phase is not None:
            return fault.phase
        return next((name for name in ("attack", "fault") if name in self.phases), None)


# Stands in for missing or malformed keys, so that the rest of a file is still checked.
_STAND_IN: Final = {
    "campaign": "unnamed",
    "workload": {"kind": "enrol", "rate": "1/s"},
    "phases": {"attack": "24h"},
}


def load_campaign(path: Path) -> Campaign:
    """Read and check a campaign file. Raises inventory.load.InvalidFile."""
    return load_yaml(path, _model(tuple(kinds().values()), lenient=True), _errors, _STAND_IN)


def campaign_schema() -> Schema:
    """JSON Schema (draft 2020-12) of a campaign file, with every registered kind."""
    return schema_of(_model(tuple(kinds().values())))


def campaign_paths() -> dict[str, Path]:
    """The campaigns that ship with the testbed, by name."""
    folder = Path(str(resources.files("testbed").joinpath("campaigns")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_campaign(name_or_path: str) -> Path:
    """A shipped campaign by its name, else a file. Raises ConfigurationError."""
    shipped = campaign_paths()
    if name_or_path in shipped:
        return shipped[name_or_path]
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise ConfigurationError(
        f"no campaign {name_or_path}: give a YAML file or one of {', '.join(shipped)}"
    )


@lru_cache(maxsize=4)
def _model(known: tuple[Kind, ...], *, lenient: bool = False) -> type[Campaign]:
    """`Campaign`, with faults of all known kinds; `do` names the kind.

    The `lenient` model refuses the same files. But if `do` is wrong, it continues with the kind
    that was probably meant, so that later mistakes are found too.
    """
    if lenient:
        names = [kind.name for kind in known]
        do: Any = Literal[tuple(names)]
        members: list[Any] = [_fault_model(kind, do) for kind in known]
        members.append(create_model("UnknownFault", __base__=_Unknown, do=(do, ...)))
        tagged: list[Any] = [
            Annotated[member, Tag(name)] for member, name in zip(members, [*names, ""], strict=True)
        ]
        how: Any = Discriminator(lambda fault: _meant(names, fault))
    else:
        tagged = [_fault_model(kind, Literal[kind.name]) for kind in known]
        how = Field(discriminator="do")
    union: Any = reduce(or_, tagged)
    faults: Any = tuple[Annotated[union, how], ...]
    return create_model(
        "CampaignFile",
        __base__=Campaign,
        faults=(faults, Field(default=(), max_length=faults_max)),
    )


def _meant(names: Sequence[str], fault: Any) -> str:
    """The kind that a fault names, or the one with the most similar name; "" if there is none."""
    said = fault.get("do") if isinstance(fault, dict) else getattr(fault, "do", None)
    if not isinstance(said, str):
        return ""
    close = get_close_matches(said, names, n=1)
    return said if said in names else (close[0] if close else "")


class _Unknown(Fault):
    """A fault whose kind cannot be guessed. Only the keys that all kinds share are checked."""

    model_config = ConfigDict(extra="ignore")


def _fault_model(kind: Kind, do: Any) -> type[Fault]:
    name = "".join(part.title() for part in kind.name.replace("-", ".").split("."))
    bases: Any = (Fault, kind.params)
    model: type[Fault] = create_model(name, __base__=bases, __doc__=kind.summary, do=(do, ...))
    return model


def _errors(campaign: Campaign) -> Iterator[Mistake]:
    seen: dict[str, int] = {}
    for i, fault in enumerate(campaign.faults):
        where = ("faults", i)
        if fault.id in seen:
            yield Mistake((*where, "id"), f"{fault.id} stands twice; each fault needs its own id")
        seen[fault.id] = i
        phase = campaign.phase_of(fault)
        if phase is None:
            yield Mistake(where, "no phase is called attack or fault; say in: PHASE", whole=True)
        elif phase not in campaign.phases:
            known = ", ".join(campaign.phases)
            yield Mistake((*where, "in"), f"no phase {phase}; use one of {known}", whole=True)
        else:
            yield from _outlasts(where, fault, phase, campaign.phases[phase].ms)
        if fault.until is not None and fault.every is None:
            yield Mistake((*where, "until"), "until without every; add every: or use for:")
    yield from _shape_errors(campaign)
    yield from _expectation_errors(campaign)


def _shape_errors(campaign: Campaign) -> Iterator[Mistake]:
    shape, where = campaign.workload.shape, ("workload", "shape")
    if shape is None:
        return
    if shape.phase not in campaign.phases:
        known = ", ".join(campaign.phases)
        yield Mistake((*where, "in"), f"no phase {shape.phase}; use one of {known}")
    if isinstance(shape, Bursts) and shape.lasting.ms >= shape.every.ms:
        yield Mistake((*where, "for"), "bursts must be shorter than every")


def _expectation_errors(campaign: Campaign) -> Iterator[Mistake]:
    """Errors for names in `expect` that the campaign does not have."""
    expect = campaign.expect
    attacks = {fault.id for fault in campaign.faults if kinds()[fault.do].category == "attack"}
    faults = {fault.id for fault in campaign.faults} - attacks
    for key, named, known in (("attack", expect.attack, attacks), ("fault", expect.fault, faults)):
        for name in set(named) - known:
            there = ", ".join(sorted(known)) or "none"
            yield Mistake(
                ("expect", key, name), f"no {key} has this id; there are: {there}", whole=True
            )
    known = attacks | faults | set(get_args(SafetyProperty)) | {FIRST_COMMIT}
    for i, claim in enumerate(expect.claims):
        for j, name in enumerate(claim.shown_by):
            if name not in known:
                place = ("expect", "claims", i, "shown_by", j)
                yield Mistake(place, f"no fault, attack or property {name}")
    may_break = attacks | set(get_args(SafetyProperty))
    for i, name in enumerate(expect.may_skip):
        if name not in attacks | faults:
            yield Mistake(("expect", "may_skip", i), f"no fault or attack has the id {name}")
    lists: list[tuple[tuple[str, ...], tuple[str, ...]]] = [(("expect", "broken"), expect.broken)]
    lists += [(("expect", "broken_in", each), names) for each, names in expect.broken_in.items()]
    for where, names in lists:
        for i, name in enumerate(names):
            if name not in may_break:
                there = ", ".join(sorted(may_break))
                yield Mistake((*where, i), f"no property or attack {name}; use one of {there}")


def _outlasts(
    where: tuple[str, int], fault: Fault, phase: str, phase_ms: float
) -> Iterator[Mistake]:
    """An error if a fault does not heal within its phase. Recovery must be timed from a known
    moment."""
    lasts = getattr(fault, "for_", None)
    if any(x and x.view_timeouts for x in (fault.at, lasts)):
        return  # depends on the lab: `schedule` checks it
    end_ms = fault.at.longest_ms(0) + (lasts.longest_ms(0) if lasts else 0)
    if end_ms > phase_ms:
        yield Mistake(
            where,
            f"ends {end_ms / 1000:g} s into phase {phase}, which lasts {phase_ms / 1000:g} s; "
            "start it earlier, shorten it or lengthen the phase",
        )
    if fault.until is not None and fault.until.ms > phase_ms:
        yield Mistake((*where, "until"), f"lies beyond the end of phase {phase}; lower it")
