"""What a campaign expects: the section `expect` of its file, which stands in the schedule too."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from testbed.campaign.quantities import BoundField, SpanField

__all__ = ["AttackExpect", "DegradationExpect", "Expect", "LivenessExpect", "Name"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{0,47}$")]
Probability = Annotated[float, Field(ge=0, le=1)]
SafetyProperty = Literal["agreement", "validity", "exactly-once", "no-unauthorised-commit"]

attacks_max: Final = 200


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LivenessExpect(_Model):
    """After the last fault is healed."""

    first_commit_after_heal: SpanField | None = None


class AttackExpect(_Model):
    """`succeeded_upper95`: upper 95 % bound of the attack's success rate."""

    succeeded_upper95: Probability


class DegradationExpect(_Model):
    """Attack / baseline."""

    p50: BoundField | None = None
    p99: BoundField | None = None
    max: BoundField | None = None
    goodput: BoundField | None = None


class Expect(_Model):
    """What must hold. Safety is always checked in full, whatever is listed."""

    safety: tuple[SafetyProperty, ...] = Field(default=(), json_schema_extra={"uniqueItems": True})
    liveness: LivenessExpect = LivenessExpect()
    attack: dict[Name, AttackExpect] = Field(default={}, max_length=attacks_max)
    degradation: DegradationExpect = DegradationExpect()
