"""The gateway's own work: device messages in, requests to replicas, settled blocks back to devices.

It relays and polices, and cannot forge: devices sign what they say and check what they are told.
In the order of the checks, cheapest first: rate, envelope, signature, sender, known already, hope
(`precheck`), room. What was accepted is durable in the outbox before a replica hears of it, and
stays there until it is final or refused, whatever is killed meanwhile.

No input or output happens here. `nodes.gateway.process` owns the links, the broker, the clock and
the outbox: it stores what `take_writes` hands out, in one go and off the event loop, and says so by
`written`. Who may log in at the broker follows from the ledger alone: `logins`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Protocol

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Scheme
from chain.ledger.operations import Opened, open_operation
from chain.pbft.messages import Denied as ReplicaDenied
from chain.pbft.messages import Seal
from chain.proofs.client import Conflict
from gateway.bridge.block_store import BlockStore
from gateway.bridge.edge import (
    Denied,
    denied_codec,
    part_codec,
    stamped_codec,
    sync_codec,
)
from gateway.bridge.follower import Follower, Settled
from gateway.bridge.logins import LoginChange, Logins, is_welcome
from gateway.bridge.outbox import Entry
from gateway.bridge.parts import split
from gateway.bridge.precheck import check_sender, refusal
from gateway.bridge.stamps import Stamps
from gateway.bridge.waiting import Request, Waiting
from gateway.limits import RateLimiter
from gateway.mqtt.topics import Up, parse

__all__ = ["Bridge", "Limits", "Outside", "Writes"]

SYNC_BYTES_MAX = 256 * 1024  # of blocks in answer to one request
RESUBMITTED_PER_TICK_MAX = 256
LIMITED_TOLD_MS = 1_000  # between two events of one relay that sends too much


class Outside(Protocol):
    """What the bridge asks of the process around it. None of these blocks."""

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        """To the replica that is believed to be the primary, or to all."""

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        """Publish to `rsp/<device>/<kind>`."""

    def change_login(self, change: LoginChange) -> None:
        """Let somebody in at the broker, or throw him out."""

    def emit(self, event: str, **fields: object) -> None:
        """For the event log."""


class Limits(msgspec.Struct, frozen=True):
    """Rates are asked in this order: of the last hop, which the broker vouches for; of a device
    behind it, so that no relay spends another's share; of ledger copies. `waiting_max` requests
    are with the replicas at most, `device_waiting_max` of them one device's and
    `relay_waiting_max` one relay's."""

    relays: RateLimiter
    devices: RateLimiter
    syncs: RateLimiter
    waiting_max: int
    device_waiting_max: int
    relay_waiting_max: int
    submit_timeout_ms: int


class Writes(msgspec.Struct, frozen=True):
    """What the outbox must hold and may forget before `written` is called."""

    fresh: tuple[Entry, ...]
    done: tuple[bytes, ...]


class Bridge:
    """`counts` counts refusals by reason, and what was accepted."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        scheme: Scheme,
        store: BlockStore,
        owed: Iterable[Entry],
        login_secret: bytes,
        logins_done: int,
        limits: Limits,
        outside: Outside,
    ) -> None:
        """`owed` is what the outbox holds; `logins_done` the height up to which the broker has
        been told who may log in. Raises BlockStoreError."""
        self.chain = Follower(genesis, scheme, store)
        self.counts: Counter[str] = Counter()
        self.net = genesis.network.hex()[:16]
        self._network = genesis.network
        self._scheme = scheme
        self._limits = limits
        self._outside = outside
        self._logins = Logins(login_secret)
        self._waiting = Waiting(
            limits.waiting_max, limits.device_waiting_max, limits.relay_waiting_max
        )
        self._fresh: dict[bytes, Entry] = {}
        self._done: list[bytes] = []
        self._stamps = Stamps()
        self._limited: dict[str, tuple[int, int]] = {}  # relay: told when, refused since
        self._suspicious = False  # requests time out: the primary may be dead or deaf
        self._restore(owed, logins_done)

    @property
    def waiting(self) -> int:
        """Requests that are with the replicas."""
        return len(self._waiting)

    def _restore(self, owed: Iterable[Entry], logins_done: int) -> None:
        """Blocks from the store, then what the outbox still owes."""
        for settled in self.chain.restore():
            for change in self._logins.changes(settled):
                if settled.height > logins_done:
                    self._outside.change_login(change)
        for entry in owed:
            if self.chain.find(entry.digest) is not None:
                self._done.append(entry.digest)
            else:
                self._waiting.add(entry.digest, Request(entry.topic, "", entry.payload, 0))

    # --- from devices -----------------------------------------------------------------------------

    def on_up(self, topic: str, payload: bytes, now_ms: int) -> None:
        """A relayed message. Whatever is wrong with it is counted and answered, never raised."""
        up: Up | None = None
        try:
            parsed = parse(topic)
            if not isinstance(parsed, Up):
                raise PeerFault("bad-topic", "not a message towards the gateway")
            up = parsed
            if not self._in_time(up):
                self._over_rate(up.relay, now_ms)
                return
            stamped = stamped_codec.decode(payload)
            self._stamps.take(up.relay, stamped, now_ms)
            if up.kind == "sync":
                self._sync(up, stamped.body)
            elif up.kind == "carrier":
                self._carrier(up, stamped.body)
            elif up.kind in ("enrol", "op"):
                self._request(up, stamped.body, now_ms)
            else:
                raise PeerFault("bad-kind", up.kind)
        except PeerFault as fault:
            self._refuse(b"", up, fault.code)

    def _in_time(self, up: Up) -> bool:
        limits = self._limits
        return limits.relays.admit(up.relay) and limits.devices.admit(f"{up.relay}/{up.device}")

    def _over_rate(self, relay: str, now_ms: int) -> None:
        """Counted only: answering would feed a flood, and so would a line of log for each."""
        self.counts["refused:rate"] += 1
        told_ms, count = self._limited.get(relay, (now_ms - LIMITED_TOLD_MS, 0))
        if now_ms - told_ms >= LIMITED_TOLD_MS:
            self._outside.emit("rate-limited", relay=relay, count=count + 1)
            told_ms, count = now_ms, -1
        self._limited[relay] = told_ms, count + 1

    def _request(self, up: Up, cose: bytes, now_ms: int) -> None:
        opened = open_operation(cose, self._network, self._scheme)
        check_sender(opened, up.kind, up.device)
        known = self.chain.find(opened.id)
        if known is not None:
            self._again(opened, up, known)
        elif opened.id in self._waiting:
            self._note(opened.id, up, "repeat-waiting")
        elif (reason := self._hopeless(opened, cose)) is not None:
            self._refuse(opened.id, up, reason)
        elif not self._waiting.has_room(up.device, up.relay):
            self._refuse(opened.id, up, "busy")
        else:
            self._note(opened.id, up, "accepted")
            self._waiting.add(opened.id, Request(up.device, up.relay, cose, now_ms))
            self._fresh[opened.id] = Entry(0, opened.id, up.device, cose)

    def _hopeless(self, opened: Opened, cose: bytes) -> str | None:
        ledger = self.chain.ledger
        return refusal(ledger.registry, opened, cose, ledger.time_us, lagging=self.chain.lagging)

    def _again(self, opened: Opened, up: Up, known: tuple[Settled, int]) -> None:
        """Final already: whoever asks again gets the same receipt, and nothing else happens."""
        settled, position = known
        statement = settled.statements[position]
        identity = self.chain.ledger.registry.identity(statement.node)
        if is_welcome(statement) and identity is not None and identity.ended is not None:
            self._refuse(opened.id, up, identity.ended)  # no login for who has been revoked since
            return
        self._note(opened.id, up, "repeat-final")
        self._tell(settled, position, up.device)

    def _sync(self, up: Up, body: bytes) -> None:
        wanted = sync_codec.decode(body)
        identity = self.chain.ledger.registry.identity(bytes.fromhex(up.device))
        if identity is None or identity.ended is not None:
            raise PeerFault("unknown-node", "the ledger is for admitted devices")
        if not self._limits.syncs.admit(up.device):
            self.counts["refused:rate"] += 1
            return
        start = max(1, wanted.start)
        count, data = self.chain.range(start, SYNC_BYTES_MAX, wanted.bodies)
        for part in split(start, start + count - 1, self.chain.height, data):
            self._outside.answer(up.device, "blocks", part_codec.encode(part))
        self.counts["sync"] += 1

    def _carrier(self, up: Up, pem: bytes) -> None:
        self._outside.change_login(self._logins.carry(pem, up.device, self.chain.ledger))
        self.counts["carrier"] += 1

    def _note(self, request: bytes, up: Up, outcome: str) -> None:
        self.counts[outcome] += 1
        self._outside.emit(
            "request", id=request.hex(), device=up.device, relay=up.relay, outcome=outcome
        )

    def _refuse(self, request: bytes, up: Up | None, reason: str) -> None:
        self.counts[f"refused:{reason}"] += 1
        device, relay = (up.device, up.relay) if up is not None else ("", "")
        self._outside.emit(
            "request", id=request.hex(), device=device, relay=relay, outcome=f"refused:{reason}"
        )
        if device and request:
            denied = Denied(id=request, layer="gateway", reason=reason)
            self._outside.answer(device, "denied", denied_codec.encode(denied))

    # --- the outbox -------------------------------------------------------------------------------

    def take_writes(self) -> Writes | None:
        """What is to be stored next, if anything; `written` is due before the next call."""
        if not self._fresh and not self._done:
            return None
        writes = Writes(tuple(self._fresh.values()), tuple(self._done))
        self._fresh, self._done = {}, []
        return writes

    def written(self, writes: Writes, *, full: bool = False) -> None:
        """The writes are on disk: replicas may hear of the requests. `full`: none of them is."""
        if full:
            self._done += writes.done
        for entry in writes.fresh:
            waiting = self._waiting.get(entry.digest)
            if waiting is None:  # settled meanwhile, through another gateway
                continue
            if full:
                self._waiting.forget(entry.digest)
                up = Up(self.net, waiting.relay, waiting.device, "op")
                self._refuse(entry.digest, up, "outbox-full")
            else:
                self._outside.submit(waiting.cose, everyone=self._suspicious)

    # --- from replicas ----------------------------------------------------------------------------

    def on_seal(self, seal: Seal) -> int:
        """A replica's signed head; answers how many blocks became final by it. Raises PeerFault."""
        settled, conflicts = self.chain.feed(seal)
        for conflict in conflicts:
            self._on_conflict(conflict)
        for each in settled:
            self._on_settled(each)
        return len(settled)

    def _on_conflict(self, conflict: Conflict) -> None:
        self.counts["conflict"] += 1
        self._outside.emit("conflict", replica=conflict.replica, final=conflict.against_final)

    def _on_settled(self, settled: Settled) -> None:
        for change in self._logins.changes(settled):
            self._outside.change_login(change)
        for position, statement in enumerate(settled.statements):
            waiting = self._waiting.forget(statement.request)
            if waiting is not None:
                self._suspicious = False
                self._done.append(statement.request)
                self._tell(settled, position, waiting.device)
        self._outside.emit("final", height=settled.height, records=len(settled.statements))

    def _tell(self, settled: Settled, position: int, device: str) -> None:
        """The receipt; with a new identity also the login that comes with it."""
        statement = settled.statements[position]
        receipt = self.chain.receipt(settled, position)
        change = self._logins.welcome(statement, device, receipt)
        if change is not None:
            self._outside.change_login(change)
        else:
            self._outside.answer(device, "receipt", receipt)

    def on_denied(self, replica: int, denied: ReplicaDenied) -> None:
        """One replica may lie; f+1 that say no cannot all.

        Even they are not believed at once (`tick`): a replica that has just executed the request,
        through another gateway perhaps, refuses it too, and its word may overtake the block.
        """
        waiting = self._waiting.get(denied.request)
        if waiting is None or denied.reason == "done":
            return  # a block brings the answer
        waiting.denials[replica] = denied.reason
        weak = self.chain.tracker.membership.quorum.weak
        if len(waiting.denials) < weak and waiting.tries == 0:
            self._submit_again(waiting)

    def _deny(self, request: bytes, waiting: Request) -> None:
        reason = waiting.reason
        self._waiting.forget(request)
        self._done.append(request)
        self.counts[f"denied:{reason}"] += 1
        self._outside.emit("denied", id=request.hex(), device=waiting.device, reason=reason)
        answer = Denied(id=request, layer="group", reason=reason)
        self._outside.answer(waiting.device, "denied", denied_codec.encode(answer))

    def tick(self, now_ms: int) -> None:
        """Requests that wait too long go to every replica: the primary may be dead or deaf. Each
        is tried again ever more rarely.

        What f+1 replicas refuse is denied when its block would have come. Neither happens while we
        lag: the block may be on its way.
        """
        for relay, missing in self._stamps.lost(now_ms):
            self._outside.emit("relay-gap", relay=relay, missing=missing)
        if self.chain.lagging:
            return
        budget = RESUBMITTED_PER_TICK_MAX
        weak, timeout_ms = self.chain.tracker.membership.quorum.weak, self._limits.submit_timeout_ms
        for request, waiting in self._waiting:
            if len(waiting.denials) >= weak:
                if waiting.is_denied(weak, now_ms):
                    self._deny(request, waiting)
            elif budget and request not in self._fresh and now_ms >= waiting.due_ms(timeout_ms):
                budget -= 1
                waiting.sent_ms = now_ms
                self._suspicious = True
                self._submit_again(waiting)

    def _submit_again(self, waiting: Request) -> None:
        waiting.tries += 1
        self._outside.submit(waiting.cose, everyone=True)
        self.counts["resubmitted"] += 1
