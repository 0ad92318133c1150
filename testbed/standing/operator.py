"""The operator of a running lab. It uses an administrator's key like the key of any device.

It speaks MQTT through the gateway and follows the ledger in a copy of its own. It believes only
proofs: the result of `devices` was verified from genesis.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from difflib import get_close_matches
from pathlib import Path

from chain.errors import Misuse
from chain.fields import DeviceKind
from chain.genesis import Genesis
from chain.keys import digest
from chain.ledger.envelope import read_operation
from chain.ledger.factory import factory_id
from chain.ledger.identity import Identity
from chain.ledger.item import cose_of
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    Enrol,
    Grant,
    Operation,
    RemoveReplica,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
    voucher_key,
)
from chain.ledger.possession import factory_key
from chain.ledger.registry import Registry
from chain.ledger.statement import OK, Statement, decode_leaf
from chain.ledger.tables import ADMIN
from chain.proofs.proof import Proof, make_inclusion
from gateway.bridge.block_store import BlockStoreError
from gateway.bridge.outbox import OutboxFullError
from gateway.broker.port import DynamicSecurityAdmin
from gateway.broker.security import User
from gateway.mqtt.client import MqttClient
from gateway.mqtt.topics import Role
from gateway.tasks import Tasks
from nodes.device.device import Device, Refused
from nodes.device.ledger_sync import LedgerSync
from nodes.device.login import Login
from nodes.device.vouchers import factory_user
from nodes.disk import lacks_room
from nodes.edge_config import DeviceConfig
from nodes.events import EventLog
from testbed.errors import ConfigurationError, LabFault, RefusedError
from testbed.provision.material import SERVICES, Voucher
from testbed.standing.direct_uplink import DirectUplink
from testbed.standing.record_index import RecordIndex
from testbed.standing.running_lab import RunningLab, read_running

__all__ = ["Operator", "meant", "operating"]

CONNECT_S_MAX = 15.0
ANSWER_S_MAX = 60.0
TURN_S_MAX = 30.0
TURN_POLL_S = 0.2
ID_DIGITS_MIN = 4
VOUCHER_VALID_S = 86_400
NAMES_SHOWN_MAX = 12


def meant(devices: list[tuple[str, Identity]], who: str) -> list[tuple[str, Identity]]:
    """The (name, identity) pairs with this name. If there is none, those with a node id that begins
    so."""
    named = [pair for pair in devices if pair[0] == who]
    if named or len(who) < ID_DIGITS_MIN:
        return named
    return [pair for pair in devices if pair[1].node.hex().startswith(who.lower())]


class Operator:
    """Use inside `operating`."""

    def __init__(
        self,
        running: RunningLab,
        device: Device,
        login: Login,
        sync: LedgerSync,
        index: RecordIndex,
    ) -> None:
        self.running = running
        self.sync = sync
        self._index = index
        self._device = device
        self._login = login
        self._uplink = DirectUplink(device.genesis.network.hex()[:16])

    @property
    def genesis(self) -> Genesis:
        return self._device.genesis

    @property
    def _registry(self) -> Registry:
        assert self.sync.copy.ledger is not None, "a whole copy"
        return self.sync.copy.ledger.registry

    async def refresh(self) -> None:
        """Fetch and verify the new blocks of the ledger."""
        async with _deadline("the gateway sends no blocks"):
            await self.sync.run(self._login, self._uplink)
        self._index.update()

    async def ask(self, make: Callable[[int], Operation]) -> Statement:
        """Sends one signed operation and waits until it is decided and carried out. Raises
        RefusedError if it is refused, LabFault if there is no answer."""
        async with (
            _deadline("the chain does not answer"),
            self._device.asking(self._login, make) as answer,
        ):
            pass
        if isinstance(answer, Refused):
            raise RefusedError(str(answer))
        await self.refresh()
        if answer.status != OK:
            raise RefusedError(f"the chain records it as {answer.status}")
        return answer

    @property
    def devices(self) -> list[tuple[str, Identity]]:
        """(name, identity) of every device that was ever admitted, from the operator's own copy."""
        names = self._names()
        found = [
            (names.get(each.device, each.node.hex()[:12]), each)
            for each in self._registry.identities
            if each.kind != ADMIN
        ]
        return sorted(found, key=lambda pair: (pair[0], pair[1].serial or 0))

    def identity(self, node: bytes) -> Identity:
        """The identity of an admitted device, by its whole node id."""
        return next(each for _, each in self.devices if each.node == node)

    def find(self, who: str) -> tuple[str, Identity]:
        """The device with this name (under its newest key), or with a node id that begins so.
        Raises ConfigurationError with similar names."""
        found = meant(self.devices, who)
        names = sorted({name for name, _ in found})
        if len(names) > 1:
            raise ConfigurationError(f"{who} may be {' or '.join(names)}: give more digits")
        if not found:
            raise ConfigurationError(f"no device is called {who}{self._near(who)}")
        standing = [pair for pair in found if pair[1].ended is None]
        if len(standing) > 1:  # two vouchers were given out under one name
            nodes = " or ".join(identity.node.hex()[:16] for _, identity in standing)
            raise ConfigurationError(f"{who} may be {nodes}: give the digits of one")
        return (standing or found)[-1]

    def _near(self, who: str) -> str:
        known = list(dict.fromkeys(name for name, _ in self.devices))
        if near := get_close_matches(who, known):
            return f": did you mean {' or '.join(near)}?"
        if not known:
            return ": none was admitted yet"
        shown, more = known[:NAMES_SHOWN_MAX], len(known) - NAMES_SHOWN_MAX
        return f": there are {', '.join(shown)}" + (f" and {more} more" if more > 0 else "")

    def records(self, identity: Identity) -> list[tuple[int, Statement]]:
        """(height, record) of every record about an identity."""
        return self._index.others(identity.node)

    def readings(self, identity: Identity) -> int:
        """How many data records an identity has."""
        return self._index.readings(identity.node)

    def status_of(self, request: bytes) -> str | None:
        """The status that the chain recorded for a request; None if it recorded none."""
        if (found := self._index.find(request)) is None:
            return None
        sealed, position = found
        return decode_leaf((sealed.records or ())[position].leaf).status

    def proof_of(self, request: bytes) -> Proof:
        """Proof of a request's record. (The operator's lab changes no members: epoch 0.)"""
        if (found := self._index.find(request)) is None:
            raise LabFault("the ledger has no record of this request")
        sealed, position = found
        assert sealed.block is not None, "the operator's copy is whole"
        return Proof(record=make_inclusion(sealed.block, position, sealed.seals), epochs=())

    def _names(self) -> dict[bytes, str]:
        names = {}
        network = self._device.genesis.network
        for node, item in self.sync.enrolments.items():
            operation = read_operation(cose_of(item), network).operation
            if isinstance(operation, Enrol):
                name = self.running.vouchers.get(digest(voucher_key(operation.voucher)).hex())
                if name is not None:
                    names[node] = name
        return names

    async def revoke(self, identity: Identity, reason: str) -> Statement:
        return await self._order(Revoke, target=identity.node, reason=reason)

    async def grant(self, identity: Identity, privilege: int) -> Statement:
        return await self._order(
            Grant, target=identity.node, privilege=privilege, services=identity.services
        )

    async def new_voucher(
        self, name: str, privilege_max: int, valid_s: int = VOUCHER_VALID_S
    ) -> Voucher:
        """A voucher for one mobile device that the chain knows, and its login at the broker."""
        self._must_be_new(name)
        voucher = Voucher.new("mobile")
        assert self.sync.copy.ledger is not None
        not_after_us = self.sync.copy.ledger.time_us + valid_s * 1_000_000
        await self._order(
            AddVoucher,
            voucher=voucher.id,
            kind=voucher.kind,
            privilege=privilege_max,
            services=SERVICES,
            not_after_us=not_after_us,
        )
        self.running = self.running.with_voucher(voucher.id, name)
        await self._let_in(voucher.user)
        await self.refresh()
        if not self._registry.admits(voucher.id):  # the connection ended: the gateway was too early
            async with self.at_broker() as security:
                await security.remove(voucher.user.name)
        return voucher

    async def withdraw(self, name: str) -> list[Statement]:
        """Withdraws the vouchers that were given out under this name and are not used yet."""
        known = [bytes.fromhex(each) for each, to in self.running.vouchers.items() if to == name]
        if not known:
            raise ConfigurationError(f"no voucher was given out for {name}")
        return [await self._order(WithdrawVoucher, voucher=each) for each in known]

    async def bar(self, certificate: bytes) -> Statement:
        """Bars the factory identity of this certificate (DER): it no longer admits a device."""
        factory = factory_id(factory_key(certificate))
        return await self._order(BarFactory, factory=factory)

    @property
    def administrators(self) -> frozenset[bytes]:
        """Node ids of the administrators in force, from the operator's own copy."""
        return self._registry.administrators

    @property
    def roots(self) -> tuple[bytes, ...]:
        """Manufacturers' root certificates (DER) in force, from the operator's own copy."""
        return tuple(each.certificate for each in self._registry.factory_roots)

    async def add_admin(self, key: bytes) -> Statement:
        return await self._order(AddAdministrator, key=key)

    async def revoke_admin(self, node: bytes, reason: str) -> Statement:
        return await self._order(Revoke, target=node, reason=reason)

    async def add_replica(self, replica: int, key: bytes) -> Statement:
        """Orders to add a replica. The record says in which epoch it is a member, and from which
        boundary."""
        return await self._order(AddReplica, replica=replica, key=key)

    async def remove_replica(self, replica: int) -> Statement:
        """Orders to remove one, as `add_replica`. Before the boundary of a change another one is
        refused."""
        return await self._order(RemoveReplica, replica=replica)

    async def add_root(
        self, certificate: bytes, kinds: tuple[DeviceKind, ...], privilege_max: int
    ) -> Statement:
        return await self._order(
            AddFactoryRoot,
            certificate=certificate,
            kinds=kinds,
            privilege=privilege_max,
            services=SERVICES,
        )

    async def withdraw_root(self, certificate: bytes) -> Statement:
        return await self._order(WithdrawFactoryRoot, root=digest(certificate))

    async def expect_factory(self, name: str, certificate: bytes) -> None:
        """Lets a device with this factory certificate (DER) log in to ask for access. The chain
        decides whether it is admitted, by its manufacturers' roots."""
        self._must_be_new(name)
        voucher = digest(factory_key(certificate))
        holder = self.running.vouchers.get(voucher.hex())
        if any(holder == each for each, _ in self.devices):
            raise ConfigurationError(f"this factory identity is {holder}'s: it admits one device")
        if self._registry.is_barred(factory_id(factory_key(certificate))):
            raise RefusedError("factory-barred: an administrator barred this factory identity")
        self.running = self.running.with_voucher(voucher, name)
        await self._let_in(factory_user(certificate))

    def _must_be_new(self, name: str) -> None:
        if name in self.running.nodes or any(name == each for each, _ in self.devices):
            raise ConfigurationError(f"there is a device called {name}: choose another name")

    async def _let_in(self, user: User) -> None:
        async with self.at_broker() as security:
            await security.ensure(user)

    @asynccontextmanager
    async def at_broker(self) -> AsyncIterator[DynamicSecurityAdmin]:
        """The administrator of the broker's logins."""
        running = self.running
        admin = User(Role.ADMIN, self._device.node.hex(), running.broker_admin)
        client = MqttClient(
            running.broker.login(admin.name, admin.password, DynamicSecurityAdmin.subscriptions)
        )
        security = DynamicSecurityAdmin(client, self._device.genesis.network.hex()[:16])
        async with Tasks() as tasks:
            tasks.start(client.run())
            tasks.start(security.run())
            await client.ready(CONNECT_S_MAX)
            yield security

    async def _order(self, kind: Callable[..., Operation], /, **fields: object) -> Statement:
        """Does `ask` for one operation of an administrator."""
        network, node = self._device.genesis.network, self._device.node
        return await self.ask(lambda n: kind(network=network, node=node, counter=n, **fields))


@asynccontextmanager
async def operating(running: RunningLab) -> AsyncIterator[Operator]:
    """The operator, logged in and up to date. Raises LabFault, also for a full disk."""
    try:
        async with _operating(running) as operator:
            yield operator
    except (OSError, OutboxFullError, BlockStoreError, sqlite3.OperationalError) as error:
        if not lacks_room(error, Path(running.operator)):
            raise
        raise LabFault(
            f"{running.operator}: the disk is full ({error}); free some space"
        ) from error


@asynccontextmanager
async def _operating(running: RunningLab) -> AsyncIterator[Operator]:
    genesis = Genesis.decode(running.genesis.read_bytes())
    config = DeviceConfig(
        name="operator",
        genesis=str(running.genesis),
        state=str(running.operator),
        voucher="",
        broker=running.broker,
        go="",
    )
    with EventLog(running.operator / "events.jsonl", "operator") as events:
        uplink = DirectUplink(genesis.network.hex()[:16])
        device = await _alone(lambda: Device(config, genesis, "mobile", uplink, events))
        with closing(device):
            running = read_running(running.file)  # perhaps changed by another command
            sync = LedgerSync(Path(running.operator) / "copy.sqlite", device, events, bodies=True)
            index = RecordIndex(Path(running.operator) / "records.sqlite", sync)
            with closing(sync), closing(index):
                async with device.logged_in() as login:
                    operator = Operator(running, device, login, sync, index)
                    await operator.refresh()
                    ledger = sync.copy.ledger
                    identity = ledger.registry.identity(device.node) if ledger else None
                    device.state.at_least(identity.counter if identity else 0)
                    async with _deadline("an earlier command's request is not answered"):
                        await device.resume(login, lambda *_: None)
                    yield operator


async def _alone(make: Callable[[], Device]) -> Device:
    """Waits for its turn: commands that run at the same time take turns, because the operator has
    one key with one counter."""
    deadline_s = time.monotonic() + TURN_S_MAX
    while True:
        try:
            return make()
        except Misuse as error:
            if time.monotonic() > deadline_s:
                raise LabFault(f"another device command is at work: {error}") from error
            await asyncio.sleep(TURN_POLL_S)


@asynccontextmanager
async def _deadline(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            yield
    except TimeoutError:
        raise LabFault(
            f"{what} within {ANSWER_S_MAX:.0f} s: `testbed status -i FILE` shows what does not run"
        ) from None
