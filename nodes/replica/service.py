"""One replica without an event loop: ledger, core, verifier, gateways and driver put together.

The replica process feeds it from sockets and real timers, the simulator from virtual ones. Frames
are first *verified* (decoded, signatures checked: pure, so threads may do it, many at a time). Then
one *step* handles them (persist, then send).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import final

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis, Membership
from chain.keys import Scheme, Signer
from chain.ledger.endorsement import Endorser, EndorserEffect, is_access_request
from chain.ledger.item import make_item, open_items
from chain.ledger.ledger import Ledger
from chain.pbft.effects import Effect, Send
from chain.pbft.inputs import Input, Received, Submitted
from chain.pbft.message_filter import MessageFilter
from chain.pbft.messages import (
    Busy,
    Denied,
    Endorsement,
    EndorseRequest,
    ReplicaMessage,
    StatusMessage,
    Submit,
    Subscribe,
    decode_body,
    decode_client,
    decode_signed,
)
from chain.pbft.replica import Replica
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import VerifiedRequest
from chain.pbft.verify import Verifier
from gateway.hops import NO_TRACE, Hop, Trace
from gateway.refusing import refusing
from nodes.ports import Clock, Events, Party, Store, Timers, Wire
from nodes.replica.abstention import Abstention
from nodes.replica.clients import Clients
from nodes.replica.driver import Delayed, Driver, Rewrite
from nodes.replica.ledger_file import Damaged

__all__ = ["Service", "Superfluous", "Verified"]


@final
class Superfluous(msgspec.Struct, frozen=True):
    """A message that is dropped before its signatures are verified: a vote on something that is
    decided already, a batch that nobody asked for, or a batch proposed in another view."""


# A frame after verification: what it was, or why it is refused.
Verified = Received[ReplicaMessage] | VerifiedRequest | Subscribe | Superfluous | PeerFault

_MEMBERSHIPS_MAX = 64  # past epochs whose messages can still be verified
_NOT_BLAMED = "unknown-epoch"
_SUPERFLUOUS = Superfluous()


class Service:
    """Rebuilds the ledger from `store` when it is made. Raises Damaged if that does not work.

    `abstention` (after damage) and `wrap` (in tests and attacks) change the messages.
    """

    def __init__(
        self,
        *,
        me: int,
        genesis: Genesis,
        signer: Signer,
        scheme: Scheme,
        store: Store,
        wire: Wire,
        clock: Clock,
        timers: Timers,
        events: Events,
        wrap: Callable[[Service], Rewrite | None] | None = None,
        abstention: Abstention | None = None,
        on_abstention: Callable[[int | None], None] = lambda _: None,
        keep_data_blocks: int | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._trace = trace
        self.faults: Counter[tuple[Party, str]] = Counter()
        self._events = events
        self._network = genesis.network
        self._scheme = scheme
        self._abstention = abstention
        self._on_abstention = on_abstention
        self.ledger = Ledger(genesis, scheme)
        self._memberships = {0: genesis.membership}
        decided_by = self._replay(store)
        newest = self.ledger.decided_membership
        self._verifier = Verifier(
            self._network, scheme, self._membership, self._verify_items, newest.epoch
        )
        state = ReplicaState(
            me,
            decided_by,
            genesis.consensus,
            self._network,
            signer,
            state_machine=self.ledger,
            holds=self._verifier.holds,
            executed=(self.ledger.height, self.ledger.head_hash, self.ledger.time_us),
            pending=newest if newest.epoch != decided_by.epoch else None,
        )
        self.core = Replica(state, store.facts())
        self._endorser = Endorser(
            me,
            self._network,
            genesis.policy,
            signer=signer,
            judge=self.ledger.registry.judge,
            open_item=self._verifier.open,
        )
        self.clients = Clients(me, store, wire, lambda: self.core.view)
        self._wrapper = wrap(self) if wrap is not None else None
        self.driver = Driver(
            me=me,
            network=self._network,
            signer=signer,
            core=self.core,
            application=self.ledger,
            store=store,
            wire=wire,
            clock=clock,
            timers=timers,
            events=events,
            clients=self.clients,
            rewrite=self._rewrite if abstention or self._wrapper else None,
            keep_data_blocks=keep_data_blocks,
            trace=trace,
        )

    def start(self) -> None:
        """Once, before any step."""
        self.driver.start()

    def verify(self, party: Party, frame: bytes) -> Verified:
        """Decodes and verifies one frame. Pure and thread-safe; never raises."""
        ((_, verified),) = self.verify_all(((party, frame),))
        return verified

    def verify_all(self, frames: Sequence[tuple[Party, bytes]]) -> list[tuple[Party, Verified]]:
        """As `verify`, in order. Requests that were submitted together are verified together."""
        verified: list[tuple[Party, Verified]] = []
        places: list[int] = []
        items: list[bytes] = []
        message_filter = self.core.message_filter()
        for party, frame in frames:
            one = self._verify_frame(party, frame, message_filter)
            if type(one) is Submit:
                places.append(len(verified))
                items.append(make_item(one.request))
                one = _SUPERFLUOUS  # until it is verified
            verified.append((party, one))
        if places:
            for place, request in zip(places, self._verifier.open_all(items), strict=True):
                verified[place] = verified[place][0], request
        return verified

    def _verify_frame(
        self, party: Party, frame: bytes, message_filter: MessageFilter
    ) -> Verified | Submit:
        """Any exception here is the sender's fault: nothing here changes any state."""
        try:
            with refusing():
                if not isinstance(party, int):
                    return self._read_client(frame)
                signed = decode_signed(frame)
                message = decode_body(signed.body)
                if message_filter.superfluous(message):
                    return _SUPERFLUOUS
                received = self._verifier.verify(message, signed, party)
                message_filter.verified(message)
                return received
        except PeerFault as fault:
            return fault

    def step(self, arrived: Iterable[tuple[Party, Verified]], fired: Sequence[str] = ()) -> None:
        """Handles timers that fired and frames that were verified; persists, then sends. Raises
        StoreFull, Damaged."""
        self.handle(arrived, fired)
        self.driver.persist_and_send()

    def handle(self, arrived: Iterable[tuple[Party, Verified]], fired: Sequence[str] = ()) -> None:
        """The first half of a step. The other is `driver.persist_and_send`, or `commit` and
        `release`."""
        inputs: list[Input] = []
        effects: list[Effect] = []
        for party, verified in arrived:
            if type(verified) is Superfluous:
                continue
            match verified:
                case Received():
                    self._take(verified, party, inputs, effects)
                case VerifiedRequest():
                    self.clients.submitted(verified.id, str(party))
                    if is_access_request(verified):
                        judged = self._endorser.submit(verified, self.ledger.membership)
                        if any(isinstance(effect, Send) for effect in judged):
                            self._hop(Hop.FIRST_AUTHENTICATED, verified.id)
                        self._sort(judged, inputs, effects)
                    else:
                        inputs.append(Submitted(verified))
                case Subscribe(start=start, bodies=bodies):
                    self.clients.subscribe(str(party), start, bodies)
                case PeerFault():
                    self._blame(party, verified)
        while inputs or effects or fired:
            height = self.ledger.height
            self.driver.handle(inputs, effects, fired)
            inputs, effects, fired = [], [], ()
            for _ in range(self.ledger.height - height):
                self._sort(self._endorser.executed(self.ledger.membership), inputs, effects)
        newest = self.ledger.decided_membership
        if newest.epoch not in self._memberships:
            self._remember(newest)

    def left(self, party: Party) -> None:
        """The link to `party` is down."""
        if isinstance(party, str):
            self.clients.left(party)

    def _take(
        self,
        received: Received[ReplicaMessage],
        party: Party,
        inputs: list[Input],
        effects: list[Effect],
    ) -> None:
        """A replica's message goes to the core or the endorser. Abstention observes statuses."""
        message = received.message
        if type(message) is EndorseRequest or type(message) is Endorsement:
            try:
                judged = self._endorser.receive(received, self.ledger.membership)
            except PeerFault as fault:
                self._blame(party, fault)
            else:
                self._sort(judged, inputs, effects)
            return
        if self._abstention is not None and isinstance(message, StatusMessage):
            self._heard(self._abstention, message)
        inputs.append(received)

    def _sort(
        self, judged: list[EndorserEffect], inputs: list[Input], effects: list[Effect]
    ) -> None:
        """Sorts effects of the endorser: inputs for the core, messages for others."""
        for effect in judged:
            match effect:
                case Submitted():
                    self._hop(Hop.ENDORSED, effect.request.id)
                    inputs.append(effect)
                case Send():
                    effects.append(effect)
                case Denied(request=request, reason=reason, endorsement=endorsement):
                    self.clients.refused(request, reason, endorsement)
                case Busy(request=request):
                    self.clients.refused(request, "busy")

    def _hop(self, hop: Hop, request: bytes) -> None:
        self._trace.request(hop, request, view=self.core.view, epoch=self.core.epoch)

    def arrived(self, came_ns: Sequence[int], verified: Sequence[tuple[Party, Verified]]) -> None:
        """Notes in the trace when the requests among these came, and that they are verified."""
        trace, view, epoch = self._trace, self.core.view, self.core.epoch
        if not trace.on:
            return
        now_ns = trace.now_ns()
        for at_ns, (_, one) in zip(came_ns, verified, strict=True):
            if type(one) is VerifiedRequest:
                trace.request(Hop.ARRIVED, one.id, at_ns, view, epoch)
                trace.request(Hop.VERIFIED, one.id, now_ns, view, epoch)

    def _read_client(self, frame: bytes) -> Submit | Subscribe:
        message = decode_client(frame)
        if isinstance(message, Submit | Subscribe):
            return message
        raise PeerFault("bad-frame", "only replicas send this")

    def _membership(self, epoch: int) -> Membership | None:
        return self._memberships.get(epoch)

    def _verify_items(self, items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
        """An item that raises something unforeseen costs only itself, not those beside it."""
        try:
            with refusing():
                return open_items(items, self._network, self.ledger.membership, self._scheme)
        except PeerFault as fault:
            if len(items) == 1:
                return [fault]
            return [one for item in items for one in self._verify_items((item,))]

    def _replay(self, store: Store) -> Membership:
        """Executes every stored block; returns the membership that decided the last one."""
        decided_by = self.ledger.membership
        for height, stored in enumerate(store.blocks(1, store.height), 1):
            decided_by = self.ledger.membership
            try:
                self.ledger.append(stored.block, check_signatures=False)
            except PeerFault as fault:
                raise Damaged(f"block {height}: {fault}") from fault
            self._remember(self.ledger.decided_membership)
        return decided_by

    def _remember(self, membership: Membership) -> None:
        """Replaces the table instead of changing it, because threads may be reading it."""
        kept = {**self._memberships, membership.epoch: membership}
        self._memberships = {epoch: kept[epoch] for epoch in sorted(kept)[-_MEMBERSHIPS_MAX:]}

    def _blame(self, party: Party, fault: PeerFault) -> None:
        """Counted. Emitted once per party and code: a flood of garbage must not flood the log."""
        if fault.code == _NOT_BLAMED:
            return
        self.faults[party, fault.code] += 1
        if self.faults[party, fault.code] == 1:
            self._events.emit("peer-fault", party=party, code=fault.code, detail=str(fault))

    def _heard(self, abstention: Abstention, status: StatusMessage) -> None:
        if abstention.heard(status, self.ledger.membership):
            self._on_abstention(abstention.until)
            self._events.emit("abstaining", until=abstention.until)

    def _rewrite(self, effects: list[Effect]) -> Sequence[Effect | Delayed]:
        abstention = self._abstention
        if abstention is not None:
            if not abstention.over(self.core.stable):
                return abstention.rewrite(effects)
            self._abstention = None
            self._on_abstention(None)
            self._events.emit("voting-again", height=self.ledger.height)
        return self._wrapper(effects) if self._wrapper is not None else effects
