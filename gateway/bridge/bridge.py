"""The gateway's work: messages of devices come in, requests go to replicas, answers go to devices.

It relays and polices but cannot forge: devices sign their requests and verify the answers. The
checks, cheapest first: rate, envelope, signature, sender, already known, can never succeed
(`precheck`), room. An accepted request is durable in the outbox before a replica gets it. It stays
there until it is final or refused, even if processes are killed meanwhile.

This module does no input or output. `nodes.gateway.process` owns the links, the broker, the clock
and the outbox. It stores what `take_writes` returns, at once and off the event loop, and then calls
`written`. The ledger alone decides who may log in at the broker (`logins`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Scheme, digest
from chain.ledger.envelope import Opened, open_operation
from chain.ledger.operations import Enrol
from chain.ledger.reasons import REASONS
from chain.pbft.messages import Denied, Seal
from chain.proofs.client import Conflict
from chain.proofs.denial import ended_by, verdict_of
from gateway.bridge.answers import Answer, AnswerCache
from gateway.bridge.block_store import BlockStore
from gateway.bridge.edge import (
    Denial,
    Stamped,
    denied_codec,
    part_codec,
    stamped_codec,
    sync_codec,
)
from gateway.bridge.follower import FinalBlock, Follower
from gateway.bridge.logins import Logins, carrier_of, ended, is_welcome
from gateway.bridge.outbox import OutboxEntry
from gateway.bridge.parts import split
from gateway.bridge.pending import Pending, PendingRequests
from gateway.bridge.ports import BridgeLimits, Outside, Writes
from gateway.bridge.precheck import check_sender, refusal
from gateway.bridge.relays import Relays
from gateway.bridge.stamps import Stamps
from gateway.hops import NO_TRACE, Hop, Trace
from gateway.mqtt.topics import Status, Up, parse
from gateway.refusing import refusing

__all__ = ["Bridge"]

SYNC_BYTES_MAX = 256 * 1024  # of blocks in answer to one request
RESUBMITTED_PER_TICK_MAX = 256
_DENIALS = REASONS | {"refused", "done"}  # of replicas: by the registry, and by the core
LIMITED_EVENT_MS = 1_000  # between two events about one relay that sends too much, or loses some


class Bridge:
    """`counts` has the refusals by reason, and the accepted requests."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        scheme: Scheme,
        store: BlockStore,
        unfinished: Iterable[OutboxEntry],
        login_secret: bytes,
        logins_done: int,
        limits: BridgeLimits,
        outside: Outside,
        kept: Any = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        """`unfinished` are the entries of the outbox. The broker's logins are up to date up to
        height `logins_done`. `kept` is a `state` of this process, or None. Raises BlockStoreError.
        """
        self.follower = Follower(genesis, scheme, store)
        self.counts: Counter[str] = Counter()
        self.net = genesis.network.hex()[:16]
        self._network = genesis.network
        self._scheme = scheme
        self._limits = limits
        self._outside = outside
        self._trace = trace
        self._came_ns = 0  # when the message that is being taken came
        self._logins = Logins(login_secret, genesis)
        self._answers = AnswerCache()
        self._pending = PendingRequests(
            limits.waiting_max, limits.device_waiting_max, limits.relay_waiting_max
        )
        self._fresh: dict[bytes, OutboxEntry] = {}
        self._done: list[bytes] = []
        self._stamps = Stamps()
        self._losses_ms = -LIMITED_EVENT_MS  # when they were last logged
        self._relays = Relays()
        self._limited: dict[str, tuple[int, int]] = {}  # relay: last event, refused since then
        self._suspicious = False  # requests time out: the primary may be faulty
        self._conflicting: set[int] = set()  # replicas that contradicted themselves, or f+1 others
        if kept is not None and self.follower.resume(kept[0], height_max=logins_done):
            self._logins.resume(kept[1])
        self._restore(unfinished, logins_done)

    @property
    def state(self) -> object:
        """The verified state, for a later start. It is used only if the logins of its height are
        done."""
        return self.follower.state, self._logins.state

    @property
    def waiting(self) -> int:
        """How many requests are with the replicas."""
        return len(self._pending)

    def _restore(self, unfinished: Iterable[OutboxEntry], logins_done: int) -> None:
        """Reads the blocks of the store, then the entries of the outbox."""
        for block in self.follower.restore():
            for change in self._logins.changes(block):
                if block.height > logins_done:
                    self._outside.change_login(change)
        for entry in unfinished:
            if self.follower.is_final(entry.digest):
                self._done.append(entry.digest)
            else:
                self._pending.add(entry.digest, Pending(entry.topic, "", entry.payload, 0))

    # --- from devices -----------------------------------------------------------------------------

    def on_up(self, topic: str, payload: bytes, now_ms: int) -> None:
        """Takes a relayed message. Its faults are counted and answered, not raised."""
        up: Up | None = None
        self._came_ns = self._trace.now_ns()
        try:
            with refusing():
                parsed = parse(topic)
                if isinstance(parsed, Status):
                    self._relays.on_status(topic, payload, now_ms)
                    return
                if not isinstance(parsed, Up):
                    raise PeerFault("bad-topic", "not a message towards the gateway")
                up = parsed
                self._take_up(up, payload, now_ms)
        except PeerFault as fault:
            self._note(_fingerprint(payload), up, f"refused:{fault.code}")

    def _take_up(self, up: Up, payload: bytes, now_ms: int) -> None:
        if not self._within_rate(up):
            self._count_over_rate(up.relay, now_ms)
            return
        stamped = stamped_codec.decode(payload)
        self._stamps.take(up.relay, stamped, now_ms)
        if up.kind == "sync":
            self._sync(up, stamped.body)
        elif up.kind == "carrier":
            self._outside.list_carrier(carrier_of(stamped.body, up.device, self.follower))
            self.counts["carrier"] += 1
        elif up.kind in ("enrol", "op"):
            self._request(up, stamped, now_ms)
        else:
            raise PeerFault("bad-kind", up.kind)

    def _pass_over(self, opened: Opened, up: Up, stamped: Stamped, now_ms: int) -> None:
        """Notes that the device had no answer through the relays that rank before this one. Only
        admitted devices count, because anybody can make keys. Call it for new requests only: a
        known request was not lost. After a whole round of relays it notes nothing, because nobody
        can tell which relays were asked."""
        ledger = self.follower.ledger
        identity = ledger.registry.identity(opened.operation.node)
        if stamped.tries is None or identity is None or ended(identity, ledger.time_us):
            return
        ranked = self._relays.ranked(up.device, stamped.body, now_ms)
        if stamped.tries < len(ranked):
            self._stamps.pass_over(ranked[: stamped.tries], up.device, stamped.body, now_ms)

    def _within_rate(self, up: Up) -> bool:
        """A relay's rate limits everything that it carries. Its own messages, and those of a device
        without a relay, are also limited to the rate of one device."""
        relays, devices = self._limits.relays, self._limits.devices
        device = f"{up.relay}/{up.device}"
        if up.relay == up.device:
            return devices.admit(device) and relays.admit(up.relay)
        return relays.admit(up.relay) and devices.admit(device)

    def _count_over_rate(self, relay: str, now_ms: int) -> None:
        """Only counts: an answer or an event for each message would make a flood worse."""
        self.counts["refused:rate"] += 1
        emitted_ms, count = self._limited.get(relay, (now_ms - LIMITED_EVENT_MS, 0))
        if now_ms - emitted_ms >= LIMITED_EVENT_MS:
            self._outside.emit("rate-limited", relay=relay, count=count + 1)
            emitted_ms, count = now_ms, -1
        self._limited[relay] = emitted_ms, count + 1

    def _request(self, up: Up, stamped: Stamped, now_ms: int) -> None:
        cose = stamped.body
        opened = open_operation(cose, self._network, self._scheme)
        check_sender(opened, up.kind, up.device)
        answer = self._answers.get(opened.id)
        if answer is not None:
            self._answer_again(opened, up, answer)
        elif self.follower.is_final(opened.id):
            if self._limits.syncs.admit(up.relay):  # it costs a whole block
                self._answer_again(opened, up, self._answer_of(*self.follower.find(opened.id)))
            else:
                self.counts["refused:rate"] += 1
        elif opened.id in self._pending:
            self._note(opened.id, up, "repeat-waiting")
        elif (reason := self._refusal(opened, cose)) is not None:
            self._refuse(opened.id, up, reason, self._proof_of_end(opened, reason, up.relay))
            if isinstance(opened.operation, Enrol) and self._pending.has_room(up.device, up.relay):
                # A newcomer believes replicas only: they are asked for their signed verdicts.
                self._pending.add(opened.id, Pending(up.device, up.relay, cose, now_ms))
                self._outside.submit(cose, everyone=True)
        elif not self._pending.has_room(up.device, up.relay):
            self._refuse(opened.id, up, "busy")
        else:
            self._pass_over(opened, up, stamped, now_ms)
            self._note(opened.id, up, "accepted")
            self._trace.request(Hop.GATEWAY_IN, opened.id, self._came_ns)
            self._trace.request(Hop.ADMITTED, opened.id)
            self._pending.add(opened.id, Pending(up.device, up.relay, cose, now_ms))
            self._fresh[opened.id] = OutboxEntry(0, opened.id, up.device, cose)

    def _proof_of_end(self, opened: Opened, reason: str, relay: str) -> bytes | None:
        """The proof that the signer's key has ended, if that is the reason. It is cached. Look-ups
        for one relay are limited, because each reads a whole block."""
        registry, node = self.follower.ledger.registry, opened.operation.node
        identity = registry.identity(node)
        if identity is None or identity.ended != reason:
            return None
        if (known := self._answers.get(node)) is not None:
            return known.payload
        if not self._limits.syncs.admit(relay):
            return None
        block = self.follower.block(identity.ended_height)
        for position, statement in enumerate(block.statements if block else ()):
            if block is not None and ended_by(statement, node) == reason:
                record = self.follower.receipt(block, position)
                self._answers.put(node, Answer(node, False, record, block.epoch))
                return record
        return None

    def _refusal(self, opened: Opened, cose: bytes) -> str | None:
        ledger = self.follower.ledger
        return refusal(ledger.registry, opened, cose, ledger.time_us, lagging=self.follower.lagging)

    def _answer_again(self, opened: Opened, up: Up, answer: Answer) -> None:
        """The request is final: the sender gets the same answer again, nothing else happens."""
        identity = self.follower.ledger.registry.identity(answer.node)
        if answer.is_welcome and identity is not None:
            reason = ended(identity, self.follower.ledger.time_us)
            if reason is not None:
                self._refuse(opened.id, up, reason)  # it has ended since: no login
                return
        self._note(opened.id, up, "repeat-final")
        self._send(answer, up.device, again=True)

    def _sync(self, up: Up, body: bytes) -> None:
        wanted = sync_codec.decode(body)
        identity = self.follower.ledger.registry.identity(bytes.fromhex(up.device))
        if identity is None or ended(identity, self.follower.ledger.time_us):
            raise PeerFault("unknown-node", "the ledger is for admitted devices")
        if not self._limits.syncs.admit(f"{up.relay}/{up.device}"):
            self.counts["refused:rate"] += 1
            return
        start = max(1, wanted.start)
        count, data = self.follower.range(start, SYNC_BYTES_MAX, wanted.bodies)
        for part in split(start, start + count - 1, self.follower.height, data):
            self._outside.answer(up.device, "blocks", part_codec.encode(part))
        self.counts["sync"] += 1

    def _note(self, request: bytes, up: Up | None, outcome: str) -> None:
        """Counts an outcome, always. Events of refusals and repetitions are limited, because
        strangers can cause any number of them."""
        self.counts[outcome] += 1
        device, relay = (up.device, up.relay) if up is not None else ("", "")
        if outcome == "accepted" or self._limits.events.admit(relay):
            self._outside.emit(
                "request", id=request.hex(), device=device, relay=relay, outcome=outcome
            )

    def _refuse(
        self, request: bytes, up: Up | None, reason: str, record: bytes | None = None
    ) -> None:
        self._note(request, up, f"refused:{reason}")
        if up is not None:
            denied = Denial(id=request, layer="gateway", reason=reason, record=record)
            self._outside.answer(up.device, "denied", denied_codec.encode(denied))

    # --- the outbox -------------------------------------------------------------------------------

    def take_writes(self) -> Writes | None:
        """The writes that must be stored next, None if there are none. Call `written` before the
        next call."""
        if not self._fresh and not self._done:
            return None
        writes = Writes(tuple(self._fresh.values()), tuple(self._done))
        self._fresh, self._done = {}, []
        return writes

    def written(self, writes: Writes, *, full: bool = False) -> None:
        """The writes are on disk: the requests go to the replicas. `full`: none is on disk."""
        if full:
            self._done += writes.done
        durable_ns = self._trace.now_ns()
        for entry in writes.fresh:
            waiting = self._pending.get(entry.digest)
            if waiting is None:  # another gateway's submission became final meanwhile
                continue
            if full:
                self._pending.forget(entry.digest)
                up = Up(self.net, waiting.relay, waiting.device, "op")
                self._refuse(entry.digest, up, "outbox-full")
            else:
                self._trace.request(Hop.DURABLE, entry.digest, durable_ns)
                self._outside.submit(waiting.cose, everyone=self._suspicious)
                self._trace.request(Hop.GATEWAY_OUT, entry.digest)

    # --- from replicas ----------------------------------------------------------------------------

    def on_seal(self, seal: Seal) -> int:
        """Takes a replica's seal; returns how many blocks became final. Raises PeerFault."""
        blocks, conflicts = self.follower.feed(seal)
        for conflict in conflicts:
            self._on_conflict(conflict)
        for each in blocks:
            self._on_final(each)
        return len(blocks)

    def _on_conflict(self, conflict: Conflict) -> None:
        """A liar sends the same two heads as often as it likes. The first conflict of a replica is
        always logged, the others at the rate of refusals."""
        self.counts["conflict"] += 1
        replica = conflict.replica
        if replica not in self._conflicting or self._limits.events.admit(f"replica {replica}"):
            self._conflicting.add(replica)
            self._outside.emit("conflict", replica=replica, final=conflict.against_final)

    def _on_final(self, block: FinalBlock) -> None:
        for change in self._logins.changes(block):
            self._outside.change_login(change)
        for position, statement in enumerate(block.statements):
            waiting = self._pending.forget(statement.request)
            if waiting is not None:
                self._suspicious = False
                self._done.append(statement.request)
                self._send(self._answer_of(block, position), waiting.device)
                self._trace.request(Hop.RECEIPT, statement.request)
        self._outside.emit("final", height=block.height, records=len(block.statements))

    def _answer_of(self, block: FinalBlock, position: int) -> Answer:
        """The receipt; a new identity gets it together with its password."""
        statement = block.statements[position]
        receipt = self.follower.receipt(block, position)
        welcome = is_welcome(statement)
        payload = self._logins.welcome(statement, receipt) if welcome else receipt
        answer = Answer(statement.node, welcome, payload, block.epoch)
        self._answers.put(statement.request, answer)
        return answer

    def _send(self, answer: Answer, device: str, *, again: bool = False) -> None:
        """First the membership changes that the device lacks, then the answer."""
        for steps in self.follower.steps(device, answer.epoch, again=again):
            self._outside.answer(device, "epochs", steps)
        if answer.is_welcome:
            self._outside.answer_with_login(answer.node.hex(), device, answer.payload)
        else:
            self._outside.answer(device, "receipt", answer.payload)

    def on_denied(self, replica: int, denied: Denied) -> None:
        """Takes a replica's refusal. One replica may lie, f+1 cannot all lie.

        Even f+1 refusals are not believed at once (see `tick`). A replica that has just executed
        the request refuses it too, and its refusal may arrive before the block. Raises PeerFault
        for a false signature, or for a reason that no honest replica gives: each is counted.
        """
        if denied.reason not in _DENIALS:
            raise PeerFault("bad-denial", "an unknown reason")
        waiting = self._pending.get(denied.request)
        if waiting is None or denied.reason == "done" or replica in self.follower.removed:
            return  # the block brings the answer; a removed replica has no say
        members = self.follower.tracker.membership
        if (signed := denied.endorsement) is not None:
            verdict = verdict_of(signed, denied.request, members, self._network, self._scheme)
            waiting.verdicts[verdict.sender] = signed
        waiting.denials[replica] = denied.reason
        if len(waiting.denials) < members.quorum.weak and waiting.tries == 0:
            self._submit_again(waiting)

    def _deny(self, request: bytes, waiting: Pending) -> None:
        reason = waiting.reason
        self._pending.forget(request)
        self._done.append(request)
        self.counts[f"denied:{reason}"] += 1
        if self._limits.events.admit(waiting.relay):
            self._outside.emit("denied", id=request.hex(), device=waiting.device, reason=reason)
        verdicts = tuple(waiting.verdicts.values()) or None
        answer = Denial(id=request, layer="group", reason=reason, verdicts=verdicts)
        # Only a device that knows the newest members can check who signed the verdicts.
        again = self._limits.syncs.admit(f"{waiting.relay}/{waiting.device}")
        epoch = self.follower.tracker.membership.epoch
        for steps in self.follower.steps(waiting.device, epoch, again=again):
            self._outside.answer(waiting.device, "epochs", steps)
        self._outside.answer(waiting.device, "denied", denied_codec.encode(answer))

    def tick(self, now_ms: int) -> None:
        """Sends requests that wait too long to every replica: the primary may be faulty.

        A request that f+1 replicas refuse is denied when its block would have arrived. Neither
        happens while the gateway lags: the block may be on its way.
        """
        if now_ms - self._losses_ms >= LIMITED_EVENT_MS:
            self._losses_ms = now_ms
            for relay, missing in self._stamps.lost(now_ms):
                self._outside.emit("relay-gap", relay=relay, missing=missing)
            for relay, devices in self._stamps.suspected(now_ms):
                self._outside.emit("relay-suspected", relay=relay, devices=devices)
        if self.follower.lagging:
            return
        budget = RESUBMITTED_PER_TICK_MAX
        weak = self.follower.tracker.membership.quorum.weak
        timeout_ms = self._limits.submit_timeout_ms
        for request, waiting in self._pending:
            if len(waiting.denials) >= weak:
                if waiting.is_denied(weak, now_ms):
                    self._deny(request, waiting)
            elif budget and request not in self._fresh and now_ms >= waiting.due_ms(timeout_ms):
                budget -= 1
                waiting.sent_ms = now_ms
                self._suspicious = True
                self._submit_again(waiting)

    def _submit_again(self, waiting: Pending) -> None:
        waiting.tries += 1
        self._outside.submit(waiting.cose, everyone=True)
        self.counts["resubmitted"] += 1


def _fingerprint(payload: bytes) -> bytes:
    """Stands for the id if no request could be read: SHA-256 of the device's body, or of the whole
    message."""
    try:
        with refusing():
            return digest(stamped_codec.decode(payload).body)
    except PeerFault:
        return digest(payload)
