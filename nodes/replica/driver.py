"""Carries out the effects that the consensus core asks for: the one interpreter of effects.

`Driver` is synchronous and knows no event loop. The replica process feeds it what arrived and which
timers fired; the simulator does the same in virtual time. Only the ports differ.

The rule is **persist, then send**: everything persisted before a `Sync` is durable before anything
that follows the `Sync` leaves. A step handles several inputs and collects their writes and
messages. If one of them asked for a `Sync`, the step commits; only then does it send. Otherwise its
writes wait for the next commit. Blocks are written in the same transactions. A reply (`Seal`) needs
no sync for its block: q replicas hold the prepared certificate durably, and the head is a function
of the chain.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

import msgspec

from chain.block import Block, Head
from chain.errors import PeerFault
from chain.genesis import Membership
from chain.keys import Signer
from chain.ledger.ledger import Ledger
from chain.pbft.effects import (
    Accuse,
    Broadcast,
    CancelTimer,
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
    Timer,
)
from chain.pbft.inputs import (
    Executed,
    Input,
    Installed,
    InstallFailed,
    Submitted,
    TimerFired,
)
from chain.pbft.messages import (
    BODIES_BYTES_MAX,
    Batch,
    Bodies,
    CheckpointProof,
    Heads,
    ReplicaMessage,
    Signed,
    decode_signed,
    encode,
    sign,
)
from chain.pbft.replica import Replica
from gateway.hops import NO_TRACE, Trace
from nodes.ports import Clock, Events, Party, Store, Stored, Timers, Wire
from nodes.replica.clients import Clients
from nodes.replica.phases import Phases
from nodes.replica.serving import TURN_BYTES_MAX, Serving

__all__ = [
    "Delayed",
    "Driver",
    "Rewrite",
]

BODIES_BLOCKS_MAX = 1024
SERVE_INTERVAL_US = 250_000  # each peer has a budget per interval (`Serving`)

_proofs = msgspec.msgpack.Decoder(CheckpointProof)


class Delayed(msgspec.Struct, frozen=True):
    """An effect to be carried out `delay_us` later."""

    effect: Broadcast | Send
    delay_us: int


# Replaces effects before they are carried out: a replica that abstains, or that lies, has one.
Rewrite = Callable[[list[Effect]], Sequence[Effect | Delayed]]

_DELAYED = "driver/delayed/"  # names of the driver's own timers
_SERVE = "driver/serve"
_DELAYED_MAX = 4096  # effects held back at once; more are lost


class Driver:
    """Runs one core. `me` is the replica's id; `signer` signs served state and heads."""

    def __init__(
        self,
        *,
        me: int,
        network: bytes,
        signer: Signer,
        core: Replica,
        application: Ledger,
        store: Store,
        wire: Wire,
        clock: Clock,
        timers: Timers,
        events: Events,
        clients: Clients,
        rewrite: Rewrite | None = None,
        keep_data_blocks: int | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """`keep_data_blocks`: older blocks lose the items of data. None: no block does."""
        self._me = me
        self._network = network
        self._signer = signer
        self._core = core
        self._application = application
        self._store = store
        self._wire = wire
        self._clock = clock
        self._timers = timers
        self._events = events
        self._clients = clients
        self._rewrite = rewrite
        self._keep_data_blocks = keep_data_blocks
        self._proven = 0  # a stable checkpoint is at or above this height
        self._answers: deque[Input] = deque()
        self._outbox: list[tuple[Party, bytes]] = []
        self._sealed: list[tuple[int, Stored, Sequence[bytes]]] = []
        self._must_sync = False
        self._delayed: dict[str, Effect] = {}
        self._delays = 0
        self._phases = Phases(events, clock, trace)
        self._serving = Serving(SERVE_INTERVAL_US)

    def start(self) -> None:
        """Once, before any step."""
        self._carry_out(self._core.start(self._clock.now_us()))
        self._answer()
        self.persist_and_send()

    def handle(
        self,
        inputs: Iterable[Input],
        effects: list[Effect] | None = None,
        fired: Iterable[str] = (),
    ) -> None:
        """Carries out `effects` (the endorser's), then handles timers that fired, then all inputs.
        Messages wait for `persist_and_send`, or for `commit` and `release`. Raises StoreFull,
        Damaged."""
        now_us = self._clock.now_us()
        if effects:
            self._carry_out(effects)
        for name in fired:
            if name in self._delayed:
                self._do(self._delayed.pop(name))
            elif name != _SERVE:
                self._handle(TimerFired(Timer(name)), now_us)
        submitted: list[Submitted] = []
        for item in inputs:
            if type(item) is Submitted:
                submitted.append(item)
            else:
                self._handle(item, now_us)
        if submitted:  # together and last: the next batch forms from all of them
            self._carry_out(self._core.submit(submitted, now_us))
        if self._serving:
            self._serve()

    def _serve(self) -> None:
        """Answers a share of the peers' questions. The rest waits for later turns."""
        now_us = self._clock.monotonic_us()
        left = TURN_BYTES_MAX
        while left > 0 and (question := self._serving.take(now_us)) is not None:
            before = len(self._outbox)
            match question:
                case ServeHeads(to=to, start=start):
                    self._serve_heads(to, start)
                case ServeBodies(to=to, start=start, stop=stop):
                    self._serve_bodies(to, start, stop)
                case SendBatch():
                    self._send_batch(question)
                case _:
                    assert_never(question)
            size = sum(len(frame) for _, frame in self._outbox[before:])
            self._serving.answered(question.to, size)
            left -= size
        delay_us = self._serving.delay_us(now_us)
        if delay_us is not None:
            self._timers.set(_SERVE, delay_us)

    def _handle(self, item: Input, now_us: int) -> None:
        self._carry_out(self._core.handle(item, now_us))
        if self._answers:
            self._answer()

    def persist_and_send(self) -> None:
        """Persist, then send. Raises StoreFull before anything is sent."""
        self.commit()
        self.release()
        self.sent()

    @property
    def must_sync(self) -> bool:
        """Whether the waiting messages depend on something that is not durable yet."""
        return self._must_sync

    def commit(self) -> None:
        """Syncs the store if it must. May run in another thread if nothing else uses driver or
        store until it returns."""
        if self._must_sync:
            self._store.commit()
            self._must_sync = False
            self._phases.synced()

    def release(self) -> None:
        """Sends the waiting messages. Call it only after `commit`."""
        assert not self._must_sync
        outbox, self._outbox = self._outbox, []
        for party, frame in outbox:
            self._wire.send(party, frame)
        # Replies too: our own COMMIT counted, so our prepared certificate must be durable first.
        sealed, self._sealed = self._sealed, []
        for height, stored, requests in sealed:
            self._clients.sealed(height, stored, requests)

    def sent(self) -> None:
        """Call it when the released messages have left: the trace notes it."""
        self._phases.sent()

    def idle(self) -> None:
        """To be called now and then: commits blocks that no later step has committed."""
        self._store.commit()

    def _send(self, party: int, message: ReplicaMessage) -> None:
        """Sends served state. The driver signs it, because the core does not see the store."""
        self._carry_out([Send(party, sign(self._signer, self._network, message))])

    def _answer(self) -> None:
        """Hands the core the results of Execute and Install before any other input."""
        while self._answers:
            now_us = self._clock.now_us()
            self._carry_out(self._core.handle(self._answers.popleft(), now_us))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects if self._rewrite is None else self._rewrite(effects):
            self._do(effect)

    def _delay(self, delayed: Delayed) -> None:
        if len(self._delayed) < _DELAYED_MAX:
            self._delays += 1
            name = f"{_DELAYED}{self._delays}"
            self._delayed[name] = delayed.effect
            self._timers.set(name, delayed.delay_us)

    def _do(self, effect: Effect | Delayed) -> None:  # noqa: PLR0912 - one branch per effect, closed below
        # Frequent effects are found by their exact type: a pattern that fails costs ten times that.
        if type(effect) is Observe:
            self._phases.observe(effect.what, effect.view, effect.seq, self._core.epoch)
            return
        if type(effect) is Persist:
            self._store.put_fact(effect.fact)
            return
        if type(effect) is Broadcast:
            frame = encode(effect.signed)
            self._outbox += [(replica, frame) for replica in self._listeners()]
            return
        if type(effect) is Sync:
            self._must_sync = True
            self._phases.voted()
            return
        match effect:
            case Execute():
                self._execute(effect)
            case SetTimer(timer=timer, delay_us=delay_us):
                self._timers.set(timer, delay_us)
            case CancelTimer(timer=timer):
                self._timers.cancel(timer)
            case Send(to=to, signed=signed):
                self._outbox.append((to, encode(signed)))
            case SendBatch() | ServeHeads() | ServeBodies():
                self._serving.put(effect)
            case Forget(seq=seq):
                self._store.forget(seq)
                self._proven = seq
            case Install():
                self._install(effect)
            case Accuse(culprit=culprit, reason=reason, first=first, second=second):
                evidence = [encode(each) for each in (first, second) if each is not None]
                self._events.emit("accuse", culprit=culprit, reason=reason, evidence=evidence)
            case Refuse(request=request, reason=reason):
                self._clients.refused(request, reason)
            case Delayed():
                self._delay(effect)
            case _:
                assert_never(effect)

    def _listeners(self) -> list[int]:
        """Every other member, and one that is being added: it follows before it votes."""
        ids = {*self._core.membership.ids, *self._application.decided_membership.ids}
        return sorted(ids - {self._me})

    def _execute(self, effect: Execute) -> None:
        application = self._application
        before = application.decided_membership
        block = application.execute(effect.proposal, effect.requests, effect.epoch)
        self._keep(block, [request.id for request in effect.requests])
        self._phases.executed(Head.decode(block.head))
        self._stands_now(Executed, before)

    def _install(self, effect: Install) -> None:
        """Appends blocks that link to a proven head. A head commits to every byte of its body, so
        the signatures in it need no second check: q replicas checked them before they voted."""
        application = self._application
        before = application.decided_membership
        failure: InstallFailed | None = None
        start = application.height
        for block in effect.blocks:
            try:
                application.append(block, check_signatures=False)
            except PeerFault as fault:
                failure = InstallFailed(effect.source, application.height + 1, str(fault))
                break
            self._keep(block)
        if application.height > start:
            self._stands_now(Installed, before)
        if failure is not None:
            self._answers.append(failure)
        self._events.emit("installed", height=application.height, source=effect.source)

    def _stands_now(self, kind: type[Executed | Installed], before: Membership) -> None:
        """Tells the core where the ledger stands, and the next epoch's membership if it was decided
        just now."""
        ledger = self._application
        after = ledger.decided_membership
        changed = after if after.epoch != before.epoch else None
        self._answers.append(kind(ledger.height, ledger.head_hash, ledger.time_us, changed))

    def _keep(self, block: Block, requests: Sequence[bytes] = ()) -> None:
        """One signature per block: the reply to every request in it (PROTOCOL: Block)."""
        stored = Stored(block, self._signer.sign(block.head))
        height = self._application.height
        self._store.put_block(height, stored)
        if self._keep_data_blocks is not None:
            self._store.prune(min(self._proven, height - self._keep_data_blocks))
        self._sealed.append((height, stored, requests))

    def _send_batch(self, effect: SendBatch) -> None:
        fact = self._store.fact("proposal", effect.view, effect.seq)
        if fact is None:
            return
        batch, pre_prepare = decode_signed(fact.data).attachment, effect.pre_prepare
        if pre_prepare is None:
            self._send(effect.to, Batch(self._core.epoch, self._me, batch))
        else:
            signed = Signed(pre_prepare.body, pre_prepare.signature, batch)
            self._carry_out([Send(effect.to, signed)])

    def _serve_heads(self, to: int, start: int) -> None:
        fact = self._store.stable_from(start)
        if fact is None or self._wire.congested(to):
            return
        proof = _proofs.decode(fact.data)
        heads = tuple(self._store.heads(start, fact.seq))
        if len(heads) != fact.seq - start + 1:
            return  # the checkpoint is proven, but we lack blocks below it ourselves
        self._send(to, Heads(self._core.epoch, self._me, start, heads, proof.votes))

    def _serve_bodies(self, to: int, start: int, stop: int) -> None:
        if self._wire.congested(to):
            return  # it will ask again; a peer that does not read must not cost us memory
        blocks: list[Block] = []
        size = 0
        for stored in self._store.blocks(start, min(stop, start + BODIES_BLOCKS_MAX - 1)):
            size += stored.block.body_bytes
            if blocks and size > BODIES_BYTES_MAX:
                break
            blocks.append(stored.block)
        if blocks:
            bodies = Bodies(self._core.epoch, self._me, start, tuple(blocks), self._store.pruned)
            self._send(to, bodies)
