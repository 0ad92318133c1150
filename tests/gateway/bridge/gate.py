"""A gateway in a test's hand: the real bridge, ledger, outbox and signatures; the network is lists.

Replicas are the test's `World`: what the gateway submits becomes a block when the test says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chain.keys import Es256
from chain.ledger.admission import voucher_id
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item
from chain.ledger.operations import Enrol, EnrolBoard, Operation, Token
from chain.ledger.statement import Statement
from chain.pbft.messages import Denied
from chain.pbft.state_machine import VerifiedRequest
from chain.proofs.client import LedgerCopy, decode_range
from gateway.bridge.block_store import BlockStore
from gateway.bridge.bridge import Bridge
from gateway.bridge.edge import (
    RequestKind,
    Stamped,
    SyncRequest,
    denied_codec,
    part_codec,
    sync_codec,
)
from gateway.bridge.edge import stamped_codec as stamps
from gateway.bridge.logins import CarrierCertificate, LoginChange
from gateway.bridge.outbox import Outbox
from gateway.bridge.parts import Assembly
from gateway.bridge.pending import DENIAL_DELAY_MS
from gateway.bridge.ports import BridgeLimits
from gateway.broker.security import bootstrap_id
from gateway.hops import NO_TRACE, Trace
from gateway.limits import RateLimiter
from gateway.mqtt.topics import Up
from tests.chain.world import Device, World

SECRET = b"s" * 32
RELAY = "e" * 64


class Clock:
    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


def limiter(clock: Clock, rate: float = 50, burst: float = 200) -> RateLimiter:
    return RateLimiter(
        rate_per_s=rate,
        burst=burst,
        total_rate_per_s=10_000,
        total_burst=10_000,
        sources_max=1000,
        clock=clock,
    )


class Gate:
    """`submitted`: (cose, everyone); `answers`: (device, kind, payload); `logins`: who may log in.

    `restart` is kill -9 and a new start on the same files."""

    def __init__(self, folder: Path, world: World, **limits: Any) -> None:
        self.folder, self.world = folder, world
        self.clock = Clock()
        self.limits: dict[str, Any] = {
            "relays": limiter(self.clock, 1000, 2000),
            "devices": limiter(self.clock),
            "syncs": limiter(self.clock),
            "events": limiter(self.clock),
            "waiting_max": 64,
            "device_waiting_max": 8,
            "relay_waiting_max": 32,
            "submit_timeout_ms": 1000,
        } | limits
        self.submitted: list[tuple[bytes, bool]] = []
        self.answers: list[tuple[str, str, bytes]] = []
        self.logins: dict[str, str] = {}
        self.changes: list[LoginChange] = []
        self.carriers: list[CarrierCertificate] = []
        self.events: list[tuple[str, dict[str, object]]] = []
        self.stamped = 0
        self.trace: Trace = NO_TRACE
        self.outbox = Outbox(folder / "outbox.sqlite")
        self.store = BlockStore(folder / "copy.sqlite", world.network)
        self.bridge = self._bridge(0)

    def _bridge(self, logins_done: int, kept: object = None) -> Bridge:
        return Bridge(
            genesis=self.world.genesis,
            scheme=Es256(),
            store=self.store,
            unfinished=self.outbox.pending(limit=-1),
            login_secret=SECRET,
            logins_done=logins_done,
            limits=BridgeLimits(**self.limits),
            outside=self,
            kept=kept,
            trace=self.trace,
        )

    def restart(self, logins_done: int = 0, kept: object = None) -> None:
        self.outbox.close()
        self.store.close()
        self.outbox = Outbox(self.folder / "outbox.sqlite")
        self.store = BlockStore(self.folder / "copy.sqlite", self.world.network)
        self.submitted.clear()
        self.bridge = self._bridge(logins_done, kept)

    def restart_with(self, **limits: Any) -> None:
        self.limits |= limits
        self.restart()

    # --- bridge.Outside ---

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        self.submitted.append((cose, everyone))

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        self.answers.append((device, kind, payload))

    def change_login(self, change: LoginChange) -> None:
        self.changes.append(change)
        if change.user is None:
            self.logins.pop(change.name, None)
        else:
            self.logins[change.name] = change.user.password or ""

    def list_carrier(self, carrier: CarrierCertificate) -> None:
        self.carriers.append(carrier)
        self.answer(carrier.name, "carrier", carrier.digest)

    def answer_with_login(self, login: str, device: str, payload: bytes) -> None:
        assert login in self.logins
        self.answer(device, "admitted", payload)

    def emit(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    # --- devices ---

    def up(
        self, device: str, kind: str, body: bytes, relay: str = RELAY, tries: int | None = None
    ) -> None:
        """A relay's message; what is to be stored is stored at once."""
        self.stamped += 1
        stamped = Stamped(n=self.stamped, boot=1, at_ms=0, body=body, tries=tries)
        topic = str(Up(self.bridge.net, relay, device, kind))
        self.bridge.on_up(topic, stamps.encode(stamped), self.now_ms)
        self.persist()

    def persist(self) -> None:
        while (writes := self.bridge.take_writes()) is not None:
            self.outbox.exchange(writes.fresh, writes.done)
            self.bridge.written(writes)

    @property
    def now_ms(self) -> int:
        return int(self.clock.s * 1000)

    def ask(self, operation: Operation, by: Device, **changes: str) -> bytes:
        """`by` signs `operation` and sends it, under its voucher's name if it is an enrolment."""
        cose = sign_operation(operation, by.signer)
        relay = changes.get("relay", RELAY)
        self.up(changes.get("device") or sender(operation), kind_of(operation), cose, relay)
        return cose

    def refusals(self) -> list[str]:
        """Reasons in the refusals that devices got, in order."""
        return [denied_codec.decode(p).reason for _, kind, p in self.answers if kind == "denied"]

    def outcomes(self) -> list[object]:
        return [fields["outcome"] for event, fields in self.events if event == "request"]

    # --- replicas ---

    def decide(self) -> list[Statement]:
        """One block of all that was submitted, sealed by replicas 1 and 2."""
        requests = {each.id: each for each in map(self.request_of, self.submitted)}
        self.submitted.clear()
        statements = self.world.block(*requests.values())
        self.seal()
        return statements

    def decide_unseen(self) -> None:
        """The same, but this gateway hears nothing of it."""
        self.world.block(*map(self.request_of, self.submitted))
        self.submitted.clear()

    def seal(self) -> None:
        """Everything that this gateway has not yet seen, from replicas 1 and 2."""
        for block in self.world.blocks[self.bridge.follower.height :]:
            for replica in (1, 2):
                self.bridge.on_seal(self.world.seal(replica, block))
        self.persist()

    def deny(self, reason: str, *replicas: int) -> None:
        request = self.request_of(self.submitted[-1]).id
        for replica in replicas:
            self.bridge.on_denied(replica, Denied(request, reason, None))
        for _ in range(2):
            self.bridge.tick(self.now_ms)
            self.clock.s += DENIAL_DELAY_MS / 1000
        self.bridge.tick(self.now_ms)
        self.persist()

    def request_of(self, submitted: tuple[bytes, bool]) -> VerifiedRequest:
        request = self.world.open(make_item(submitted[0]))
        operation = request.operation.opened.operation  # type: ignore[attr-defined]
        if isinstance(operation, Enrol | EnrolBoard):
            return self.world.open(make_item(submitted[0], self.world.endorse(request.id)))
        return request

    def admit(self, name: str, **changes: Any) -> Device:
        """Enrols through this gateway."""
        device = Device(name)
        self.ask(self.world.enrol(device, **changes), device)
        assert [each.status for each in self.decide()] == ["ok"]
        return device

    def copy(self, device: Device, *, bodies: bool = True) -> LedgerCopy:
        """A copy of the ledger as the device gets it from this gateway."""
        copy = LedgerCopy(self.world.genesis, bodies=bodies)
        while copy.height < self.bridge.follower.height:
            self.answers.clear()
            wanted = SyncRequest(start=copy.height + 1, bodies=bodies)
            self.up(device.node.hex(), "sync", sync_codec.encode(wanted))
            assembly, data = Assembly(), None
            for _, kind, payload in self.answers:
                assert kind == "blocks"
                data = assembly.add(part_codec.decode(payload))
            assert data is not None
            assert copy.take(decode_range(data)) > 0
        return copy


def kind_of(operation: Operation) -> RequestKind:
    return "enrol" if isinstance(operation, Enrol) else "op"


def sender(operation: Operation) -> str:
    """Whose name a message is published under."""
    if isinstance(operation, Enrol) and isinstance(operation.voucher, Token):
        return bootstrap_id(voucher_id(operation.voucher))
    return operation.node.hex()
