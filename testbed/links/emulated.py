"""Link rules in the emulated lab's own switch, for kernels without netem."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from gateway.shaping import NO_SHAPE, Shape
from inventory.model import Lab
from testbed.emulate.control import ask
from testbed.emulate.lab import RUNTIME
from testbed.links.port import Links, RuleInForce, Rules, Way
from testbed.provision.layout import Node

__all__ = ["EmulatedLinks", "why_not_emulated"]

_MET = ("lost", "delayed", "reordered", "duplicated", "corrupted")


def why_not_emulated(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    """Why the switch cannot shape links of these hosts."""
    lacking = [name for name in hosts if "switch" not in lab.hosts[name].caps]
    if lacking or not hosts:
        return f"no cap switch on {', '.join(lacking)}"
    return f"all ends are on {hosts[0]}" if len(hosts) == 1 else None


class EmulatedLinks(Links):
    """Gives orders to the lab's keeper. The keeper undoes what nobody clears."""

    _for_s = 0.0

    def arm(self, owner: str, nodes: Iterable[Node], after_s: float) -> None:
        """Each rule is sent with its time limit; the longest limit of all owners counts."""
        self._for_s = max(self._for_s, after_s)

    def read_back(self, ways: Iterable[Way]) -> dict[Way, RuleInForce]:
        rows = {(row["from"], row["to"]): row for row in ask(self._control, do="links")["links"]}
        found = {}
        for way in ways:
            row = rows.get((way.source, way.target), {})
            fields = {name: row[name] for name in Shape.__struct_fields__ if name in row}
            frames = row.get("frames", {})
            found[way] = RuleInForce(
                msgspec.convert(fields, Shape), sum(frames.get(what, 0) for what in _MET)
            )
        return found

    def _places(self, way: Way, shape: Shape) -> tuple[str, ...]:
        return (f"{way.source} {way.target}",)

    def _write(self, place: str, rules: Rules) -> None:
        source, target = place.split()
        (shape,) = rules.values() or (NO_SHAPE,)
        order = {"from": source, "to": target, "shape": msgspec.to_builtins(shape)}
        ask(self._control, do="shape", for_s=self._for_s, **order)

    @property
    def _control(self) -> Path:
        return RUNTIME / self.deployment.lab.lab.removeprefix("emulated-") / "control"
