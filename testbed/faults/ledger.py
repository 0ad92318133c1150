"""Faults of the ledger at rest: a replica is stopped, its file is damaged, and it is started again.

`ledger.bit-flip`, `ledger.truncate`, `ledger.rollback`, `ledger.wipe`, `ledger.rehash`; and
`disk.torn`. The program on the host is `on_host/edit_ledger.py`. The event's random stream decides
what is damaged and how.

At its start the replica must find the damage, move the file aside, fetch the chain from the others
and send no votes until it has passed every block on which it may have voted (`nodes.replica`). A
ledger that was rewritten as a whole passes this check at start, because it is consistent. At the
next checkpoint the replica finds that a quorum has another chain, and halts. So nothing of that
ledger reaches others.
"""

from __future__ import annotations

import json
import time
from functools import partial

from inventory.model import Lab
from nodes.keygen import KEY_FILE
from testbed.campaign.event import Category
from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, Params, register, those
from testbed.faults.processes import EndedFault
from testbed.provision.configs import STORE
from testbed.provision.layout import Node

__all__ = ["LedgerFault"]

EDIT_S_MAX = 120.0
FOUND_S_MAX = 20.0
"""How long to wait until a replica finds the damage, even longer than `for`."""
SNAPSHOT = "fault-snapshot.sqlite"


class Damage(OnProcesses):
    """Stops replicas, damages their ledgers and starts them again. They have the time `for` to find
    it. A replica that lost its ledger sends no votes for some checkpoints after that: let no other
    replica be faulty meanwhile, or raise `f`."""


class BitFlip(Damage):
    """Flips one bit of one block of a stopped replica's ledger. The row's checksum shows it when
    the replica starts."""


class Truncate(Damage):
    """Cuts off the ledger file of a stopped replica at some place."""


class Torn(Damage):
    """Kills a replica and leaves the last page of its write-ahead log half written. A disk does
    this if it loses power during a write that it has already reported as done."""


class Wipe(Damage):
    """Removes the ledger of a replica with all that belongs to it. A note beside its key says that
    it has voted in this network, so it knows that something is missing."""


class WipeReplica(Wipe):
    """Restarts replicas with empty disks, as after a card was replaced: the key is kept, so each
    knows that it has voted. It fetches the chain from the others and sends no votes for a while."""


class Rehash(Damage):
    """Rewrites one block of a replica's ledger, then makes and signs all blocks above again with
    the replica's own key, so the file is consistent. The replica learns from the next checkpoint
    that a quorum has another chain, and halts. Healing wipes its ledger, as an operator would."""


class Rollback(Damage):
    """Puts an older copy of a replica's ledger in place, as from a backup. The number of the last
    commit, which is stored beside the file, shows that it is older. With `mark: true` that number
    is put back too: then the replica cannot know, and may vote again on blocks that it has
    forgotten."""

    mark: bool = False


class LedgerFault(EndedFault):
    """`verb` is what the program does to the ledger; `found` the event that the replica logs when
    it finds the damage."""

    def __init__(self, scene: Scene, verb: str, found: str) -> None:
        super().__init__(scene)
        self._verb = verb
        self._found = found
        self._did: dict[str, object] = {}
        self._found_before: dict[str, int] = {}
        self._struck_s = 0.0

    def arm(self) -> None:
        super().arm()
        if self._verb == "rollback":
            for node in self.scene.candidates("on"):
                self._run(node, "snapshot", node.file(SNAPSHOT))

    def apply(self) -> None:
        super().apply()
        self._struck_s = time.monotonic()

    def strike(self, node: Node) -> None:
        deployment = self.scene.deployment
        self._found_before[node.name] = self._findings(node)
        if self._verb == "tear":
            self.kill(node)  # or it would fold its log
        deployment.hold_down(node)
        more = []
        if self._verb == "rehash":
            more = [node.file(f"keys/{KEY_FILE}")]
        if self._verb == "rollback":
            more = [node.file(SNAPSHOT), *(["mark"] if self._unnoticed else [])]
        self._did[node.name] = self._run(node, self._verb, *more)
        deployment.start_node(node)

    @property
    def _unnoticed(self) -> bool:
        return bool(self.scene.event.params.get("mark"))

    def _run(self, node: Node, verb: str, *more: str) -> object:
        arguments = verb, node.file(STORE), str(self.scene.rng.getrandbits(31)), *more
        program = "faults/on_host/edit_ledger.py"
        said = self.scene.deployment.run_program(node, program, *arguments, timeout_s=EDIT_S_MAX)
        return json.loads(said)

    def _findings(self, node: Node) -> int:
        """How often it has logged damage. If it cannot know of the damage, its starts are
        counted."""
        event = "started" if self._unnoticed else self._found
        return self.scene.watch.nodes[node.name].counts[event]

    def observe(self, within_s: float) -> Seen | None:
        def found() -> bool:
            return all(self._findings(node) > self._found_before[node.name] for node in self.hit)

        # A replica executes all its blocks before it logs anything.
        left_s = self._struck_s + FOUND_S_MAX - time.monotonic()
        if not self.scene.watch.wait_for(found, max(within_s, left_s)):
            return None
        what = "it began at a lower height" if self._unnoticed else f"it says {self._found}"
        return Seen(what, self._did)

    def repair(self, node: Node) -> None:
        if self._verb == "rehash" and node.name in self._did:
            del self._did[node.name]  # once
            self.scene.deployment.hold_down(node)
            self._run(node, "wipe")
        super().repair(node)


def _of_replicas(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    others = [name for name in hosts if name not in lab.replicas()]
    return f"{', '.join(others)}: no replica, so no ledger" if len(others) == len(hosts) else None


def _register(
    name: str,
    params: type[Params],
    verb: str,
    found: str,
    summary: str,
    *,
    lies: bool = False,
    category: Category = "fault",
) -> None:
    make = partial(LedgerFault, verb=verb, found=found)
    register(
        Kind(
            name,
            params,
            category=category,
            layer="ledger",
            summary=summary,
            mechanisms=(Mechanism("file", make, available=_of_replicas, systems=("chain",)),),
            impairs=those("on"),
            lies=lies,
            seen=f"the replica says `{found}`",
        )
    )


_register(
    "replica.wipe",
    WipeReplica,
    "wipe",
    "store-missing",
    "an operator restarts a replica with an empty disk",
    category="action",
)
_register(
    "ledger.bit-flip", BitFlip, "flip", "store-damaged", "one bit of one stored block is flipped"
)
_register("ledger.truncate", Truncate, "truncate", "store-damaged", "the ledger file is cut off")
_register("disk.torn", Torn, "tear", "store-damaged", "the last write to the ledger is torn")
_register("ledger.wipe", Wipe, "wipe", "store-missing", "the ledger is gone")
_register(
    "ledger.rollback",
    Rollback,
    "rollback",
    "store-damaged",
    "the ledger is an older copy",
    lies=True,
)
_register(
    "ledger.rehash",
    Rehash,
    "rehash",
    "diverged",
    "a block is rewritten, and all blocks above are made and signed again",
    lies=True,
)
