"""Faults of replicas that lie: `byzantine.*`, each a trick of `nodes.byzantine.config`.

The simulator uses the same wrapper. An order at the seam `effects` of a replica's switch
(`testbed.faults.switch`) makes it Byzantine. It is honest again when the order is gone. `witness`
sees whether a lie takes effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from pydantic import Field

from nodes.byzantine.config import Trick
from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, Params, register, those
from testbed.campaign.quantities import DurationField
from testbed.campaign.selectors import SelectorField
from testbed.campaign.watch import Since
from testbed.faults.switch import equip
from testbed.faults.switched import SwitchFault
from testbed.faults.witness import Witness
from testbed.hosts.port import UnitState
from testbed.provision.configs import EVENTS
from testbed.provision.layout import Node

__all__ = ["SEAM", "ByzantineFault"]

SEAM = "effects"

Message = Literal[
    "pre-prepare", "prepare", "commit", "checkpoint", "view-change", "new-view", "status"
]
_TAGS: dict[str, str] = {
    "pre-prepare": "PP",
    "prepare": "P",
    "commit": "C",
    "checkpoint": "CP",
    "view-change": "VC",
    "new-view": "NV",
    "status": "S",
}


class Lie(OnProcesses):
    """Lies until `for` has passed."""


class Silent(Lie):
    """Says nothing, or nothing of one kind of message."""

    message: Message | None = None


class Delay(Lie):
    """Sends one kind of message (or, with `message: null`, everything) late."""

    message: Message | None = "pre-prepare"
    by: DurationField


class Censor(Lie):
    """`client`: the device whose requests are left out. Without it all requests are left out."""

    client: SelectorField | None = None


class Conspire(Lie):
    """`with`: the replicas that vote for both stories of the one `on`."""

    with_: SelectorField = Field(alias="with")


class _Proof(NamedTuple):
    """How a lie is seen to take effect: in words, and as a test of the witness and the
    parameters."""

    text: str
    holds: Callable[[Witness, dict[str, Any]], bool]


class ByzantineFault(SwitchFault):
    """`liars` are the keys of the selectors that name liars."""

    seam = SEAM

    def __init__(self, scene: Scene, trick: Trick, proof: _Proof, liars: tuple[str, ...]) -> None:
        super().__init__(scene)
        self._trick = trick
        self._proof = proof
        self._keys = liars
        self._witness: Witness | None = None
        self._order: dict[str, object] = {}
        self._healed: Since | None = None

    def targets(self) -> list[Node]:
        """Accomplices get the order first. If the primary lies before they do, the deceived get no
        quorum for its story and find out."""
        return [node for key in reversed(self._keys) for node in self.scene.nodes(key)]

    def candidates(self) -> list[Node]:
        found = [node for key in self._keys for node in self.scene.candidates(key)]
        return list(dict.fromkeys(found))

    def note_others(self) -> None:
        super().note_others()
        replicas = self.scene.deployment.with_role("replica")
        self._witness = Witness(self.scene.watch, replicas, self.targets())
        self._order = self._one_for_all()

    def order(self, node: Node) -> dict[str, object]:
        return self._order

    def observe(self, within_s: float) -> Seen | None:
        witness, params = self._witness, self.scene.event.params
        assert witness is not None, "apply was not called"
        shown = self.scene.watch.wait_for(
            lambda: self._proof.holds(witness, params), max(0.0, within_s)
        )
        return Seen(self._proof.text) if shown else None

    def heal(self) -> None:
        self._healed = self._healed or Since(self.scene.watch)
        super().heal()

    def verify(self, within_s: float) -> bool:
        """Whether each liar also runs, and logs that it is honest."""
        healed = self._healed
        assert healed is not None, "heal was not called"
        honest = self.scene.watch.wait_for(
            lambda: all(healed.logged(name, "honest") for name in self.names), within_s
        )
        states = [self.host(node).status(node.unit).state for node in self.hit]
        active = all(state is UnitState.ACTIVE for state in states)
        return honest and active and super().verify(within_s)

    def _one_for_all(self) -> dict[str, object]:
        """The fields of `nodes.byzantine.config.Byzantine` that differ from its defaults."""
        params = self.scene.event.params
        order: dict[str, object] = {"trick": self._trick, "seed": self.scene.rng.getrandbits(31)}
        if params.get("message") is not None:
            order["message"] = _TAGS[str(params["message"])]
        if "by_ms" in params:
            order["delay_ms"] = params["by_ms"]
        for client in self.scene.nodes("client")[:1]:
            order["client"] = self._node_id(client)
        if self._trick is Trick.CONSPIRE:
            liars = self.targets()
            replicas = self.scene.deployment.with_role("replica")
            loyal = [node.index for node in replicas if node not in liars]
            order["accomplices"] = [node.index for node in liars]
            order["deceived"] = loyal[: len(loyal) // 2]
        return order

    def _node_id(self, device: Node) -> str:
        """The device's node id on the chain. It logs the id when it starts."""
        host = self.scene.deployment.host(device)
        found = host.run(["grep", "-m1", '"event":"started"', device.file(EVENTS)]).stdout
        return str(json.loads(found)["id"])


# --- how each is seen ---------------------------------------------------------------------------


def _silenced(witness: Witness, params: dict[str, Any]) -> bool:
    # Nobody may notice that one kind of message is missing, so the liar's own log counts.
    narrowed = params.get("message") is not None
    return witness.replaced() or (witness.lied() if narrowed else witness.quiet())


def _delayed(witness: Witness, params: dict[str, Any]) -> bool:
    narrowed = params.get("message") == "pre-prepare"
    by_ms = float(params["by_ms"])
    return witness.replaced() or witness.late(by_ms) or (not narrowed and witness.lied())


def _exposed(witness: Witness, params: dict[str, Any]) -> bool:
    if witness.accused() or witness.replaced() or witness.refused():
        return True
    return not witness.is_primary and witness.lied()


def _deceived(witness: Witness, params: dict[str, Any]) -> bool:
    return witness.forked() or witness.accused() or witness.replaced()


LIED = _Proof("it logs its lies, and others receive its frames meanwhile", lambda w, _: w.lied())
REFUSED = _Proof("others refuse more and more of its frames", lambda w, _: w.refused())
REPLACED = _Proof("others go to a later view", lambda w, _: w.replaced())
SILENCED = _Proof("others go to a later view, or get nothing from it for a second", _silenced)
DELAYED = _Proof("its proposals reach others late, or the others go to a later view", _delayed)
EXPOSED = _Proof("primary: others accuse, refuse or replace it; backup: as for withhold", _exposed)
DECEIVED = _Proof("others execute different blocks, or accuse or replace a liar", _deceived)


def _register(
    trick: Trick,
    summary: str,
    proof: _Proof,
    params: type[Params] = Lie,
    liars: tuple[str, ...] = ("on",),
) -> None:
    make = partial(ByzantineFault, trick=trick, proof=proof, liars=liars)
    register(
        Kind(
            f"byzantine.{trick}",
            params,
            category="fault",
            layer="consensus",
            summary=summary,
            mechanisms=(Mechanism("switch", make, equip=equip),),
            impairs=those(*liars),
            lies=True,
            seen=proof.text,
        )
    )


_register(Trick.SILENT, "says nothing, or nothing of one kind", SILENCED, Silent)
_register(Trick.DELAY, "sends late, for example just before the timeout", DELAYED, Delay)
_register(Trick.CENSOR, "as primary leaves out one client, or all", REPLACED, Censor)
_register(Trick.WITHHOLD, "does everything except voting", LIED)
_register(Trick.PARTIAL, "its votes reach only half of the others", LIED)
_register(Trick.BAD_SIGNATURE, "flips a bit of each signature", REFUSED)
_register(Trick.FLOOD, "sends everything 20 times, half of it garbage", REFUSED)
_register(Trick.SPAM_VOTES, "sends many well-signed votes that are superfluous", LIED)
_register(Trick.OLD_MESSAGES, "repeats its old messages", LIED)
_register(Trick.EQUIVOCATE, "sends each half of the others different messages", EXPOSED)
_register(Trick.WRONG_DIGEST, "votes for digests that nobody proposed", LIED)
_register(Trick.WRONG_FIELD, "changes a field of every fifth message, re-signed", LIED)
_register(Trick.REPROPOSAL, "proposes one batch under two sequence numbers", EXPOSED)
_register(Trick.BAD_BATCH, "proposes batches that must not be accepted", EXPOSED)
_register(Trick.FORGE_VIEW_CHANGE, "hides or invents certificates", LIED)
_register(Trick.FORGE_NEW_VIEW, "orders other batches than the proofs say", LIED)
_register(Trick.FORGE_CHECKPOINT, "votes for states that do not exist", LIED)
_register(Trick.LYING_TRANSFER, "serves invented blocks to replicas that catch up", LIED)
_register(
    Trick.CONSPIRE,
    "with accomplices, sends some replicas other batches; f+1 fork the chain",
    DECEIVED,
    Conspire,
    ("on", "with"),
)
