"""Never more than the agreed number of replicas faulty at once: checked before anything runs.

Which of an event's targets become faulty its kind says (`Kind.impairs`). Events that overlap and
say `primary` mean the same replica, so it counts once; beside a named replica it counts as another
one, because it may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from testbed.campaign.kinds import kinds
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
    active: list[tuple[Impairing, frozenset[str]]] = []
    for event in sorted(events, key=lambda event: event.at_ms):
        hit = _impaired(event, replicas)
        if not hit:
            continue
        active = [
            (other, names)
            for other, names in active
            if other.for_ms == 0 or other.at_ms + other.for_ms > event.at_ms
        ]
        active.append((event, hit))
        faulty = sorted(frozenset().union(*(names for _, names in active)))
        if len(faulty) > max_faulty:
            who = " and ".join(other.id for other, _ in active)
            raise ConfigurationError(
                f"guard: {who} make {len(faulty)} replicas faulty at once ({', '.join(faulty)}) "
                f"at {event.at_ms / 1000:g} s of trial {trial}, more than {max_faulty}; "
                "move one, or say guard: none to show what happens beyond the bound"
            )


def _impaired(event: Impairing, replicas: Sequence[str]) -> frozenset[str]:
    fields = kinds()[event.kind].impairs
    targets = [target for field in fields for target in event.targets.get(field, ())]
    return frozenset(t for t in targets if is_symbolic(t) or t in replicas)
