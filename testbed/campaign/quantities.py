"""Durations, rates and bounds as campaign files write them, as typed values.

    5s  250ms  2m  1h       a duration
    5s±2s                   drawn evenly from 3 s to 7 s (`+-` serves for `±`)
    0.9*view_timeout        a multiple of the lab's chain.view_timeout
    20/s  30/m              a rate
    <=3x  >=0.7x            a bound on attack / baseline

Each has a pydantic type. Its published schema has the same pattern that the parser uses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from inventory.duration import DURATION_PATTERN, NUMBER_PATTERN, UNIT_MS, duration_ms

__all__ = ["Bound", "BoundField", "Duration", "DurationField", "Rate", "RateField", "SpanField"]

duration_ms_max: Final = 24 * 3600 * 1000
rate_per_s_max: Final = 100_000.0

_DURATION = rf"({DURATION_PATTERN}((±|\+-){DURATION_PATTERN})?|{NUMBER_PATTERN}\*view_timeout)"


@dataclass(frozen=True)
class Duration:
    """`ms` plus `view_timeouts` times the lab's view timeout, give or take `jitter_ms`."""

    text: str
    ms: float
    jitter_ms: float = 0.0
    view_timeouts: float = 0.0

    def resolve_ms(self, rng: Random, view_timeout_ms: float) -> int:
        """The concrete value; draws from `rng` only if there is jitter."""
        value = self.ms + self.view_timeouts * view_timeout_ms
        if self.jitter_ms:
            value += rng.uniform(-self.jitter_ms, self.jitter_ms)
        return round(value)

    def longest_ms(self, view_timeout_ms: float) -> int:
        """The largest value that `resolve_ms` can give."""
        return round(self.ms + self.jitter_ms + self.view_timeouts * view_timeout_ms)

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Raises ValueError with the fix."""
        if not re.fullmatch(_DURATION, text):
            raise ValueError("must be a duration such as 5s, 250ms, 5s±2s or 0.9*view_timeout")
        if text.endswith("*view_timeout"):
            return cls(text, 0.0, view_timeouts=float(text.partition("*")[0]))
        base, _, jitter = text.replace("+-", "±").partition("±")
        value = cls(text, duration_ms(base), duration_ms(jitter) if jitter else 0.0)
        if value.jitter_ms > value.ms:
            raise ValueError("the jitter exceeds the duration; lower it")
        if value.ms + value.jitter_ms > duration_ms_max:
            raise ValueError("must be at most 24h")
        return value

    @classmethod
    def parse_span(cls, text: str) -> Duration:
        """A fixed duration above zero. Raises ValueError with the fix."""
        duration_ms(text)  # neither jitter nor view timeouts
        value = cls.parse(text)
        if value.ms < 1:
            raise ValueError("must be at least 1ms")
        return value


@dataclass(frozen=True)
class Rate:
    """Events per second, over all devices together."""

    text: str
    per_s: float

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Raises ValueError with the fix."""
        if not re.fullmatch(_RATE, text):
            raise ValueError("must be a rate such as 20/s or 30/m")
        number, _, unit = text.partition("/")
        per_s = float(number) * 1000.0 / UNIT_MS[unit]
        if not 0 < per_s <= rate_per_s_max:
            raise ValueError(f"must be above 0 and at most {rate_per_s_max:.0f}/s")
        return cls(text, per_s)


@dataclass(frozen=True)
class Bound:
    """Attack / baseline must be `at_most` or at least `factor`."""

    text: str
    at_most: bool
    factor: float

    def holds(self, ratio: float) -> bool:
        """Whether a measured ratio keeps the bound."""
        return ratio <= self.factor if self.at_most else ratio >= self.factor

    @classmethod
    def parse(cls, text: str) -> Bound:
        """Raises ValueError with the fix."""
        if not re.fullmatch(_BOUND, text):
            raise ValueError("must be a bound such as <=3x or >=0.7x")
        return cls(text, text.startswith("<"), float(text[2:-1]))


_RATE = rf"{NUMBER_PATTERN}/(s|m|h)"
_BOUND = rf"(<=|>=){NUMBER_PATTERN}x"


def _text_type(parse: Callable[[str], Any], pattern: str, example: str) -> tuple[Any, ...]:
    """A type for text with a unit. In `example`, {} is the place of the number; the error for a
    bare number uses it."""

    def validate(given: Any) -> Any:
        if isinstance(given, str):
            return parse(given)
        if hasattr(given, "text"):  # already parsed: a default
            return given
        number = f"{given:g}" if isinstance(given, int | float) else "10"
        fix = example.replace("{}", number)
        raise ValueError(f"must be text with a unit; write {fix}")

    return (
        PlainValidator(validate),
        PlainSerializer(lambda value: value.text, return_type=str),
        WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"}),
    )


DurationField = Annotated[Duration, *_text_type(Duration.parse, _DURATION, "{}s or {}ms")]
SpanField = Annotated[Duration, *_text_type(Duration.parse_span, DURATION_PATTERN, "{}s or {}ms")]
RateField = Annotated[Rate, *_text_type(Rate.parse, _RATE, "{}/s")]
BoundField = Annotated[Bound, *_text_type(Bound.parse, _BOUND, "<={}x or >={}x")]
