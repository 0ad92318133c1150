"""Evidence about liars in the logs of honest replicas: it shows that an injected lie takes effect.

In the liars' own logs, only the lines about their lies are believed. Everything counts from the
moment when the witness was made. Once a second a replica logs its refusals, and the number of
frames from each party (`counters`): two such lines are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from testbed.campaign.watch import Since

if TYPE_CHECKING:
    from testbed.campaign.watch import Watch
    from testbed.provision.layout import Node

__all__ = ["Witness"]

_AGES_MIN = 3  # blocks whose age is compared
_LATE_SHARE = 0.5  # of the delay must be seen


class Witness:
    """Reads the logs of `replicas` about the `liars` among them."""

    def __init__(self, watch: Watch, replicas: Sequence[Node], liars: Sequence[Node]) -> None:
        self._watch = watch
        self._replicas = len(replicas)
        self._liars = {str(node.index) for node in liars}
        self._lying = [node.name for node in liars]
        self._honest = [node.name for node in replicas if node not in liars]
        self._since = Since(watch)
        self._view = watch.current_view(self._lying)
        self.is_primary = str(self._view % self._replicas) in self._liars
        before = [each for name in self._honest for each in watch.nodes[name].logged("block")]
        self._ages_ms = self._ages(before)

    def replaced(self) -> bool:
        """Whether a liar was primary and the others have entered a later view."""
        return self.is_primary and self._watch.current_view(self._lying) > self._view

    def accused(self) -> bool:
        """Whether an honest replica has two messages that convict a liar."""
        return any(
            str(event["culprit"]) in self._liars
            for name in self._honest
            for event in self._since.logged(name, "accuse")
        )

    def refused(self) -> bool:
        """Whether an honest replica refused more and more messages of liars."""
        return any(last > first for first, last in self._pairs("faults"))

    def quiet(self) -> bool:
        """Whether no honest replica got a frame from a liar, for at least a second."""
        lines = [self._since.logged(name, "counters")[-2:] for name in self._honest]
        return all(len(pair) == 2 for pair in lines) and all(
            self._from_liars(pair[0], "heard") == self._from_liars(pair[1], "heard")
            for pair in lines
        )

    def lied(self) -> bool:
        """Whether liars log that they acted, and their frames reached an honest replica
        meanwhile."""
        acted = any(self._since.logged(name, "byzantine-acts") for name in self._lying)
        return acted and any(last > first for first, last in self._pairs("heard"))

    def late(self, by_ms: float) -> bool:
        """Whether proposals of a liar reach the others later than proposals did before."""
        ages = self._ages([e for name in self._honest for e in self._since.logged(name, "block")])
        if len(ages) < _AGES_MIN:
            return False
        usual_ms = median(self._ages_ms) if self._ages_ms else 0.0
        return self.is_primary and median(ages) - usual_ms >= _LATE_SHARE * by_ms

    def forked(self) -> bool:
        """Whether two honest replicas executed different blocks of one height."""
        blocks: dict[int, tuple[int, int | None]] = {}  # (time, number of records) by height
        return any(
            blocks.setdefault(event["height"], found) != found
            for name in self._honest
            for event in self._since.logged(name, "block")
            if (found := (event["time_us"], event.get("count")))
        )

    def _pairs(self, what: str) -> Iterator[tuple[int, int]]:
        """The counts of liars in the first and the newest `counters` line of each honest
        replica."""
        for name in self._honest:
            lines = self._since.logged(name, "counters")
            if len(lines) > 1:
                yield self._from_liars(lines[0], what), self._from_liars(lines[-1], what)

    def _from_liars(self, line: dict[str, Any], what: str) -> int:
        """Keys are `<party>/<code>` or `<party>`."""
        counts: dict[str, int] = line.get(what, {})
        return sum(n for key, n in counts.items() if key.partition("/")[0] in self._liars)

    def _ages(self, blocks: Sequence[dict[str, Any]]) -> list[float]:
        """How old proposals of the view were when the replica accepted them, in ms. (Wall clocks:
        a constant offset between hosts cancels out.)"""
        return [
            event["t"] / 1e6 - (event["executed_us"] + event["time_us"]) / 1000
            for event in blocks
            if event["view"] == self._view and "pre_prepared_us" in event
        ]
