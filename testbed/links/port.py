"""The port of link faults: shape or cut ways between processes, read back the rules, clear them.

A way is one direction. Several faults may have rules at the same time, each under its own name
(`owner`); on one way they add up. The README of this folder compares the backends.
Backends: `wire` (inside our processes), `on_host` (tc and nft), `emulated` (the emulated lab's
switch).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from gateway.shaping import NO_SHAPE, Shape
from testbed.errors import LabFault
from testbed.fleet import at_once
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["Links", "RuleInForce", "Rules", "Way"]


class Way(NamedTuple):
    """From one end to another, by name. The backend decides whether ends are processes or hosts."""

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


Rules = Mapping[Way, Shape]


@dataclass(frozen=True, slots=True)
class RuleInForce:
    """The rule on a way. `touched`: the number of messages, frames or packets that it has met."""

    shape: Shape
    touched: int = 0


class Links(ABC):
    """The ways of one deployment. Methods may be called from several threads."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._owners: dict[str, dict[Way, Shape]] = {}
        self._lock = threading.Lock()

    def ways(self, pairs: Iterable[tuple[Node, Node]]) -> tuple[Way, ...]:
        """The ways between these processes, each once. Ends are hosts unless a backend says
        otherwise, and pairs within one host are left out. Raises LabFault if there is no link."""
        found = [Way(source.host, target.host) for source, target in pairs]
        ways = tuple(dict.fromkeys(way for way in found if way.source != way.target))
        if not ways:
            raise LabFault("links: all processes are on one host")
        return ways

    @abstractmethod
    def arm(self, owner: str, nodes: Iterable[Node], after_s: float) -> None:
        """If rules would outlive this program: have them undone `after_s` seconds from now, unless
        `clear` comes first. Raises LabFault if there are rules that nobody here has set."""

    def shape(self, owner: str, rules: Rules) -> None:
        """Set the owner's rules."""
        with self._lock:
            before = self._in_force()
            self._owners[owner] = dict(rules)
            self._enforce(before, self._in_force())

    def clear(self, owner: str) -> None:
        """Remove the owner's rules. Repeatable."""
        with self._lock:
            before = self._in_force()
            self._owners.pop(owner, None)
            self._enforce(before, self._in_force())

    @abstractmethod
    def read_back(self, ways: Iterable[Way]) -> dict[Way, RuleInForce]:
        """The shapes in force on these ways, as their enforcer reports them."""

    @abstractmethod
    def _places(self, way: Way, shape: Shape) -> tuple[str, ...]:
        """The processes or hosts that enforce the shape."""

    @abstractmethod
    def _write(self, place: str, rules: Rules) -> None:
        """Make these the only rules of a place. Without rules, nothing of ours is left there."""

    def _in_force(self) -> dict[Way, Shape]:
        found: dict[Way, Shape] = {}
        for rules in self._owners.values():
            for way, shape in rules.items():
                found[way] = found.get(way, NO_SHAPE).and_also(shape)
        return found

    def _enforce(self, before: Rules, now: Rules) -> None:
        old, new = self._by_place(before), self._by_place(now)
        changed = [place for place in {**old, **new} if old.get(place) != new.get(place)]
        at_once(lambda place: self._write(place, new.get(place, {})), changed)

    def _by_place(self, rules: Rules) -> dict[str, dict[Way, Shape]]:
        found: dict[str, dict[Way, Shape]] = {}
        for way, shape in rules.items():
            for place in self._places(way, shape):
                found.setdefault(place, {})[way] = shape
        return found
