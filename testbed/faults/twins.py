"""`byzantine.twins`: a replica runs twice, as two processes with one key.

The idea is that of S. Bano et al., "Twins: BFT Systems Made Robust" (OPODIS 2021); the simulator
draws whole schedules of it (`testbed.simulate`). Here it shows what happens if somebody starts a
clone. The twin has an empty ledger of its own, fetches the chain and votes without knowing the
other's votes. A party has one link to each other party, and a newer link replaces it. So both twins
dial, and the others hear them in turns.
"""

from __future__ import annotations

import json
from collections import Counter

from inventory.model import Lab
from testbed.campaign.injection import Seen
from testbed.campaign.kinds import Kind, Mechanism, register, those
from testbed.faults.byzantine import Lie
from testbed.faults.pressure import PressureFault
from testbed.provision.configs import CONFIG, EVENTS, READY, STORE
from testbed.provision.layout import Node
from testbed.provision.ports import free_ports

__all__ = ["TwinFault"]

OF_THE_ORIGINAL = ("genesis", "key", "certificate")
OF_THE_SWITCH = ("switch", "trace")
LINKS_MIN = 5
"""A replica that was only cut off for a moment makes just one new link to each other replica."""


class Twins(Lie):
    """A second process of a replica runs with the same key and an empty ledger on the same host.
    Replicas dial those with lower numbers, so the first replica's twin would be heard by nobody."""


class TwinFault(PressureFault):
    """The twin is a helper on the host, in a directory of its own. Seen when others log many new
    links to it, because the twins take them from each other."""

    what = "twin"
    undo_name = "end-twin"
    _marks: Counter[str]

    def argv(self, node: Node) -> list[str]:
        python = self.scene.deployment.python(node)
        config = f"{self._directory(node)}/{CONFIG}"
        return [python, "-m", "nodes.replica.process", "--config", config]

    def strike(self, node: Node) -> None:
        host, deployment = self.host(node), self.scene.deployment
        config = deployment.config(node)
        for name in OF_THE_ORIGINAL:
            config[name] = f"../{node.name}/{config[name]}"
        for name in OF_THE_SWITCH:
            config.pop(name, None)
        address = config["listen"]["host"]
        (port,) = free_ports(host, deployment.python(node), address, 1)
        config |= {"store": STORE, "ready": READY, "events": EVENTS}
        config["listen"]["port"] = port
        host.run(["mkdir", "-p", "-m", "700", self._directory(node)])
        host.put(json.dumps(config).encode(), f"{self._directory(node)}/{CONFIG}")
        super().strike(node)

    def repair(self, node: Node) -> None:
        super().repair(node)
        self.host(node).run(["rm", "-rf", self._directory(node)])

    def apply(self) -> None:
        self._marks = self._links()
        super().apply()

    def observe(self, within_s: float) -> Seen | None:
        if not self.scene.watch.wait_for(lambda: min(self._new().values()) >= LINKS_MIN, within_s):
            return None
        return Seen("others log link after link to it", self._new())

    def _new(self) -> dict[str, int]:
        """New links to each of those that were hit, as others logged them."""
        links = self._links() - self._marks
        return {node.name: links[str(node.index)] for node in self.hit}

    def _links(self) -> Counter[str]:
        """How often replicas that were not hit logged a new link, by party."""
        return Counter(
            str(event["party"])
            for view in self.scene.watch.replicas
            if view.name not in self.names
            for event in view.logged("link-up")
        )

    def _directory(self, node: Node) -> str:
        return f"fault-twin-{node.name}"


def _is_heard(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    first = next(iter(lab.replicas()), None)
    if first in hosts:
        return f"{first} dials no replica, so nobody would hear its twin: name another replica"
    unfit = [host for host in hosts if host not in lab.replicas()]
    return f"{', '.join(unfit)}: no replica" if unfit else None


register(
    Kind(
        "byzantine.twins",
        Twins,
        category="fault",
        layer="consensus",
        summary="runs twice, as two processes with one key",
        mechanisms=(Mechanism("helper", TwinFault, available=_is_heard, systems=("chain",)),),
        impairs=those("on"),
        lies=True,
        seen="others log many new links to it, because the twins take them from each other",
    )
)
