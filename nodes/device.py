"""A device with a key of its own: asks for access, checks what it is told, signs what it says.

Mobile and environmental devices share this; they differ in how a message leaves them (`Uplink`).
The device trusts its genesis document only: every answer is a proof that it verifies itself.
Its copy of the ledger is in `ledger_sync`, what it was given to send in `sender`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal, Protocol

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chain.block import genesis_head
from chain.client import decode_range
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256Signer, digest, node_id
from chain.operations import (
    Enrol,
    Operation,
    Token,
    read_operation,
    sign_operation,
    voucher_statement,
)
from chain.proof import ProofVerifier, decode_proof
from chain.statement import OK, Statement
from gateway.broker_security import bootstrap_user
from gateway.edge import Kind, Part, admitted_codec, denied_codec, part_codec
from gateway.mqtt import Message, MqttSettings, Presence
from gateway.outbox import Outbox
from gateway.topics import Head as HeadTopic
from gateway.topics import Response, parse
from nodes.device_state import DeviceState
from nodes.edge_config import DeviceConfig
from nodes.events import EventLog
from nodes.keygen import KEY_FILE, keygen, load_key
from nodes.login import Login
from nodes.process import Trouble

__all__ = ["Device", "Refused", "Uplink"]

HEAD_WAIT_S = 5.0
PARTS_WAITING_MAX = 256
STALE = frozenset({"stale-head", "unknown-head"})  # a newer head may do


class Refused(Exception):
    """The gateway or the authentication group refused an operation before it was ordered."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(f"refused by the {layer}: {reason}")
        self.reason = reason


class Uplink(Protocol):
    """How a message leaves the device; `me` is its id in topics at that time."""

    def wrap(self, me: str, kind: Kind, body: bytes) -> tuple[str, bytes]:
        """(topic, payload) for `body`."""

    def unwrap(self, payload: bytes) -> bytes:
        """The body in a payload that `wrap` made."""

    def subscriptions(self, me: str) -> tuple[str, ...]:
        """What to hear beside the answers to this device."""

    def presence(self, me: str) -> Presence | None:
        """What to be announced as once admitted."""

    async def other(self, login: Login, message: Message) -> None:
        """A message that is no answer to this device."""


class Device:
    """`kind` is what it enrols as."""

    def __init__(
        self,
        config: DeviceConfig,
        genesis: Genesis,
        kind: Literal["mobile", "environment"],
        uplink: Uplink,
        events: EventLog,
    ) -> None:
        directory = Path(config.state)
        keygen(directory)
        self.genesis = genesis
        self.signer = Es256Signer(load_key(directory / KEY_FILE))
        self.node = node_id(self.signer.public)
        self.state = DeviceState(directory / "state.json")
        self.head = digest(genesis_head(genesis.network, genesis.time_us))
        self.parts: asyncio.Queue[Part] = asyncio.Queue(PARTS_WAITING_MAX)
        self._config = config
        self._kind: Literal["mobile", "environment"] = kind
        self._uplink = uplink
        self._events = events
        self._net = genesis.network.hex()[:16]
        self._outbox = Outbox(directory / "outbox.sqlite")
        self._proofs = ProofVerifier(genesis)
        self._answers: dict[bytes, asyncio.Future[Statement]] = {}
        self._password: str | None = None
        self._head_came = asyncio.Event()

    # --- logins -----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def logged_in(self) -> AsyncIterator[Login]:
        """As the admitted node; the signed operations of an earlier life go on their way."""
        assert self.state.password is not None, "not admitted yet"
        me = self.node.hex()
        others = self._uplink.subscriptions(me)
        async with self._login(me, self.state.password, others, self._uplink.presence(me)) as login:
            yield login

    def _login(
        self, me: str, password: str | None, others: tuple[str, ...], presence: Presence | None
    ) -> Login:
        settings = MqttSettings(
            self._config.broker.host,
            self._config.broker.port,
            me,
            password,
            subscriptions=(f"m2m/1/{self._net}/rsp/{me}/#", str(HeadTopic(self._net)), *others),
            presence=presence,
        )
        return Login(settings, self._outbox, self._config.resend_ms, self._on_message)

    # --- operations -------------------------------------------------------------------------------

    async def enrol(self) -> Statement:
        """Access authentication; the node's own login is known afterwards. Raises Refused."""
        pem = Path(self._config.voucher).read_bytes()
        user = bootstrap_user(pem)
        voucher = Es256Signer(_private_key(pem, self._config.voucher))
        async with self._login(user.node, user.password, (), None) as login:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._head_came.wait(), HEAD_WAIT_S)
            while True:
                try:
                    statement = await self.request(login, self._access_request(voucher), "enrol")
                except Refused as refusal:
                    if refusal.reason not in STALE:
                        raise
                    continue
                if statement.status != OK or self._password is None:
                    raise Refused("chain", statement.status)
                self.state.set_password(self._password)
                return statement

    def _access_request(self, voucher: Es256Signer) -> Enrol:
        statement = voucher_statement(self.genesis.network, self.signer.public, self.head)
        return Enrol(
            network=self.genesis.network,
            key=self.signer.public,
            kind=self._kind,
            service=self._config.service,
            privilege=self._config.privilege,
            validity_s=self._config.validity_s,
            head=self.head,
            nonce=secrets.token_bytes(16),
            voucher=Token(key=voucher.public, signature=voucher.sign(statement)),
        )

    async def request(self, login: Login, operation: Operation, kind: Kind = "op") -> Statement:
        """Sign an operation, keep it going until it is answered, and verify the answer.

        Returns what the chain recorded (`status` says whether it was allowed). Raises Refused.
        """
        cose = sign_operation(operation, self.signer)
        request = read_operation(cose, self.genesis.network).id
        answer: asyncio.Future[Statement] = asyncio.get_running_loop().create_future()
        self._answers[request] = answer
        topic, payload = self._uplink.wrap(login.me, kind, cose)
        await login.courier.send(request, topic, payload)
        try:
            login.failed.add_done_callback(lambda failed: _fail(answer, failed))
            return await answer
        finally:
            del self._answers[request]

    def unanswered(self) -> list[tuple[bytes, Operation]]:
        """(request id, operation) of what an earlier life signed and heard nothing of."""
        found = []
        for entry in self._outbox.pending():
            body = self._uplink.unwrap(entry.payload)
            found.append((entry.digest, read_operation(body, self.genesis.network).operation))
        return found

    async def answer_to(self, request: bytes) -> Statement:
        """Wait for the answer to a request that is on its way. Raises Refused."""
        fresh: asyncio.Future[Statement] = asyncio.get_running_loop().create_future()
        answer = self._answers.setdefault(request, fresh)
        try:
            return await answer
        finally:
            self._answers.pop(request, None)

    # --- answers ----------------------------------------------------------------------------------

    async def _on_message(self, login: Login, message: Message) -> None:
        try:
            topic = parse(message.topic)
            if isinstance(topic, HeadTopic):
                self._on_head(message.payload)
            elif isinstance(topic, Response):
                await self._on_answer(login, topic.kind, message.payload)
            else:
                await self._uplink.other(login, message)
        except PeerFault as fault:
            self._events.emit("bad-message", topic=message.topic, reason=fault.code)

    def _on_head(self, payload: bytes) -> None:
        """Only makes the next request fresh; a false head would get it refused, no more."""
        newest = decode_range(payload).blocks
        if newest:
            self.head = digest(newest[-1].head)
        self._head_came.set()

    async def _on_answer(self, login: Login, kind: str, payload: bytes) -> None:
        if kind == "blocks":
            with contextlib.suppress(asyncio.QueueFull):  # it will be asked for again
                self.parts.put_nowait(part_codec.decode(payload))
            return
        if kind == "denied":
            denied = denied_codec.decode(payload)
            await self._settle(login, denied.id, Refused(denied.layer, denied.reason))
            return
        receipt = payload
        if kind == "admitted":
            answer = admitted_codec.decode(payload)
            receipt, self._password = answer.receipt, answer.password
        statement = self._proofs.verify(decode_proof(receipt))
        await self._settle(login, statement.request, statement)

    async def _settle(self, login: Login, request: bytes, outcome: Statement | Refused) -> None:
        waiting = self._answers.get(request)
        if waiting is not None and not waiting.done():
            if isinstance(outcome, Refused):
                waiting.set_exception(outcome)
            else:
                waiting.set_result(outcome)
        await login.courier.done(request)


def _fail(answer: asyncio.Future[Statement], failed: asyncio.Future[None]) -> None:
    """Nobody will bring the answer any more."""
    if not answer.done() and (error := failed.exception()) is not None:
        answer.set_exception(error)


def _private_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise Trouble(f"{where}: not a voucher (an unencrypted PEM private key)") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Trouble(f"{where}: not a voucher (a P-256 key)")
    return key
