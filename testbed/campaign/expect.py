"""The expectations of a campaign: the section `expect` of its file. The schedule has them too."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, StringConstraints

from inventory.entries import Strict
from testbed.campaign.event import SystemName
from testbed.campaign.quantities import BoundField, SpanField

__all__ = [
    "FIRST_COMMIT",
    "AttackExpect",
    "Claim",
    "DegradationExpect",
    "Expect",
    "FaultExpect",
    "LivenessExpect",
    "Name",
    "SafetyProperty",
    "Text",
]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Probability = Annotated[float, Field(ge=0, le=1)]
SafetyProperty = Literal[
    "agreement", "validity", "exactly-once", "no-unauthorised-commit", "durability"
]

FIRST_COMMIT: Final = "first-commit-after-heal"
"""The name of the property that judges `liveness: {first_commit_after_heal}`."""
attacks_max: Final = 200
claims_max: Final = 50


class LivenessExpect(Strict):
    """`first_commit_after_heal`: the time from healing a fault until the first block that was
    proposed after that is executed; the longest of all faults counts."""

    first_commit_after_heal: SpanField | None = None


class AttackExpect(Strict):
    """`succeeded_upper95`: upper 95 % bound of the attack's success rate."""

    succeeded_upper95: Probability


class FaultExpect(Strict):
    """Limits for each event of one fault. `first_commit`: as `first_commit_after_heal`, for this
    fault. `whole`: the time from healing until its target is clean, running and caught up."""

    first_commit: SpanField | None = None
    whole: SpanField | None = None


class DegradationExpect(Strict):
    """Bounds on the ratio attack / baseline."""

    p50: BoundField | None = None
    p99: BoundField | None = None
    max: BoundField | None = None
    goodput: BoundField | None = None


class Claim(Strict):
    """A claim that the campaign tests: the `sentence` that makes it, and the faults, attacks and
    properties that show whether it is true."""

    claim: Text
    sentence: Text
    shown_by: tuple[Name, ...] = Field(min_length=1, json_schema_extra={"uniqueItems": True})


class Expect(Strict):
    """What must hold.

    `safety`: the properties that must hold; without a list, all. A property that is not listed and
    breaks makes the result degraded instead of failed. `broken`: properties and attacks that must
    break in runs with faults, for campaigns that show what happens beyond the bound. The result
    fails if one of them holds in every run. `broken_in`: the same for one system under test only.
    `may_skip`: faults and attacks that may be skipped if the lab lacks the means; if any other one
    is skipped, the result is partial. `claims` only summarise: they do not change the result.
    """

    safety: tuple[SafetyProperty, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    broken: tuple[Name, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    broken_in: dict[SystemName, tuple[Name, ...]] = Field(default={})
    may_skip: tuple[Name, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    liveness: LivenessExpect = LivenessExpect()
    attack: dict[Name, AttackExpect] = Field(default={}, max_length=attacks_max)
    fault: dict[Name, FaultExpect] = Field(default={}, max_length=attacks_max)
    degradation: DegradationExpect = DegradationExpect()
    claims: tuple[Claim, ...] = Field(default=(), max_length=claims_max)

    def of(self, system: SystemName) -> Expect:
        """The expectations for this system."""
        broken = dict.fromkeys((*self.broken, *self.broken_in.get(system, ())))
        return self.model_copy(update={"broken": tuple(broken), "broken_in": {}})
