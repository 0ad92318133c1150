"""What a replica knows, shared by all handlers, and the small verbs with which they act.

No decision is made here: those are in `normal`, `checkpoint`, `view_change`, `status`,
`transfer`, `membership`.
"""

from __future__ import annotations

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
)
from chain.pbft.fetching import Transfer
from chain.pbft.inputs import Received
from chain.pbft.log import Equivocation, Log
from chain.pbft.messages import (
    CheckpointProof,
    NewView,
    ReplicaMessage,
    Signed,
    ViewChange,
    encode,
    signed_bytes,
)
from chain.pbft.pool import Pool
from chain.pbft.state_machine import StateMachine

__all__ = ["ACCUSATIONS_MAX", "Peer", "ReplicaState", "ViewFact", "as_new_view", "as_view_change"]

ACCUSATIONS_MAX = 1024  # distinct (culprit, reason) that are reported


class ViewFact(msgspec.Struct, frozen=True, array_like=True):
    """Durable: where this replica stands. `message`: our VIEW-CHANGE while we wait for the view,
    the NEW-VIEW once it is active, None in view 0."""

    epoch: int
    view: int
    active: bool
    message: Signed | None


class Peer:
    """What we remember about one peer, bounded: its last STATUS and what we served it."""

    __slots__ = ("executed", "served", "status_us", "stuck")

    def __init__(self) -> None:
        self.status_us = -(2**62)
        self.executed = -1
        self.stuck = 0  # STATUS in a row without progress
        self.served = 0  # pieces since the last tick


class ReplicaState:
    def __init__(
        self,
        me: int,
        membership: Membership,
        consensus: Consensus,
        network: bytes,
        signer: Signer,
        *,
        state_machine: StateMachine,
        executed: tuple[int, bytes, int],
        pending: Membership | None,
    ) -> None:
        self.me = me
        self.consensus = consensus
        self.network = network
        self.state_machine = state_machine
        self._signer = signer
        self.now_us = 0
        self.out: list[Effect] = []
        self.halted = False

        # The chain, as far as the host has reported it.
        self.executed, self.head, self.time_us = executed
        self.busy = False  # an Execute or Install is unanswered

        # Membership: the current epoch, and the next one if a block has decided it.
        self.membership = membership
        self.quorum = membership.quorum
        # A replica that is being added, or was removed, follows without a vote.
        self.voting = membership.spki(me) is not None
        self.pending = pending
        self.boundary = self.checkpoint_at_or_above(self.executed) if pending else 0

        # The view, and the way into the next one.
        self.view = 0
        self.active = True
        self.primary = membership.primary(0)
        self.new_view: Signed | None = None  # what made `view` active
        self.view_changes: dict[int, Received] = {}  # each sender's newest
        # How fast it goes (see `patience`).
        self.attempts = 0  # how often the timeout is doubled
        self.quick = consensus.pipeline_window  # blocks in a row; view 0 has our trust
        self.blocks = 0  # of this view, or since `attempts` fell
        self.working_since_us: int | None = None
        self.suspected = ""  # why the primary is to be left at once
        self.view_timer_runs = False  # after q VIEW-CHANGEs

        # Proposals and votes of the current view.
        self.log = Log(self.quorum.strong, consensus.log_window)
        self.pool = Pool()
        self.next_seq = self.executed + 1  # the next to accept (or, as primary, to propose)
        self.last_time_us = self.time_us  # of the newest accepted proposal
        self.waited: tuple[int, int, int] | None = None  # when the next offer was last judged
        self.proposed_us = 0  # when this primary proposed last

        # Checkpoints.
        self.stable = CheckpointProof(0, bytes(32), ())  # highest proven
        self.heads: dict[int, bytes] = {}  # our own at checkpoints above the stable one
        self.checkpoint_votes: dict[int, dict[int, tuple[bytes, Signed]]] = {}

        # Progress, peers, accusations.
        self.watch: tuple[str, bytes | int] | None = None
        self.timed_from_us = 0  # requests are timed from here at the earliest: view, full batch
        self.oldest = b""  # the request that is or was last watched
        self.overtaken = 0  # by so many that were executed since, in full batches
        self.peers: dict[int, Peer] = {}
        self.tick = 0
        self.tick_executed = -1
        self.accused: set[tuple[int, str]] = set()  # never iterated
        self.transfer = Transfer()

    # --- derived -----------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        return self.membership.epoch

    @property
    def is_primary(self) -> bool:
        return self.active and self.primary == self.me

    @property
    def timeout_us(self) -> int:
        """Doubled as often as `patience` says, capped (OSDI'99, section 4.5.2)."""
        consensus = self.consensus
        doubled = consensus.view_timeout_us << self.attempts
        return min(doubled, consensus.view_timeout_us_max)

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
        body = encode(message)
        return Signed(body, self._signer.sign(signed_bytes(self.network, body)), attachment)

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

    def observe(self, what: Observation, seq: int) -> None:
        self.out.append(Observe(what, self.view, seq))

    def accuse(
        self, culprit: int, reason: str, first: Signed, second: Signed | None = None
    ) -> None:
        """Once per culprit and reason. Never ourselves: what we forgot with our disk may come back
        from peers, and contradict what we say now and, in quarantine, keep to ourselves."""
        key = (culprit, reason)
        if culprit == self.me or key in self.accused or len(self.accused) >= ACCUSATIONS_MAX:
            return
        self.accused.add(key)
        self.out.append(Accuse(culprit, reason, _bare(first), second and _bare(second)))

    def accuse_equivocation(self, fact: Equivocation) -> None:
        self.accuse(fact.culprit, f"equivocation-{fact.what}", fact.first, fact.second)

    def view_change_of(self, sender: int) -> ViewChange | None:
        received = self.view_changes.get(sender)
        return None if received is None else as_view_change(received)


def as_view_change(received: Received) -> ViewChange:
    message = received.message
    if not isinstance(message, ViewChange):
        raise Misuse(f"not a VIEW-CHANGE: {type(message).__name__}")
    return message


def as_new_view(received: Received) -> NewView:
    message = received.message
    if not isinstance(message, NewView):
        raise Misuse(f"not a NEW-VIEW: {type(message).__name__}")
    return message


def _bare(signed: Signed) -> Signed:
    """Without attachment: the digest in the body binds it."""
    return Signed(signed.body, signed.signature) if signed.attachment else signed
