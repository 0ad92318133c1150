"""Never more than the agreed number of replicas faulty at once: checked before anything runs.

Which of an event's targets become faulty its kind says (`Kind.impairs`). Events that overlap and
say `primary` mean the same replica, so it counts once; beside a named replica it counts as another
one, because it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.selectors import is_symbolic
from testbed.errors import ConfigurationError

__all__ = ["Impairing", "check_guard"]


class Impairing(Protocol):
    """What the check reads of an event."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def at_ms(self) -> int: ...
    @property
    def for_ms(self) -> int: ...
    @property
    def targets(self) -> dict[str, tuple[str, ...]]: ...


def check_guard(
    trial: int, events: Sequence[Impairing], replicas: Sequence[str], max_faulty: int
) -> None:
    """Raises ConfigurationError that names the events which together break the bound.

    An impairing event without `for` never heals: it lasts to the end of the run.
    """
    known = kinds()
    active: dict[str, tuple[float, str]] = {}  # replica: faulty until (ms), through which event
    for event in sorted(events, key=lambda event: event.at_ms):
        active = {name: since for name, since in active.items() if since[0] > event.at_ms}
        end_ms = event.at_ms + event.for_ms if event.for_ms else inf
        for name in _impaired(event, known[event.kind], replicas):
            active[name] = max(active.get(name, (0, "")), (end_ms, event.id))
        if len(active) > max_faulty:
            faulty = sorted(active)
            who = " and ".join(dict.fromkeys(active[name][1] for name in active))
            raise ConfigurationError(
                f"guard: {who} make {len(faulty)} replicas faulty at once ({', '.join(faulty)}) "
                f"at {event.at_ms / 1000:g} s of trial {trial}, more than {max_faulty}; "
                "move one, or say guard: none to show what happens beyond the bound"
            )


def _impaired(event: Impairing, kind: Kind, replicas: Sequence[str]) -> frozenset[str]:
    targets = [target for field in kind.impairs for target in event.targets.get(field, ())]
    return frozenset(t for t in targets if is_symbolic(t) or t in replicas)
