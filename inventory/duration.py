"""The parser of durations in inventories, campaign files and options: `500ms`, `5s`, `2m`, `2h`,
`7d`.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DURATION_PATTERN", "NUMBER_PATTERN", "UNIT_MS", "duration_ms", "duration_text"]

UNIT_MS: Final = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}
NUMBER_PATTERN: Final = r"[0-9]{1,9}(\.[0-9]{1,6})?"
DURATION_PATTERN: Final = rf"{NUMBER_PATTERN}(ms|s|m|h|d)"


def duration_ms(text: str) -> float:
    """Raises ValueError with the fix."""
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError("must be a fixed duration such as 500ms, 5s, 2m or 2h")
    unit = text.lstrip("0123456789.")
    return float(text.removesuffix(unit)) * UNIT_MS[unit]


def duration_text(ms: float) -> str:
    """In the largest unit that needs no fraction."""
    units = [unit for unit, size_ms in UNIT_MS.items() if ms >= size_ms and ms % size_ms == 0]
    unit = units[-1] if units else "ms"
    return f"{ms / UNIT_MS[unit]:.15g}{unit}"
