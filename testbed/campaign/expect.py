"""What a campaign expects: the section `expect` of its file, and reading this section alone.

Whoever judges a bundle needs the expectations and no more: `load_expect` reads them without knowing
any kind of fault or attack. The whole file is in `file`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from inventory.load import InvalidFile, load_yaml
from testbed.campaign.quantities import BoundField, SpanField
from testbed.errors import ConfigurationError

__all__ = ["AttackExpect", "DegradationExpect", "Expect", "LivenessExpect", "Name", "load_expect"]

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


class _Only(BaseModel):
    """A campaign file of which nothing but `expect` is looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)
    expect: Expect = Expect()


def load_expect(path: Path) -> Expect:
    """The expectations of a campaign file. Raises ConfigurationError."""
    try:
        return load_yaml(path, _Only).expect
    except InvalidFile as error:
        raise ConfigurationError(str(error)) from error
