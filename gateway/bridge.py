"""The gateway's own work: device messages in, requests to replicas, final blocks back to devices.

It relays and polices, and cannot forge: devices sign what they say and check what they are told.
In the order of the checks, cheapest first: rate, envelope, signature, already known, queue room.
What was accepted is durable in the outbox before a replica hears of it, and stays there until it
is final or refused, whatever is killed meanwhile.

No input or output happens here: `nodes.gateway` owns the links, the broker and the clock.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import msgspec

from chain.block import Head
from chain.client import BlockRange, Final, FinalityTracker, SealedBlock, encode_range
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Scheme
from chain.ledger import Ledger
from chain.messages import Denied as ReplicaDenied
from chain.messages import Seal
from chain.operations import Opened, open_operation
from chain.proof import Inclusion, Proof, encode_proof, make_inclusion
from chain.statement import OK, Statement, decode_leaf
from gateway.block_store import BlockStore
from gateway.broker_security import User, device_password
from gateway.edge import (
    Admitted,
    Denied,
    Stamped,
    admitted_codec,
    denied_codec,
    part_codec,
    stamped_codec,
    sync_codec,
)
from gateway.limits import RateLimiter
from gateway.outbox import Outbox, OutboxFullError
from gateway.parts import split
from gateway.topics import Role, Up, parse

__all__ = ["Bridge", "Outside"]

SYNC_BYTES_MAX = 256 * 1024  # of blocks in answer to one request
RELAYS_MAX = 4096


class Outside(Protocol):
    """What the bridge asks of the process around it. None of these blocks."""

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        """To the replica that is believed to be the primary, or to all."""

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        """Publish to `rsp/<device>/<kind>`."""

    def admit(self, user: User, device: str, receipt: bytes) -> None:
        """Let `user` into the broker, then answer `device`, its earlier login, with `Admitted`."""

    def expel(self, node: str) -> None:
        """Throw a revoked device out of the broker."""

    def emit(self, event: str, **fields: object) -> None:
        """For the event log."""


class _Waiting(msgspec.Struct):
    """A request that is with the replicas. `device` is whom to answer."""

    device: str
    cose: bytes
    sent_ms: int
    denials: dict[int, str]
    everyone: bool = False


class Bridge:
    """`counts` counts refusals by reason and what was accepted."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        scheme: Scheme,
        store: BlockStore,
        outbox: Outbox,
        limiter: RateLimiter,
        outside: Outside,
        waiting_max: int,
        submit_timeout_ms: int,
        login_secret: bytes,
    ) -> None:
        self.ledger = Ledger(genesis, scheme)
        self.tracker = FinalityTracker(genesis.membership, genesis, scheme, bodies=True)
        self.counts: Counter[str] = Counter()
        self.head = encode_range(BlockRange(start=1, blocks=()))  # nothing but the genesis yet
        self.net = genesis.network.hex()[:16]
        self._scheme = scheme
        self._store = store
        self._outbox = outbox
        self._limiter = limiter
        self._outside = outside
        self._waiting_max = waiting_max
        self._submit_timeout_ms = submit_timeout_ms
        self._login_secret = login_secret
        self._waiting: dict[bytes, _Waiting] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._epochs: list[Inclusion] = []  # the proof of each change of the membership
        self._restore()

    @property
    def height(self) -> int:
        """The newest final block."""
        return self.tracker.height

    @property
    def waiting(self) -> int:
        """Requests that are with the replicas."""
        return len(self._waiting)

    def _restore(self) -> None:
        """Blocks from the store, then what the outbox still owes."""
        for sealed in self._store.blocks(1, self._store.height):
            block = sealed.block
            assert block is not None, "the gateway stores bodies"
            self.ledger.append(block, check_signatures=False)
            self._learn_epochs(sealed, [decode_leaf(record.leaf) for record in block.records])
            self.head = _head_only(sealed, self.ledger.height)
        self.tracker.membership = self.ledger.membership
        self.tracker.resume(self.ledger.height, self.ledger.head_hash)
        for entry in self._outbox.pending(limit=self._waiting_max):
            if self._store.find(entry.digest) is not None:
                self._outbox.done(entry.digest)
            else:
                self._waiting[entry.digest] = _Waiting(entry.topic, entry.payload, 0, {})

    # --- from devices -----------------------------------------------------------------------------

    def on_up(self, topic: str, payload: bytes, now_ms: int) -> None:
        """A relayed message. Whatever is wrong with it is counted and answered, never raised."""
        device = relay = ""
        try:
            up = parse(topic)
            if not isinstance(up, Up):
                raise PeerFault("bad-topic", "not a message towards the gateway")
            device, relay = up.device, up.relay
            if not self._limiter.admit(device):
                self.counts["refused:rate"] += 1  # counted only: answering would feed a flood
                return
            stamped = stamped_codec.decode(payload)
            self._check_stamp(relay, stamped)
            if up.kind == "sync":
                self._sync(device, stamped.body)
            elif up.kind in ("enrol", "op"):
                self._request(up, stamped.body, now_ms)
            else:
                raise PeerFault("bad-kind", up.kind)
        except PeerFault as fault:
            self._refuse(b"", device, relay, fault.code)

    def _request(self, up: Up, cose: bytes, now_ms: int) -> None:
        opened = open_operation(cose, self.ledger.network, self._scheme)
        if up.device != opened.operation.node.hex() and up.kind != "enrol":
            raise PeerFault("wrong-node", "signed by another than who sent it")
        known = self._store.find(opened.id)
        if known is not None:
            self._again(opened, up, known)
        elif opened.id in self._waiting:
            self._note(opened.id, up, "repeat-waiting")
        elif len(self._waiting) >= self._waiting_max:
            self._refuse(opened.id, up.device, up.relay, "busy")
        else:
            self._accept(opened, up, cose, now_ms)

    def _accept(self, opened: Opened, up: Up, cose: bytes, now_ms: int) -> None:
        try:
            self._outbox.put(opened.id, up.device, cose)
        except OutboxFullError:
            self._refuse(opened.id, up.device, up.relay, "outbox-full")
            return
        self._note(opened.id, up, "accepted")
        self._waiting[opened.id] = _Waiting(up.device, cose, now_ms, {})
        self._outside.submit(cose, everyone=False)

    def _again(self, opened: Opened, up: Up, known: tuple[int, int]) -> None:
        """Final already: whoever asks again gets the same receipt, and nothing else happens."""
        height, position = known
        sealed = next(self._store.blocks(height, height))
        statement = decode_leaf(_leaf(sealed, position))
        self._note(opened.id, up, "repeat-final")
        self._tell(statement, up.device, self._receipt(sealed, position))

    def _sync(self, device: str, body: bytes) -> None:
        wanted = sync_codec.decode(body)
        found = self._store.range(max(1, wanted.start), SYNC_BYTES_MAX, wanted.bodies)
        stop = found.start + len(found.blocks) - 1
        for part in split(found.start, stop, self.height, encode_range(found)):
            self._outside.answer(device, "blocks", part_codec.encode(part))
        self.counts["sync"] += 1

    def _check_stamp(self, relay: str, stamped: Stamped) -> None:
        """Running numbers that jump tell of messages lost between this relay and us."""
        boot, last = self._stamps.get(relay, (stamped.boot, stamped.n - 1))
        if stamped.boot == boot and stamped.n > last + 1:
            self._outside.emit("relay-gap", relay=relay, missing=stamped.n - last - 1)
        if relay in self._stamps or len(self._stamps) < RELAYS_MAX:
            self._stamps[relay] = (
                stamped.boot,
                max(stamped.n, last if stamped.boot == boot else 0),
            )

    def _note(self, request: bytes, up: Up, outcome: str) -> None:
        self.counts[outcome] += 1
        self._outside.emit(
            "request", id=request.hex(), device=up.device, relay=up.relay, outcome=outcome
        )

    def _refuse(self, request: bytes, device: str, relay: str, reason: str) -> None:
        self.counts[f"refused:{reason}"] += 1
        self._outside.emit(
            "request", id=request.hex(), device=device, relay=relay, outcome=f"refused:{reason}"
        )
        if device and request:
            denied = Denied(id=request, layer="gateway", reason=reason)
            self._outside.answer(device, "denied", denied_codec.encode(denied))

    # --- from replicas ----------------------------------------------------------------------------

    def on_seal(self, seal: Seal) -> list[Final]:
        """A replica's signed head; answers what became final by it. Raises PeerFault."""
        conflict = self.tracker.feed(seal)
        if conflict is not None:
            self._outside.emit("conflict", replica=conflict.replica, final=conflict.against_final)
        finals = []
        while (final := self.tracker.next_final()) is not None:
            self._on_final(final)
            finals.append(final)
        return finals

    def _on_final(self, final: Final) -> None:
        assert final.block is not None, "the tracker waits for bodies"
        self.ledger.append(final.block, check_signatures=False)
        self.tracker.membership = self.ledger.membership
        sealed = SealedBlock.of(final, bodies=True)
        statements = [decode_leaf(record.leaf) for record in final.block.records]
        self._learn_epochs(sealed, statements)
        self._store.append(final.height, sealed, [each.request for each in statements])
        self.head = _head_only(sealed, final.height)
        for position, statement in enumerate(statements):
            waiting = self._waiting.pop(statement.request, None)
            if statement.op == "revoke" and statement.status == OK:
                self._outside.expel(statement.node.hex())
            if waiting is not None:
                self._outbox.done(statement.request)
                self._tell(statement, waiting.device, self._receipt(sealed, position))
        self._outside.emit("final", height=final.height, records=len(statements))

    def _learn_epochs(self, sealed: SealedBlock, statements: list[Statement]) -> None:
        for position, statement in enumerate(statements):
            if statement.epoch is not None and statement.status == OK:
                self._epochs.append(_inclusion(sealed, position))

    def _receipt(self, sealed: SealedBlock, position: int) -> bytes:
        """Proof of one record, with the changes of the membership up to its epoch."""
        epochs = tuple(self._epochs[: Head.decode(sealed.head).epoch])
        return encode_proof(Proof(record=_inclusion(sealed, position), epochs=epochs))

    def _tell(self, statement: Statement, device: str, receipt: bytes) -> None:
        """The receipt; for an admission also the login that comes with it."""
        if statement.op == "enrol" and statement.status == OK:
            role = Role.RELAY if statement.kind == "environment" else Role.DEVICE
            node = statement.node.hex()
            user = User(role, node, device_password(self._login_secret, node))
            self._outside.admit(user, device, receipt)
        else:
            self._outside.answer(device, "receipt", receipt)

    def on_denied(self, replica: int, denied: ReplicaDenied) -> None:
        """One replica may lie; f+1 that say no cannot all."""
        waiting = self._waiting.get(denied.request)
        if waiting is None or denied.reason == "done":
            return  # "done" refuses nothing: the block with its record is on the way
        waiting.denials[replica] = denied.reason
        if len(waiting.denials) < self.tracker.membership.quorum.weak:
            if not waiting.everyone:
                waiting.everyone = True
                self._outside.submit(waiting.cose, everyone=True)
            return
        del self._waiting[denied.request]
        self._outbox.done(denied.request)
        reason = max(
            sorted(set(waiting.denials.values())), key=list(waiting.denials.values()).count
        )
        self.counts[f"denied:{reason}"] += 1
        self._outside.emit("denied", id=denied.request.hex(), device=waiting.device, reason=reason)
        answer = Denied(id=denied.request, layer="group", reason=reason)
        self._outside.answer(waiting.device, "denied", denied_codec.encode(answer))

    def tick(self, now_ms: int) -> None:
        """Requests that wait too long go to every replica: the primary may be dead or deaf."""
        for waiting in self._waiting.values():
            if now_ms - waiting.sent_ms >= self._submit_timeout_ms:
                waiting.sent_ms = now_ms
                waiting.everyone = True
                self._outside.submit(waiting.cose, everyone=True)
                self.counts["resubmitted"] += 1


def _leaf(sealed: SealedBlock, position: int) -> bytes:
    assert sealed.records is not None, "the gateway stores bodies"
    return sealed.records[position].leaf


def _inclusion(sealed: SealedBlock, position: int) -> Inclusion:
    block = sealed.block
    assert block is not None, "the gateway stores bodies"
    return make_inclusion(block, position, sealed.seals)


def _head_only(sealed: SealedBlock, height: int) -> bytes:
    """What is announced: the newest head with its seals, as a range of one block."""
    head = SealedBlock(head=sealed.head, seals=sealed.seals)
    assert Head.decode(sealed.head).height == height
    return encode_range(BlockRange(start=height, blocks=(head,)))


def admitted(receipt: bytes, password: str) -> bytes:
    """The answer to a newcomer."""
    return admitted_codec.encode(Admitted(receipt=receipt, password=password))
