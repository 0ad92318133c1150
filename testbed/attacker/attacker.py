"""The attacker's means on a running network: his logins at the broker, his devices, stolen
credentials, and how he sends.

An attack makes one `Attacker` when it is armed. The lab's administrator lets him in like any
device: with a login at the broker and a voucher on the chain. So the network itself is not changed
for him. Each attack decides what he sends; `testbed.checks.trials` judges the answers.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chain.block import genesis_head
from chain.errors import PeerFault
from chain.keys import Es256Signer, digest, node_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import AddVoucher, Revoke
from chain.proofs.client import decode_range
from gateway.bridge.edge import Stamped, stamped_codec
from gateway.broker.port import BrokerAdminError, DynamicSecurityAdmin
from gateway.broker.security import User, device_password, new_password
from gateway.mqtt.client import BrokerUnavailableError, Message, MqttClient
from gateway.mqtt.topics import HeadTopic, Role, Up
from gateway.tasks import Tasks
from testbed.attacker.puppet import Puppet
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.material import SERVICES, Voucher

__all__ = ["Attacker", "new_login"]

CONNECT_S_MAX = 10.0
ANSWER_S_MAX = 20.0
IN_FLIGHT_MAX = 64  # messages of a batch that wait for the broker
VOUCHER_VALID_S = 86_400

T = TypeVar("T")


def new_login(role: Role) -> User:
    """A login that belongs to no device of the network. `let_in` makes the broker accept it."""
    return User(role, secrets.token_hex(32), new_password())


class Attacker:
    """Use from one thread; `close` ends everything. Raises LabFault if the broker does not let him
    in."""

    def __init__(self, deployment: Deployment) -> None:
        material = deployment.material
        self.deployment = deployment
        self.genesis = material.genesis
        self.network = material.genesis.network
        self.net = self.network.hex()[:16]
        self.head = digest(genesis_head(self.network, material.genesis.time_us))
        self.relay = new_login(Role.RELAY)
        self._sent = 0
        self._relay_client: MqttClient | None = None
        self._tasks = Tasks()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="attacker", daemon=True)
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            with suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop).result(timeout=5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)

    def do(self, work: Coroutine[Any, Any, T], within_s: float = ANSWER_S_MAX) -> T:
        """Wait for something that runs on the attacker's own event loop."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(within_s)
        except (BrokerUnavailableError, BrokerAdminError, TimeoutError) as error:
            raise LabFault(f"the attacker at the broker: {error}") from error

    # --- a relay gone bad ---------------------------------------------------------------------

    def become_relay(self) -> None:
        """Gives him a relay's login. He may publish anything as that relay, and follows the
        head."""
        self.let_in(self.relay)
        self._relay_client = self.connect(self.relay, (str(HeadTopic(self.net)),), self._on_head)

    def let_in(self, user: User) -> None:
        """The administrator makes a login at the broker."""
        self.do(self._let_in(user))

    def connect(
        self, user: User, topics: tuple[str, ...], heard: Callable[[Message], None] | None = None
    ) -> MqttClient:
        """Opens a connection that stays. `heard` gets each message of `topics`, on the attacker's
        thread."""
        return self.do(self._connect(user, topics, heard))

    def up(self, device: str, kind: str, bodies: list[bytes]) -> None:
        """Publish bodies of `device` to the gateway, as the relay, and wait until the broker has
        them."""
        self.up_each([(device, kind, body) for body in bodies])

    def up_each(self, messages: list[tuple[str, str, bytes]]) -> None:
        """As `up`, for (device, kind, body) of many devices."""
        self.do(self._up(messages), within_s=60.0)

    async def _up(self, messages: list[tuple[str, str, bytes]]) -> None:
        client = self._relay_client
        assert client is not None, "become_relay was not called"
        for first in range(0, len(messages), IN_FLIGHT_MAX):
            batch = messages[first : first + IN_FLIGHT_MAX]
            await asyncio.gather(*(client.publish(*self._stamped(*each)) for each in batch))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something on the attacker's own event loop, until it ends or `close` is called."""
        asyncio.run_coroutine_threadsafe(work, self._loop)

    async def publish(self, device: str, kind: str, body: bytes) -> None:
        """Publish one message as the relay. Call it on the attacker's own event loop."""
        await self.publish_raw(*self._stamped(device, kind, body))

    async def publish_raw(self, topic: str, payload: bytes) -> None:
        """As `publish`, with any topic and any payload."""
        assert self._relay_client is not None, "become_relay was not called"
        with suppress(BrokerUnavailableError):
            await self._relay_client.publish(topic, payload)

    def _stamped(self, device: str, kind: str, body: bytes) -> tuple[str, bytes]:
        self._sent += 1
        stamp = Stamped(n=self._sent, boot=1, at_ms=time.time_ns() // 10**6, body=body)
        return str(Up(self.net, self.relay.node, device, kind)), stamped_codec.encode(stamp)

    async def _connect(
        self, user: User, topics: tuple[str, ...], heard: Callable[[Message], None] | None
    ) -> MqttClient:
        client = self._client(user, topics)
        self._tasks.start(client.run())
        if heard is not None:
            self._tasks.start(_listen(client, heard))
        await client.ready(CONNECT_S_MAX)
        return client

    def _client(self, user: User, topics: tuple[str, ...]) -> MqttClient:
        return MqttClient(self.deployment.broker.login(user.name, user.password, topics))

    async def _let_in(self, user: User) -> None:
        client = self._client(
            self.deployment.material.broker_admin, DynamicSecurityAdmin.subscriptions
        )
        security = DynamicSecurityAdmin(client, self.net)
        async with Tasks() as tasks:
            tasks.start(client.run())
            tasks.start(security.run())
            await client.ready(CONNECT_S_MAX)
            await security.ensure(user)

    def _on_head(self, message: Message) -> None:
        with suppress(PeerFault):
            if newest := decode_range(message.payload).blocks:
                self.head = digest(newest[-1].head)

    # --- devices of his own -------------------------------------------------------------------

    def voucher(self) -> Voucher:
        """A valid voucher that the chain knows, as if he had bought, found or stolen it."""
        voucher = Voucher.new("mobile")
        self._administer(
            AddVoucher,
            voucher=voucher.id,
            kind=voucher.kind,
            privilege=3,
            services=SERVICES,
            not_after_us=time.time_ns() // 1000 + VOUCHER_VALID_S * 1_000_000,
        )
        return voucher

    def admitted(self, **changes: Any) -> Puppet:
        """A device of his own that the chain has admitted; `changes` as in `Puppet.enrol`."""
        voucher, puppet = self.voucher(), Puppet(self.network)
        self.let_in(voucher.user)
        self._ask(voucher.user, "enrol", puppet.sign(puppet.enrol(voucher, self.head, **changes)))
        return puppet

    def revoked(self) -> Puppet:
        """A device that the administrator has revoked as lost, and that the attacker has found."""
        puppet = self.admitted()
        self._administer(Revoke, target=puppet.node, reason="lost")
        return puppet

    def login_of(self, puppet: Puppet) -> User:
        """The login of an admitted device."""
        node = puppet.node.hex()
        secret = self.deployment.material.login_secret
        return User(Role.DEVICE, node, device_password(secret, node))

    def _administer(self, make: Callable[..., Any], /, **fields: object) -> None:
        material = self.deployment.material
        key = serialization.load_pem_private_key(material.admin_pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        signer = Es256Signer(key)
        operation = make(
            network=self.network,
            node=node_id(signer.public),
            counter=time.time_ns() // 1000,  # higher than any that the administrator used
            **fields,
        )
        self._ask(material.operator, "op", sign_operation(operation, signer))

    def _ask(self, user: User, kind: str, body: bytes) -> None:
        """Send one request with the login `user`, and wait for the answer. Raises LabFault if it is
        denied."""
        answer = self.do(self._asked(user, kind, body))
        if answer == "denied":
            raise LabFault(f"a request of the lab's administrator for the attacker was {answer}")

    async def _asked(self, user: User, kind: str, body: bytes) -> str:
        client = self._client(user, (f"m2m/1/{self.net}/rsp/{user.node}/#",))
        async with Tasks() as tasks:
            tasks.start(client.run())
            await client.ready(CONNECT_S_MAX)
            stamped = Stamped(n=1, boot=1, at_ms=0, body=body)
            topic = str(Up(self.net, user.node, user.node, kind))
            await client.publish(topic, stamped_codec.encode(stamped))
            while True:
                answer = (await client.receive()).topic.rpartition("/")[2]
                if answer in ("receipt", "admitted", "denied"):
                    return answer


async def _listen(client: MqttClient, heard: Callable[[Message], None]) -> None:
    async for message in client.messages():
        heard(message)


async def _cancel_all() -> None:
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
