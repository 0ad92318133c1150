"""Checks, before anything runs, that no more replicas are faulty at once than allowed.

An event names the replicas that become faulty (`ScheduledEvent.impairs`). In overlapping events
`primary` is the same replica, so it counts once. A named replica and `primary` count as two,
because they may be different replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from testbed.campaign.event import ScheduledEvent
from testbed.errors import ConfigurationError

__all__ = ["check_guard"]


def check_guard(trial: int, events: Sequence[ScheduledEvent], max_faulty: int) -> None:
    """Raises ConfigurationError that names the events which together break the bound.

    An event without `for` never heals: its replicas are faulty to the end of the run.
    """
    active: dict[str, tuple[float, str]] = {}  # by replica: until (ms), which event
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
