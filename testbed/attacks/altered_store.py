"""A store that is altered at rest: signed data of a device is changed in the database. A replica's
record then no longer follows from the genesis: the replica notices at its start, sends no votes and
fetches everything again. A provider's reading gets a new MAC with the key from the same store, and
cannot be distinguished from a true one. The attack succeeds if nobody notices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.campaign.injection import Attack, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, register, those
from testbed.care.dead_man import arm, disarm
from testbed.checks.evidence import Evidence
from testbed.checks.logs import Started, StoreDamaged
from testbed.checks.trials import Tried

if TYPE_CHECKING:
    from testbed.provision.layout import Node

__all__ = ["AlteredStore"]

UNDO = "start"


class AlteredStore(OnProcesses):
    """Stop processes, change the newest record in their stores, and start them again when `for` has
    passed. Checksums are fixed too, unless that needs a secret of others. A store without a record
    cannot be tried."""


class Alteration(Attack):
    """If the orchestrator is gone, the host starts the process by itself."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._down: list[Node] = []

    def apply(self) -> None:
        from testbed.provision.configs import STORE  # noqa: PLC0415 - only a run needs it
        from testbed.systems.baseline import ESCROW  # noqa: PLC0415 - see above

        program, files = {
            "ledger": ("alter_block", [STORE]),
            "readings": ("alter_readings", [STORE, ESCROW]),
        }[self.scene.event.mechanism]
        deployment = self.scene.deployment
        for node in self.scene.nodes("on"):
            host = deployment.host(node)
            self._down.append(node)
            if (start := host.start_command(deployment.unit(node))) is not None:
                arm(host, f"{UNDO}-{node.name}", self.scene.undo_after_s, start)
            deployment.hold_down(node)
            paths = [node.file(name) for name in files]
            changed = deployment.run_program(node, f"attacks/on_host/{program}.py", *paths)
            self.sent(*(f"{node.name}/{each}" for each in changed.split()))

    def heal(self) -> None:
        deployment = self.scene.deployment
        down, self._down = self._down, []
        for node in down:
            deployment.start_node(node)
            host = deployment.host(node)
            if host.start_command(deployment.unit(node)) is not None:
                disarm(host, f"{UNDO}-{node.name}")


def _judge(evidence: Evidence, attack: str) -> Judgement:
    """A trial is `<process>/<what was changed>`. It is observed if the process was started with the
    changed store. The change was found if it then logged that its store is damaged."""
    tried = Tried(evidence, attack)
    missed: set[str] = set()
    for line in tried.lines:
        since_ns = tried.begun_ns(line)
        noticed = {each.node for each in evidence.events(StoreDamaged) if each.t >= since_ns}
        started = {each.node for each in evidence.events(Started) if each.t >= since_ns}
        read = [each for each in line.trials if each.partition("/")[0] in noticed | started]
        found = {each for each in read if each.partition("/")[0] in noticed}
        if found:
            tried.refused["store:damage found"] += len(found)
        missed |= set(read) - found
        tried.see(line, read)
    return tried.judgement(len(missed))


register(
    Kind(
        "store.alter",
        AlteredStore,
        category="attack",
        layer="ledger",
        summary="changes the newest record in the store of a process that stands still",
        mechanisms=(
            Mechanism("ledger", Alteration, systems=("chain",)),
            Mechanism("readings", Alteration, systems=("baseline",)),
        ),
        judge=_judge,
        impairs=those("on"),
        seen="the process was started with the changed store",
    )
)
