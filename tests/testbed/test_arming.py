"""Faults are armed ahead of their time, so that they strike on time on hosts that are slow."""

from __future__ import annotations

import pytest

from testbed.campaign.event import ScheduledEvent
from testbed.campaign.run import ARM_AHEAD_MS, armed_at_ms


def crash(name: str, at_ms: int, target: str, for_ms: int = 2_000) -> ScheduledEvent:
    return ScheduledEvent(
        id=name,
        fault=name,
        kind="process.crash",
        category="fault",
        layer="process",
        phase="fault",
        params={},
        at_ms=at_ms,
        for_ms=for_ms,
        targets={"on": (target,)},
    )


@pytest.mark.parametrize("slowness", [1.0, 30.0])
def test_a_named_target_is_armed_ahead_and_longer_ahead_on_a_slow_host(slowness: float) -> None:
    event = crash("a", 60_000, "pi02")
    assert armed_at_ms(event, [event], slowness) == 60_000 - ARM_AHEAD_MS * slowness


@pytest.mark.parametrize("target", ["primary", "backup(1)"])
def test_who_is_known_at_the_time_itself_only_is_armed_ahead_too(target: str) -> None:
    """On every replica that it may come to be."""
    event = crash("a", 60_000, target)
    assert armed_at_ms(event, [event], 1.0) == 60_000 - ARM_AHEAD_MS


@pytest.mark.parametrize(("ends_ms", "ahead"), [(59_500, False), (50_000, True)])
def test_another_faults_undo_is_not_taken_away(ends_ms: int, ahead: bool) -> None:
    """Both may be called alike: healing the first would disarm the second."""
    first, second = crash("a", 48_000, "pi02", ends_ms - 48_000), crash("b", 60_000, "pi02")
    armed_ms = armed_at_ms(second, [first, second], 1.0)
    assert (armed_ms < 60_000) is ahead
