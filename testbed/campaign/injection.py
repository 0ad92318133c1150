"""Faults, attacks and actions as the runner sees them: one base class, and the scene that it works
on.

A kind is one module of `testbed/faults/` or `testbed/attacks/` that registers its name, parameters
and mechanisms, and for an attack its judge (`kinds`). The runner takes each injection through arm,
apply, observe, heal and verify, and writes the result of each step into the bundle. After the run
the kind's judge decides, from files alone, whether an attack succeeded. An injection that was not
observed makes a run invalid.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeVar

from testbed.campaign.selectors import is_symbolic

if TYPE_CHECKING:
    from testbed.campaign.event import ScheduledEvent
    from testbed.campaign.watch import Watch
    from testbed.checks.evidence import Evidence
    from testbed.hosts.port import Host
    from testbed.provision.deployment import Deployment
    from testbed.provision.layout import Node

__all__ = [
    "Attack",
    "Equip",
    "Injection",
    "Judge",
    "Judgement",
    "Maker",
    "Scene",
    "Seen",
    "Sent",
]

POLL_S = 0.2

T = TypeVar("T")


@dataclass
class Scene:
    """One event of the schedule on a running network, and all that an injection may use.

    `rng` is the event's own random stream. `captures` is the directory of the bundle's raw files.
    `inventory` is the lab's file: power is switched from here (None: the packaged lab).
    `undo_after_s`: hosts undo the event by themselves so many seconds after it was armed. `stop` is
    set when the run is interrupted: every wait must then end (`pause`, `Watch.wait_for`).
    """

    event: ScheduledEvent
    deployment: Deployment
    watch: Watch
    primary: Callable[[], Node]
    """Finds the replica that `primary` means, which the first call decides."""
    rng: Random
    captures: Path
    inventory: Path | None = None
    stop: threading.Event = field(default_factory=threading.Event)
    undo_after_s: float = 60.0
    _struck: dict[str, tuple[Node, ...]] = field(default_factory=dict)

    def nodes(self, key: str) -> tuple[Node, ...]:
        """The processes that the selector `key` means. Call it in `apply` or later: only then
        `primary` and `backup(K)` mean certain replicas."""
        if key not in self._struck:
            names = self.event.targets.get(key, ())
            self._struck[key] = tuple(map(self.node, names))
        return self._struck[key]

    def candidates(self, key: str) -> tuple[Node, ...]:
        """The processes that `key` may mean when `apply` is called. `arm` prepares all of them, and
        `heal` undoes that on all of them."""
        names = self.event.targets.get(key, ())
        if any(map(is_symbolic, names)):
            return tuple(self.deployment.with_role("replica"))
        return tuple(self.deployment.node(name) for name in names)

    def host_names(self, key: str) -> tuple[str, ...]:
        """The hosts that a host selector means, each once. Call it in `apply` or later."""
        names = self.event.targets.get(key, ())
        known = self.deployment.hosts
        found = [name if name in known else self.node(name).host for name in names]
        return tuple(dict.fromkeys(found))

    def candidate_hosts(self, key: str) -> tuple[str, ...]:
        """The hosts that `key` may mean when `apply` is called."""
        names = self.event.targets.get(key, ())
        if any(map(is_symbolic, names)):
            return tuple(node.host for node in self.deployment.with_role("replica"))
        return self.host_names(key)

    def host(self, name: str) -> Host:
        return self.deployment.hosts[name]

    @property
    def resolved(self) -> dict[str, list[str]]:
        """The names of the targets by selector key: process names where known, otherwise the words
        of the schedule."""
        return {
            key: [node.name for node in self._struck[key]] if key in self._struck else list(names)
            for key, names in self.event.targets.items()
        }

    def node(self, name: str) -> Node:
        """The process that a target means: by its name, `primary` or `backup(K)`. Call it in
        `apply` or later."""
        if not is_symbolic(name):
            return self.deployment.node(name)
        first = self.primary()
        if name == "primary":
            return first
        replicas = self.deployment.with_role("replica")
        steps = int(name.removeprefix("backup(").removesuffix(")"))
        return replicas[(first.index + steps) % len(replicas)]

    def pause(self, seconds: float) -> bool:
        """Wait. False if the run was interrupted meanwhile; the caller must then return at once."""
        return not self.stop.wait(max(0.0, seconds))

    def poll(self, ask: Callable[[], T], within_s: float) -> T:
        """Ask until the answer is true, the time is over or the run is interrupted. Returns the
        last answer."""
        until_s = time.monotonic() + within_s
        while not (answer := ask()):
            left_s = until_s - time.monotonic()
            if left_s <= 0 or not self.pause(min(POLL_S, left_s)):
                break
        return answer


@dataclass(frozen=True)
class Seen:
    """An injection was seen to take effect: the evidence, and the values read back."""

    what: str
    read_back: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Sent:
    """What an attack sent: an identifier of each trial, which the judge looks for."""

    trials: tuple[str, ...] = ()
    details: dict[str, int] = field(default_factory=dict)


class Injection(ABC):
    """One fault, attack or action. Any step may raise LabFault.

    A fault or an action has one per event. An attack has one for all its events: it is armed when
    the run starts, and `apply` is called for each event. Once `arm` was called, `heal` and `close`
    are always called too, even if `arm` failed half-way.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def arm(self) -> None:  # noqa: B027 - most kinds prepare nothing
        """Prepare, before the event's time. If the effect would outlive this program, the host must
        be able to undo it by itself: arm that undo here (`testbed.care.dead_man`). Use
        `scene.candidates`."""

    @abstractmethod
    def apply(self) -> None:
        """Apply it at once. A lasting effect stays until `heal`."""

    @abstractmethod
    def observe(self, within_s: float) -> Seen | None:
        """What shows that it took effect, as seen by another process than the one that applied it.
        None if nothing was seen within `within_s`; then it is called again, until the event is
        over."""

    def heal(self) -> None:  # noqa: B027 - effects that end at once need no undo
        """Undo it, on the hosts that were hit. Idempotent; also called when the run is cut off."""

    def verify(self, within_s: float) -> bool:
        """Whether the target is clean, running and caught up again."""
        return True

    def close(self) -> None:  # noqa: B027
        """Let go of connections, and disarm what `arm` armed; called once, after `heal`. A host
        may be lost by now (`Deployment.when_back`)."""


class Attack(Injection):
    """`observe` only says that something was sent. The kind's judge finds out what arrived."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._trials: list[str] = []
        self._details: dict[str, int] = {}
        self._sent = False

    def sent(self, *trials: str, **details: int) -> None:
        """Note what was sent: identifiers of trials, and counts to add to."""
        self._sent = True
        self._trials += trials
        for name, count in details.items():
            self._details[name] = self._details.get(name, 0) + count

    def take_sent(self) -> Sent:
        """Returns all that was noted since the last call."""
        taken = Sent(tuple(self._trials), self._details)
        self._trials, self._details = [], {}
        return taken

    def observe(self, within_s: float) -> Seen | None:
        if not self._sent:
            self.scene.pause(min(within_s, 0.1))
        return Seen("it sent something", dict(self._details)) if self._sent else None


@dataclass(frozen=True)
class Judgement:
    """`observed`: trials that provably arrived. `distinct`: how many of these differ. `successes`:
    effects that the kind calls a success. `attempts_unseen`: attempts of the schedule without a
    single trial that arrived. Attempts that had nothing to send, or left no line in the logs, count
    too. `refused` counts the refusals, as "layer:reason". `details`: figures of the kind's own,
    shown in the report."""

    trials: int
    observed: int
    distinct: int
    successes: int
    refused: Mapping[str, int]
    attempts_unseen: int = 0
    details: Mapping[str, float] = field(default_factory=dict)


Maker = Callable[[Scene], Injection]
# Judges the attack with this id.
Judge = Callable[["Evidence", str], Judgement]
# Changes files of processes that are set up but not started yet.
Equip = Callable[["Deployment"], None]
