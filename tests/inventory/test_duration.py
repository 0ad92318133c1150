"""Durations as people write them: one parser for files and options."""

from __future__ import annotations

import pytest

from inventory.duration import UNIT_MS, duration_ms, duration_text


@pytest.mark.parametrize(
    ("text", "ms"),
    [("500ms", 500), ("5s", 5000), ("0.5s", 500), ("2m", 120_000), ("2h", 7_200_000), ("0ms", 0)],
)
def test_a_number_and_a_unit_give_milliseconds(text: str, ms: float) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["5", "s", "", "-5s", "5 s", "5S", "1e3s", "nan", "inf", "5s±1s"])
def test_everything_else_is_refused_with_the_fix(text: str) -> None:
    with pytest.raises(ValueError, match="such as 500ms"):
        duration_ms(text)


@pytest.mark.parametrize("text", ["0ms", "1ms", "999ms", "1s", "1.5ms", "90s", "1h", "7d"])
def test_what_is_printed_reads_back(text: str) -> None:
    assert duration_text(duration_ms(text)) == text
    assert set(UNIT_MS) == {"ms", "s", "m", "h", "d"}
