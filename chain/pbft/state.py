"""The state of a replica, and the small actions that its handlers share.

No decision is made here. `enter_epoch` builds the state of an epoch again, `enter_view` that of a
view. A comment beside each part names the modules that change it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from chain.errors import Misuse
from chain.genesis import Consensus, Membership
from chain.keys import Signer
from chain.pbft.effects import (
    Accuse,
    Broadcast,
    Durable,
    Effect,
    FactKind,
    Observation,
    Observe,
    Persist,
    Send,
    Sync,
)
from chain.pbft.fetching import Transfer
from chain.pbft.log import Log
from chain.pbft.messages import CheckpointProof, ReplicaMessage, Signed, encode, sign
from chain.pbft.pool import Pool
from chain.pbft.state_machine import StateMachine
from chain.pbft.view_state import ViewState
from chain.pbft.view_timeout import ViewTimeout
from chain.pbft.votes import CheckpointVotes, Equivocation, ViewChanges

__all__ = ["ACCUSATIONS_MAX", "Peer", "ReplicaState", "ViewFact"]

ACCUSATIONS_MAX = 1024  # distinct (culprit, reason) that are reported


class ViewFact(msgspec.Struct, frozen=True, array_like=True):
    """Durable before any vote in this view: this replica's view. `message`: our VIEW-CHANGE
    while we wait for the view, None once it is active."""

    epoch: int
    view: int
    active: bool
    message: Signed | None


class Peer(msgspec.Struct):
    """Our memory of one peer, bounded: its last STATUS and our answers to it."""

    status_us: int = -(2**62)
    executed: int = -1
    stuck: int = 0  # STATUS in a row without progress
    resent: int = 0  # log contents up to this number were sent to it since it was stuck
    served: int = 0  # fetches answered since the last tick
    served_bytes: int = 0


class ReplicaState:
    """`me`: own replica id (need not be a member yet: a replica that is being added follows).
    `membership`: the membership that decided the block `executed` (epoch 0 at genesis).
    `pending`: the next epoch's membership, if a block up to `executed` has decided it and it did
    not decide `executed` itself (it decides the first block after the next checkpoint).
    `holds`: whether a statement has a valid signature of its sender (`verify.Verifier.holds`).
    `executed`: (height, head hash, block time in microseconds) of the last block in the ledger.
    """

    def __init__(
        self,
        me: int,
        membership: Membership,
        consensus: Consensus,
        network: bytes,
        signer: Signer,
        *,
        state_machine: StateMachine,
        holds: Callable[[Signed], bool],
        executed: tuple[int, bytes, int],
        pending: Membership | None = None,
    ) -> None:
        if pending is not None and pending.epoch != membership.epoch + 1:
            raise Misuse(f"pending epoch {pending.epoch} does not follow {membership.epoch}")
        self.me = me
        self.consensus = consensus
        self.network = network
        self.state_machine = state_machine
        self.holds = holds
        self._signer = signer
        self.now_us = 0
        self.out: list[Effect] = []
        self.halted = False  # a quorum has certified another chain: stopped for good

        # The chain, as far as the host has reported it (`checkpoint`).
        self.executed, self.head, self.time_us = executed
        self.busy = False  # an Execute or Install is unanswered
        self.stable = CheckpointProof(0, bytes(32), ())  # the highest proven checkpoint
        # The next epoch, if a block has decided it, and its last block of this one (`membership`).
        self.pending = pending
        self.boundary = self.checkpoint_at_or_above(self.executed) if pending else 0
        self.enter_epoch(membership)

        self.pool = Pool()
        self.transfer = Transfer()
        # Status intervals (`status`).
        self.peers: dict[int, Peer] = {}
        self.tick = 0
        self.tick_us = 0  # when it was
        self.tick_late = False
        self.tick_executed = -1
        self._accused: set[tuple[int, str]] = set()  # never iterated

    def enter_epoch(self, membership: Membership) -> None:
        """View 0 of an epoch, with an empty log."""
        self.membership = membership
        self.quorum = membership.quorum
        # A replica that is being added, or was removed, follows without a vote.
        self.voting = membership.spki(self.me) is not None
        self.may_have_voted = False  # in this view, before a restart (`recovery`)
        self.log = Log(self.quorum.strong, self.consensus.log_window)
        self.heads: dict[int, bytes] = {}  # our own at checkpoints above the stable one
        self.checkpoint_votes = CheckpointVotes()
        self.view_changes = ViewChanges()
        self.timeout = ViewTimeout(self.consensus)
        self.enter_view(0, active=True)

    def enter_view(self, number: int, *, active: bool, new_view: Signed | None = None) -> None:
        """`active` is False while its NEW-VIEW is not here."""
        self.view = ViewState(
            number=number,
            primary=self.membership.primary(number),
            active=active,
            new_view=new_view,
            next_seq=self.executed + 1,
            last_time_us=self.time_us,
            timed_from_us=self.now_us,
        )

    # --- derived -----------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self.membership.epoch

    @property
    def is_primary(self) -> bool:
        return self.view.active and self.view.primary == self.me

    def checkpoint_at_or_above(self, seq: int) -> int:
        interval = self.consensus.checkpoint_interval
        return -(-seq // interval) * interval

    @property
    def others(self) -> list[int]:
        """Everybody who may have what we miss, in order."""
        ids = set(self.membership.ids)
        if self.pending is not None:
            ids |= set(self.pending.ids)
        return sorted(ids - {self.me})

    def peer(self, replica: int) -> Peer:
        peer = self.peers.get(replica)
        if peer is None:
            peer = self.peers[replica] = Peer()
        return peer

    # --- verbs -------------------------------------------------------------------------------

    def sign(self, message: ReplicaMessage, attachment: bytes = b"") -> Signed:
        return sign(self._signer, self.network, message, attachment)

    def broadcast(self, message: ReplicaMessage) -> Signed:
        signed = self.sign(message)
        self.out.append(Broadcast(signed))
        return signed

    def send(self, to: int, message: ReplicaMessage) -> None:
        self.out.append(Send(to, self.sign(message)))

    def relay(self, to: int, signed: Signed) -> None:
        self.out.append(Send(to, signed))

    def persist(self, kind: FactKind, view: int, seq: int, data: bytes) -> None:
        self.out.append(Persist(Durable(kind, view, seq, data)))

    def persist_view(self, message: Signed | None = None) -> None:
        """Only one such fact exists: our current view. It is durable before we send anything in
        that view, so a replica that restarts knows every view in which it may have voted
        (`recovery`)."""
        fact = ViewFact(self.epoch, self.view.number, self.view.active, message)
        self.persist("view", 0, 0, encode(fact))
        self.out.append(Sync())

    def observe(self, what: Observation, seq: int) -> None:
        self.out.append(Observe(what, self.view.number, seq))

    def accuse(
        self, culprit: int, reason: str, first: Signed, second: Signed | None = None
    ) -> None:
        """Reports once per culprit and reason. Never accuses ourselves: statements that we lost
        with our disk may come back from peers and contradict votes that we make now and do not
        send."""
        key = (culprit, reason)
        if culprit == self.me or key in self._accused or len(self._accused) >= ACCUSATIONS_MAX:
            return
        self._accused.add(key)
        self.out.append(Accuse(culprit, reason, first.bare, second and second.bare))

    def accuse_equivocation(self, fact: Equivocation) -> None:
        """Needs two valid signatures: nobody else could check a COMMIT that has none."""
        if self.holds(fact.first) and self.holds(fact.second):
            self.accuse(fact.culprit, f"equivocation-{fact.what}", fact.first, fact.second)
