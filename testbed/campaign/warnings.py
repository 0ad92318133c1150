"""Warns, before anything runs, of events and bounds that cannot be done or judged."""

from __future__ import annotations

from collections.abc import Iterator

from testbed.campaign.schedule import Schedule

__all__ = ["PAIRS_MIN", "warnings"]

PAIRS_MIN = 6  # a 95 % interval needs at least so many pairs of runs


def warnings(schedule: Schedule) -> Iterator[str]:
    """One sentence each."""
    skipped = {
        event.fault: event.skipped
        for trial in schedule.trials
        for event in trial.events
        if event.skipped is not None
    }
    for fault, reason in skipped.items():
        yield f"{fault} is skipped in lab {schedule.lab}: {reason}"
    bounded = schedule.expect.degradation.model_dump(exclude_none=True)
    trials = len(schedule.trials)
    if bounded and trials < PAIRS_MIN:
        yield (
            f"expect: degradation: {trials} pairs of runs cannot tell a ratio, {PAIRS_MIN} are the "
            f"fewest; say trials: {{count: {PAIRS_MIN}}} or more"
        )
