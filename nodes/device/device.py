"""A device with a key of its own: it asks for access, verifies every answer, signs its messages.

Mobile and environmental devices share this; they differ in how a message leaves them (`Uplink`).
The device trusts its genesis document only: every answer is a proof that it verifies itself.
`ledger_sync` has its copy of the ledger, `sender` the readings to send, `renewal` the renewal of
its certificate. `process` runs it.

A request is forgotten only after its answer was handled. If a process is killed before that, the
device sends the request again, and the gateway answers it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from chain.block import Head, genesis_head
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256, Es256Signer, digest, node_id
from chain.ledger.envelope import read_operation, sign_operation
from chain.ledger.operations import Enrol, Operation
from chain.ledger.possession import voucher_statement
from chain.ledger.statement import OK, Statement
from chain.proofs.certificate import carrier_certificate
from chain.proofs.client import SealedBlock, decode_range
from chain.proofs.proof import Proof, ProofVerifier, check_seals, decode_proof
from gateway.bridge.edge import (
    NOT_YET,
    Denial,
    Part,
    RequestKind,
    admitted_codec,
    denied_codec,
    part_codec,
)
from gateway.bridge.outbox import Outbox
from gateway.broker.credentials import open_password
from gateway.hops import NO_TRACE, Hop, Trace
from gateway.mqtt.client import Message, MqttClient, MqttSettings, Presence
from gateway.mqtt.topics import HeadTopic, Response, parse
from gateway.refusing import refusing
from gateway.tasks import set_within
from nodes.device.denials import certificate_end_us, is_proven
from nodes.device.login import Login
from nodes.device.state import DeviceState
from nodes.device.vouchers import VoucherSigner, load_voucher
from nodes.disk import write_atomically
from nodes.edge_config import DeviceConfig
from nodes.events import CountedEvents, EventLog
from nodes.exits import Trouble
from nodes.keygen import CERTIFICATE_FILE, load_key, make_key

__all__ = ["STALE", "Answer", "Device", "Refused", "Uplink"]

HEAD_WAIT_S = 5.0
PARTS_WAITING_MAX = 256
STALE = frozenset({"stale-head", "unknown-head"})  # a newer head may be accepted
LATE_VOUCHER = "unknown-voucher"  # the block that adds it may be on its way
LATE_VOUCHER_TRIES_MAX = 3


class Refused(Exception):
    """The gateway or the authentication group refused an operation before it was ordered."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"refused by the {layer}: {reason}")
        self.reason = reason


Answer = Statement | Refused
"""The outcome of a request: the chain's record (`status` says whether it was allowed), or an
earlier refusal."""


class Uplink(Protocol):
    """How a message leaves the device; `me` is its id in topics at that time."""

    def wrap(self, me: str, kind: RequestKind, body: bytes) -> tuple[str, bytes]:
        """(topic, payload) for `body`."""

    def again(self, payload: bytes, tries: int) -> bytes:
        """The payload to send after `tries` attempts without an answer."""

    def unwrap(self, payload: bytes) -> bytes:
        """The body in a payload that `wrap` made."""

    def subscriptions(self, me: str) -> tuple[str, ...]:
        """The topics to subscribe to, beside the answers to this device."""

    def presence(self, me: str) -> Presence | None:
        """The status that an admitted device announces."""

    async def other(self, login: Login, message: Message) -> None:
        """Takes a message that is not an answer to this device. Must not wait for the broker."""


class Device:
    """`kind` is what it enrols as. `announced` is the newest announced height; `head_came` is set
    at each announcement."""

    def __init__(
        self,
        config: DeviceConfig,
        genesis: Genesis,
        kind: Literal["mobile", "environment"],
        uplink: Uplink,
        events: EventLog,
        *,
        connect: Callable[[MqttSettings], MqttClient] = MqttClient,
        trace: Trace = NO_TRACE,
    ) -> None:
        directory = Path(config.state)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.genesis = genesis
        self.state = DeviceState(directory / "state.json")
        self.key = load_key(make_key(directory / self.state.key_file))
        self.signer = Es256Signer(self.key)
        self.node = node_id(self.signer.public)
        self.announced = 0
        self.head_came = asyncio.Event()
        self.parts: asyncio.Queue[Part] = asyncio.Queue(PARTS_WAITING_MAX)
        self.known_carrier = b""  # digest of the certificate that the broker knows us by
        self.carrier_changed = asyncio.Event()
        self.chain_counter = 0  # our highest counter in our copy of the ledger
        self._head = digest(genesis_head(genesis.network, genesis.time_us))
        self._unproven = False  # `announced` is of an epoch whose members are not known yet
        self._head_time_us = 0  # of the newest verified head
        self._claim: SealedBlock | None = None
        self._config = config
        self._kind: Literal["mobile", "environment"] = kind
        self._uplink = uplink
        self._connect = connect
        self._trace = trace
        self._events = events
        # A gateway, or whoever has its login, sends as many as it likes.
        self._bad = CountedEvents(events, "bad-message")
        self._bad_heads = CountedEvents(events, "bad-head")
        self._not_yet = CountedEvents(events, "not-yet")
        self._denied_unproven = CountedEvents(events, "denied-unproven")
        self._net = genesis.network.hex()[:16]
        self._outbox = Outbox(directory / "outbox.sqlite")
        self._proofs = ProofVerifier(genesis)
        self._answers: dict[bytes, asyncio.Future[Answer]] = {}
        self._asked: dict[bytes, Operation] = {}  # the requests that `_answers` waits for
        self._sealed_password: bytes | None = None
        self._proof: Proof | None = None
        self._turn = asyncio.Lock()
        self._earlier = self._unanswered()

    def _unanswered(self) -> dict[bytes, Operation]:
        """Operations that an earlier process signed. Their answers may come at any time."""
        unanswered = {}
        for entry in self._outbox.pending():
            try:
                body = self._uplink.unwrap(entry.payload)
                operation = read_operation(body, self.genesis.network).operation
            except PeerFault as fault:
                raise Trouble(f"the outbox holds what this device never sent: {fault}") from fault
            admitted_since = isinstance(operation, Enrol) and self.state.password is not None
            if admitted_since or operation.node != self.node:
                self._outbox.done(entry.digest)
                continue
            unanswered[entry.digest] = self._asked[entry.digest] = operation
            self._answers[entry.digest] = asyncio.get_running_loop().create_future()
        return unanswered

    # --- logins -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def logged_in(self) -> AsyncIterator[Login]:
        """Logs in as the admitted node. Signed operations of an earlier process are sent again."""
        assert self.state.password is not None, "not admitted yet"
        me = self.node.hex()
        others = self._uplink.subscriptions(me)
        presence = self._uplink.presence(me)
        async with self._login(me, self.state.password, others, presence).held() as login:
            yield login

    def _login(
        self, me: str, password: str | None, others: tuple[str, ...], presence: Presence | None
    ) -> Login:
        own = (f"m2m/1/{self._net}/rsp/{me}/#", str(HeadTopic(self._net)))
        return Login(
            settings=self._config.broker.login(me, password, (*own, *others), presence),
            outbox=self._outbox,
            resend_ms=self._config.resend_ms,
            on_message=self._on_message,
            events=self._events,
            again=self._uplink.again,
            connect=self._connect,
            trace=self._trace,
        )

    # --- operations -------------------------------------------------------------------------------

    async def enrol(self, due_ns: int | None = None) -> Statement:
        """Access authentication, due at a wall time. Afterwards the node's own login is known.
        Raises Refused."""
        chain = self._config.factory_chain
        voucher = load_voucher(Path(self._config.voucher), Path(chain) if chain else None)
        user = voucher.user
        admitted: list[Statement] = []

        def earlier(_: Operation, answer: Answer) -> None:
            if not _may_ask_again(answer, 0):
                admitted.append(self._admission(answer))

        async with self._login(user.node, user.password, (), None).held() as login:
            await self.resume(login, earlier)
            for tries in itertools.count():
                if admitted:
                    break
                await self.fresh_head()
                request = self._access_request(voucher)
                async with self.asking(login, request, "enrol", due_ns) as answer:
                    if not _may_ask_again(answer, tries):
                        admitted.append(self._admission(answer))
        return admitted[0]

    def _admission(self, answer: Answer) -> Statement:
        """Returns the admission and keeps its login. Raises Refused."""
        if isinstance(answer, Refused):
            raise answer
        if answer.status != OK or self._sealed_password is None:
            raise Refused("chain", answer.status)
        self.keep_certificate(self.key)
        self.state.set_password(self.sealed_for(self.key))
        return answer

    async def fresh_head(self) -> None:
        """Waits for a head announced since the last request; after HEAD_WAIT_S uses the old one."""
        await set_within(self.head_came, HEAD_WAIT_S)
        self.head_came.clear()

    @property
    def head(self) -> bytes:
        """Hash of the newest head. It is verified here, because many are announced. Heads of later
        epochs are taken unverified, as their members may not be known yet."""
        if (claim := self._claim) is not None:
            self._claim = None
            head = Head.decode(claim.head)
            try:
                if head.epoch <= self._proofs.epoch:
                    members = self._proofs.members_of(head)
                    check_seals(claim.head, claim.seals, members, Es256())
                    self._head_time_us = head.time_us
            except PeerFault as fault:
                self._bad_heads.add(fault.code, reason=str(fault))
                self.announced = 0
            else:
                self._head = digest(claim.head)
        return self._head

    def _access_request(self, voucher: VoucherSigner) -> Callable[[int], Enrol]:
        statement = voucher_statement(self.genesis.network, self.signer.public, self.head)
        request = Enrol(
            network=self.genesis.network,
            key=self.signer.public,
            kind=self._kind,
            service=self._config.service,
            privilege=self._config.privilege,
            validity_s=self._config.validity_s,
            head=self.head,
            nonce=secrets.token_bytes(16),
            voucher=voucher.sign(statement),
        )
        return lambda _: request

    @contextlib.asynccontextmanager
    async def asking(
        self,
        login: Login,
        make: Callable[[int], Operation],
        kind: RequestKind = "op",
        due_ns: int | None = None,
    ) -> AsyncIterator[Answer]:
        """Signs `make(counter)`, sends it until it is answered, and verifies the answer. The trace
        notes that it was due at the wall time `due_ns`.

        Handle the answer inside the `async with`: when it is left, the request is forgotten. One at
        a time, because an operation that a higher counter overtakes is refused.
        """
        async with self._turn:
            operation = make(self.state.next_counter())
            cose = sign_operation(operation, self.signer)
            request = read_operation(cose, self.genesis.network).id
            self._asked[request] = operation
            if due_ns is not None and self._trace.on:
                late_ns = time.time_ns() - due_ns
                self._trace.request(Hop.INTENDED, request, max(1, self._trace.now_ns() - late_ns))
            topic, payload = self._uplink.wrap(login.me, kind, cose)
            self._answers[request] = asyncio.get_running_loop().create_future()
            await login.courier.send(request, topic, payload)
            yield await self._answers[request]
            await self._forget(login, request)

    async def resume(self, login: Login, took: Callable[[Operation, Answer], None]) -> None:
        """Calls `took` with each operation of an earlier process and its answer. Call it before any
        new operation: the counters of the earlier ones are lower."""
        async with self._turn:
            for request, operation in list(self._earlier.items()):
                took(operation, await self._answers[request])
                del self._earlier[request]
                await self._forget(login, request)

    async def _forget(self, login: Login, request: bytes) -> None:
        await login.courier.done(request)
        self._answers.pop(request, None)
        self._asked.pop(request, None)

    def close(self) -> None:
        self._outbox.close()

    def sealed_for(self, key: ec.EllipticCurvePrivateKey) -> str:
        """The password that came with the last answer, for the key that it was sealed for."""
        return open_password(self._sealed_password or b"", key)

    def keep_certificate(self, key: ec.EllipticCurvePrivateKey) -> None:
        """Writes the last answer's proof for `key` as an X.509 carrier: for TLS and brokers."""
        assert self._proof is not None, "an answer came"
        pem = carrier_certificate(key, self._proof)
        write_atomically(Path(self._config.state) / CERTIFICATE_FILE, pem)
        self.carrier_changed.set()

    # --- answers ----------------------------------------------------------------------------------

    async def _on_message(self, login: Login, message: Message) -> None:
        try:
            with refusing():
                topic = parse(message.topic)
                if isinstance(topic, HeadTopic):
                    self._on_head(message.payload)
                elif isinstance(topic, Response):
                    self._on_answer(topic.kind, message.payload)
                else:
                    await self._uplink.other(login, message)
        except PeerFault as fault:
            self._bad.add(fault.code, topic=message.topic, reason=fault.code)

    def _on_head(self, payload: bytes) -> None:
        """Takes only a higher head, because a gateway may lag behind another. One exception: a head
        of a later epoch cannot be verified yet, and its gateway may lie. So any head replaces it.
        """
        if newest := decode_range(payload).blocks:
            head = Head.decode(newest[-1].head)
            if head.height > self.announced or self._unproven:
                self.announced, self._claim = head.height, newest[-1]
                self._unproven = head.epoch > self._proofs.epoch
        self.head_came.set()

    def _on_answer(self, kind: str, payload: bytes) -> None:
        match kind:
            case "blocks":
                with contextlib.suppress(asyncio.QueueFull):  # it will be asked for again
                    self.parts.put_nowait(part_codec.decode(payload))
            case "denied":
                denied = denied_codec.decode(payload)
                if denied.layer == "gateway" and denied.reason in NOT_YET:
                    self._not_yet.add(
                        denied.reason, reason=denied.reason
                    )  # the courier tries again
                else:
                    self._on_denied(denied)
            case "admitted":
                admitted = admitted_codec.decode(payload)
                self._on_receipt(admitted.receipt, admitted.sealed_password)
            case "receipt":
                self._on_receipt(payload, None)
            case "epochs":
                for step in decode_range(payload).epochs or ():
                    self._proofs.follow(step)
            case "carrier":
                self.known_carrier = payload
                self.carrier_changed.set()
            case _:
                raise PeerFault("bad-kind", kind)

    def _on_denied(self, denied: Denial) -> None:
        """Only a proven denial is an answer. Anything else is a hint: the request goes on. This
        holds for a stale head too: if the request is on the chain after all, a new one would be
        refused for good, because its key is known."""
        operation = self._asked.get(denied.id)
        if operation is None:
            return
        if self._is_proven(denied, operation):
            self._deliver(denied.id, Refused(denied.layer, denied.reason))
        else:
            said = {"layer": denied.layer, "reason": denied.reason}
            self._denied_unproven.add(*said.values(), **said)

    def _is_proven(self, denied: Denial, operation: Operation) -> bool:
        """Judges the denial by its proof, or by this device's own knowledge. Raises PeerFault for a
        false proof."""
        if denied.reason == "counter":
            return operation.counter <= self.chain_counter
        if denied.reason == "expired":
            return self._has_expired()
        return is_proven(denied, self._proofs, self.genesis.network, self.node)

    def _has_expired(self) -> bool:
        """Judged by the newest head that f+1 replicas signed and this device verified."""
        _ = self.head
        end_us = certificate_end_us(Path(self._config.state) / CERTIFICATE_FILE)
        return end_us is not None and self._head_time_us > end_us

    def _on_receipt(self, receipt: bytes, sealed_password: bytes | None) -> None:
        proof = decode_proof(receipt)
        statement = self._proofs.verify(proof)
        if statement.request in self._answers:
            self._proof = self._proofs.complete(proof.record)
            self._sealed_password = sealed_password or self._sealed_password
        self._deliver(statement.request, statement)

    def _deliver(self, request: bytes, answer: Answer) -> None:
        waiting = self._answers.get(request)
        if waiting is not None and not waiting.done():
            self._trace.request(Hop.ANSWERED, request)
            waiting.set_result(answer)


def _may_ask_again(answer: Answer, tries: int) -> bool:
    """Whether the same request with a newer head has a chance."""
    if not isinstance(answer, Refused):
        return False
    return answer.reason in STALE or (
        answer.reason == LATE_VOUCHER and tries < LATE_VOUCHER_TRIES_MAX
    )
