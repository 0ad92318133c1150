"""Whether replicas still hear each other, from their own logs. This shows that a cut takes effect.

If frames came, a replica logs at most once a second how many came from whom (`counters`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from testbed.campaign.watch import Since

if TYPE_CHECKING:
    from testbed.campaign.watch import Watch
    from testbed.provision.layout import Node

__all__ = ["SILENT_S", "Heard"]

SILENT_S = 2.5  # in this time a replica that hears anything logs `counters` twice


class Heard:
    """Frames between replicas since this object was made. Other pairs are left out."""

    def __init__(self, watch: Watch, pairs: Sequence[tuple[Node, Node]]) -> None:
        self.pairs = [
            (source, target) for source, target in pairs if source.role == "replica" == target.role
        ]
        self._since = Since(watch)
        # By name of the target: its newest line, and when we found it.
        self._newest: dict[str, tuple[object, float]] = {
            target.name: (None, time.monotonic()) for _, target in self.pairs
        }

    def nothing(self) -> bool:
        """Whether no target hears its source. Ask often: silence counts from when it is found."""
        quiet = [self._is_quiet(source, target) for source, target in self.pairs]
        return all(quiet)

    def _is_quiet(self, source: Node, target: Node) -> bool:
        """Whether the target hears this source no more: it hears only others, or nobody."""
        lines = self._since.logged(target.name, "counters")
        if lines and lines[-1] is not self._newest[target.name][0]:
            self._newest[target.name] = (lines[-1], time.monotonic())
        counts = [line["heard"].get(str(source.index), 0) for line in lines[-2:]]
        if len(counts) == 2 and counts[0] == counts[1]:
            return True
        return time.monotonic() - self._newest[target.name][1] > SILENT_S
