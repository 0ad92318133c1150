"""One fault or attack of a schedule, in which nothing is left to choose. Runner and kinds both use
it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import JsonValue, StringConstraints

from inventory.entries import Strict

__all__ = ["Category", "Disturbed", "Layer", "ScheduledEvent", "SystemName"]

Category = Literal["fault", "attack", "action"]
"""An action is what an operator does: it is no fault, and is expected to succeed."""
Disturbed = Literal["clock", "disk"]
SystemName = Literal["chain", "baseline"]
"""What is under test (`testbed.systems`)."""
Layer = Literal[
    "process", "board", "network", "consensus", "identity", "device", "gateway", "serial", "ledger"
]


# A stored schedule may come from a stranger, and an event's id becomes part of file names.
EventId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{0,63}$")]


class ScheduledEvent(Strict):
    """One fault, attack or action: applied at `at_ms`, healed `for_ms` later (0: nothing to heal).

    `id` is unique in the trial, `fault` is the id in the campaign file. `targets` has the selector
    keys (on, from, to), each with names, `primary` or `backup(K)`. Durations among `params` are
    named `<name>_ms`. `mechanism` says how it is done. `skipped` says why it cannot be done in this
    lab; then it is not done.

    What guard and checks need to know of the kind is stored here too, so they can judge a stored
    schedule without the kind. `impairs`: the replicas that count as faulty, written as in
    `targets`. `lies`: these replicas may sign false statements. `disturbs`: properties of a host
    that are disturbed on purpose.
    """

    id: EventId
    fault: EventId
    kind: str
    category: Category
    layer: Layer
    phase: str
    at_ms: int
    for_ms: int
    targets: dict[str, tuple[str, ...]]
    impairs: tuple[str, ...] = ()
    lies: bool = False
    disturbs: tuple[Disturbed, ...] = ()
    params: dict[str, JsonValue]
    mechanism: str = ""
    skipped: str | None = None
