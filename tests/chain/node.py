"""A replica's host in a cluster in memory: it carries out the effects of a real core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from chain.block import Block
from chain.errors import PeerFault
from chain.genesis import Membership
from chain.pbft.effects import (
    Accuse,
    Broadcast,
    CancelTimer,
    Durable,
    Effect,
    Execute,
    Forget,
    Install,
    Observe,
    Persist,
    Refuse,
    Send,
    SendBatch,
    ServeBodies,
    ServeHeads,
    SetTimer,
    Sync,
)
from chain.pbft.inputs import (
    Executed,
    Input,
    Installed,
    InstallFailed,
    Submitted,
)
from chain.pbft.messages import (
    Batch,
    Bodies,
    CheckpointProof,
    Heads,
    ReplicaMessage,
    Signed,
    decode_signed,
)
from chain.pbft.replica import Replica
from chain.pbft.state import ReplicaState
from chain.pbft.verify import Verifier
from tests.chain.fakes import NETWORK, FakeScheme, Ledger, open_items, sign, signer_of

if TYPE_CHECKING:
    from tests.chain.cluster import Cluster

__all__ = ["PIECE_BYTES_MAX", "Crash", "Node"]

PIECE_BYTES_MAX = 1 << 20


class Crash(Exception):
    """A power failure at a persist boundary."""


class Node:
    """A replica's host: ledger, durable facts, timers; carries out effects in order."""

    def __init__(self, cluster: Cluster, me: int, membership: Membership) -> None:
        self.cluster = cluster
        self.me = me
        self.signer = signer_of(me)
        self.ledger = Ledger(membership, cluster.consensus.checkpoint_interval)
        self.store: dict[tuple[str, int, int], Durable] = {}
        self.durable: dict[
            tuple[str, int, int], Durable
        ] = {}  # the part of it that is synced, and the height that is
        self.synced = 0
        self.keeps_unsynced = False  # when it crashes
        self.clock_skew_us = 0
        self.writes = 0
        self.crash_at: int | None = None  # the number of the persist or sync that is the last
        self.boot()

    def boot(self) -> None:
        self.alive = True
        self.timers: dict[str, int] = {}
        self.inbox: list[Input] = []
        ledger = self.ledger
        self.verifier = Verifier(NETWORK, FakeScheme(), ledger.memberships.get, open_items)
        state = ReplicaState(
            self.me,
            ledger.membership,
            self.cluster.consensus,
            NETWORK,
            self.signer,
            state_machine=ledger,
            holds=self.verifier.holds,
            executed=ledger.tip,
            pending=ledger.pending,
        )
        self.replica = Replica(state, list(self.store.values()))

    @property
    def now_us(self) -> int:
        return self.cluster.now_us + self.clock_skew_us

    def start(self) -> None:
        self._guarded(lambda: self._carry_out(self.replica.start(self.now_us)))

    def crash(self) -> None:
        """What was not synced is lost, unless `keeps_unsynced`."""
        self.alive = False
        self.timers = {}
        if self.keeps_unsynced:
            return
        self.store = dict(self.durable)
        if self.ledger.membership.epoch == 0 and self.ledger.pending is None:
            self.ledger.truncate(min(self.synced, self.ledger.height))

    def give(self, *inputs: Input) -> None:
        self.inbox += inputs
        self._guarded(self._work)

    def submit(self, requests: Sequence[Submitted]) -> None:
        """Requests of its own clients, handed over together."""
        self._guarded(lambda: self._carry_out(self.replica.submit(requests, self.now_us)))

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._work()
        except Crash:
            self.crash()

    def _work(self) -> None:
        while self.inbox:
            next_input = self.inbox.pop(0)
            self._carry_out(self.replica.handle(next_input, self.now_us))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:  # noqa: PLR0912 - one line per effect
        match effect:
            case Persist(fact):
                self.store[(fact.kind, fact.view, fact.seq)] = fact
                self._written()
            case Sync():
                self.synced, self.durable = self.ledger.height, dict(self.store)
                self._written()
            case Forget(seq):
                for key in [k for k in self.store if k[0] in ("proposal", "prepared")]:
                    if key[2] <= seq:
                        del self.store[key]
            case Send(to, signed):
                self.cluster.post(self.me, to, signed)
            case SendBatch(to, view, seq, pre_prepare):
                self._send_batch(to, self.store.get(("proposal", view, seq)), pre_prepare)
            case Broadcast(signed):
                for to in sorted(self.cluster.nodes):
                    if to != self.me:
                        self.cluster.post(self.me, to, signed)
            case SetTimer(timer, delay_us):
                self.timers[timer] = self.cluster.now_us + delay_us
            case CancelTimer(timer):
                self.timers.pop(timer, None)
            case Execute(proposal, requests, epoch):
                before = self.ledger.pending
                self.ledger.execute(proposal, requests, epoch)
                self.inbox.append(Executed(*self.ledger.tip, self._changed(before)))
                self.cluster.check_chain(self)
            case Install(blocks, source):
                self._install(blocks, source)
            case ServeHeads(to, start):
                self._serve_heads(to, start)
            case ServeBodies(to, start, stop):
                self._serve_bodies(to, start, stop)
            case Accuse():
                self.cluster.accusations.append((self.me, effect))
            case Refuse(request, reason):
                self.cluster.refusals.append((self.me, request, reason))
            case Observe(what, view, seq):
                self.cluster.note(f"{self.me} {what} view {view} seq {seq}")

    def _written(self) -> None:
        self.writes += 1
        if self.crash_at == self.writes:
            raise Crash

    def _changed(self, before: Membership | None) -> Membership | None:
        after = self.ledger.pending
        return after if after is not before else None

    def _install(self, blocks: tuple[Block, ...], source: int) -> None:
        before = self.ledger.pending
        for block in blocks:
            try:
                self.ledger.append(block)
            except PeerFault as fault:
                seq = self.ledger.height + 1
                if self.ledger.height > self.replica.executed:
                    self.inbox.append(Installed(*self.ledger.tip, self._changed(before)))
                self.inbox.append(InstallFailed(source, seq, str(fault)))
                return
            self.cluster.check_chain(self)
        self.inbox.append(Installed(*self.ledger.tip, self._changed(before)))

    def _send_batch(self, to: int, fact: Durable | None, pre_prepare: Signed | None) -> None:
        assert fact is not None, "a batch that is neither in memory nor in the store"
        batch = decode_signed(fact.data).attachment
        assert batch, "a fact without the batch that it is said to hold"
        if pre_prepare is None:
            self.answer(to, Batch(self.replica.epoch, self.me, batch))
        else:
            self.cluster.post(self.me, to, Signed(pre_prepare.body, pre_prepare.signature, batch))

    def _serve_heads(self, to: int, start: int) -> None:
        stable = sorted(k[2] for k in self.store if k[0] == "stable" and k[2] >= start)
        if not stable or stable[0] > self.ledger.height:
            return
        fact = self.store[("stable", 0, stable[0])]
        proof = msgspec.msgpack.decode(fact.data, type=CheckpointProof)
        heads = tuple(block.head for block in self.ledger.blocks[start : proof.seq + 1])
        self.answer(to, Heads(self.replica.epoch, self.me, start, heads, proof.votes))

    def _serve_bodies(self, to: int, start: int, stop: int) -> None:
        blocks = tuple(self.ledger.blocks[start : stop + 1])
        self.answer(to, Bodies(self.replica.epoch, self.me, start, blocks))

    def answer(self, to: int, message: ReplicaMessage) -> None:
        self.cluster.post(self.me, to, sign(self.signer, message))
