"""Checks, before anything runs, that at most the allowed number of replicas is faulty at once.

An event says which replicas become faulty (`ScheduledEvent.impairs`). Overlapping events that say
`primary` mean the same replica, so it counts once. Beside a named replica it counts as one more,
because it may be another replica.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from testbed.campaign.event import ScheduledEvent
from testbed.errors import ConfigurationError

__all__ = ["check_guard"]


def check_guard(trial: int, events: Sequence[ScheduledEvent], max_faulty: int) -> None:
    """Raises ConfigurationError that names the events which together break the bound.

    An impairing event without `for` never heals: it lasts to the end of the run.
    """
    active: dict[str, tuple[float, str]] = {}  # replica: faulty until (ms), through which event
    for event in sorted(events, key=lambda event: event.at_ms):
        active = {name: since for name, since in active.items() if since[0] > event.at_ms}
        end_ms = event.at_ms + event.for_ms if event.for_ms else inf
        for name in event.impairs if event.skipped is None else ():
            active[name] = max(active.get(name, (0, "")), (end_ms, event.id))
        if len(active) > max_faulty:
            faulty = sorted(active)
            who = " and ".join(dict.fromkeys(active[name][1] for name in active))
            raise ConfigurationError(
                f"guard: at {event.at_ms / 1000:g} s of trial {trial} these replicas are faulty "
                f"at once: {', '.join(faulty)} (by {who}); at most {max_faulty} may be; move an "
                "event, or write `guard: none` to show what happens beyond the bound"
            )
