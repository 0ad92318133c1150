"""Whether replicas still hear each other, from their own logs. This shows that a cut takes effect.

If frames came, a replica logs at most once a second how many came from whom (`counters`).
"""

from __future__ import annotations

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

    def nothing(self) -> bool:
        """Whether no target hears its source."""
        return all(self._is_quiet(source, target) for source, target in self.pairs)

    def _is_quiet(self, source: Node, target: Node) -> bool:
        lines = self._since.logged(target.name, "counters")
        if len(lines) < 2:
            return self._since.age_s > SILENT_S
        party = str(source.index)
        before, now = (line["heard"].get(party, 0) for line in lines[-2:])
        return bool(before == now)
