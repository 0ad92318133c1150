"""Parses numbers of replicas in options."""

from __future__ import annotations

import re
from collections.abc import Iterable

from chain.quorum import REPLICAS_MAX, REPLICAS_MIN
from testbed.errors import ConfigurationError

__all__ = ["sizes"]


def sizes(option: str, text: str) -> list[int]:
    """`4,7,10..100:3` as numbers, ascending. Raises ConfigurationError, naming the option."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,4})(?:\.\.(\d{1,4})(?::(\d{1,4}))?)?\s*", part)
        if match is None:
            raise ConfigurationError(f"{option} {text}: use 4,7,10 or 4..100 or 4..100:3")
        first, last, step = (int(each) if each else None for each in match.groups())
        assert first is not None
        found |= set(_range(first, first if last is None else last, 1 if step is None else step))
    if not found or min(found) < REPLICAS_MIN or max(found) > REPLICAS_MAX:
        raise ConfigurationError(
            f"{option} {text}: from {REPLICAS_MIN} (fewer tolerate no fault) to {REPLICAS_MAX}"
        )
    return sorted(found)


def _range(first: int, last: int, step: int) -> Iterable[int]:
    if step < 1 or last < first:
        raise ConfigurationError(f"{first}..{last}:{step}: upwards, in steps of 1 or more")
    return range(first, last + 1, step)
