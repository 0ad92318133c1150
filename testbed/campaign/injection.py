"""What a fault and an attack are to the runner: two small interfaces, and the scene they act on.

A kind is one module of `testbed/faults/` or `testbed/attacks/` that registers its name, parameters
and maker, and for an attack its judge (`kinds`). The runner takes a fault through arm, apply,
observe, heal and verify, and an attack through prepare and attempt. After the run the kind's judge
says, from files alone, what came of an attack. What each step found goes into the bundle; an
injection that was not observed makes a run invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from testbed.campaign.event import Event
    from testbed.campaign.watch import Watch
    from testbed.checks.evidence import Evidence
    from testbed.provision.deployment import Deployment
    from testbed.provision.layout import Node

__all__ = [
    "Attack",
    "AttackMaker",
    "Equip",
    "Fault",
    "FaultMaker",
    "Judge",
    "Judgement",
    "Scene",
    "Sent",
]


@dataclass(frozen=True)
class Scene:
    """One event of the schedule on a running network. `targets` are resolved to processes.

    `undo_after_s`: hosts undo it by themselves so long after it was armed.
    """

    event: Event
    deployment: Deployment
    watch: Watch
    targets: Mapping[str, tuple[Node, ...]]
    seed: int
    captures: Path
    """Where what attackers overheard is collected (inside the bundle's raw files)."""
    undo_after_s: float = 60.0


class Fault(Protocol):
    """Each step may raise LabFault. `heal` is idempotent and also called when the run is cut."""

    def arm(self) -> None:
        """Make sure that the undo happens even if this program does not live to do it."""

    def apply(self) -> None:
        """Do it."""

    def observe(self, within_s: float) -> bool:
        """Whether it was seen to take effect, by somebody other than who applied it."""

    def heal(self) -> None:
        """Undo it."""

    def verify(self, within_s: float) -> bool:
        """Whether the target is whole again: clean, running and caught up."""


@dataclass(frozen=True)
class Sent:
    """What one attempt sent: an identifier of each trial that the judge can look for."""

    trials: tuple[str, ...] = ()
    details: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Judgement:
    """`observed`: trials that provably arrived. `distinct`: how many of these differ. `successes`:
    effects that the kind calls a success. `attempts_unseen`: attempts of the schedule of which not
    one trial arrived, also those that had nothing to send or of which no line is left. `refused`
    counts what the system said, as "layer:reason"."""

    trials: int
    observed: int
    distinct: int
    successes: int
    refused: Mapping[str, int]
    attempts_unseen: int = 0


class Attack(Protocol):
    """`attempt` happens while the run goes on; judging is a function of the bundle alone."""

    def prepare(self) -> None:
        """Listen in, gather what is needed; called when the run starts."""

    def attempt(self) -> Sent:
        """Do it once."""

    def close(self) -> None:
        """Let go of connections; idempotent."""


FaultMaker = Callable[[Scene], Fault]
AttackMaker = Callable[[Scene], Attack]
# What came of the attack with this id.
Judge = Callable[["Evidence", str], Judgement]
# Changes files of processes that were set up and have not started yet.
Equip = Callable[["Deployment"], None]
