"""`testbed bench restart`: how the cost of a start grows with the height of the ledger.

The chain is made here: some devices are admitted, then each block holds one reading. The code of
the processes themselves opens the copies: `nodes.device` for a device, the same and
`testbed.standing.operator` for `testbed device list`, `nodes.gateway.process` for a gateway,
`nodes.replica` for a replica. Each opens its copy once with the verified state that was kept some
blocks below, and once without; a replica keeps none and executes every block. A real start also has
imports, the logins at the broker, and blocks that are new since the last start; these are left out.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Literal, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from chain.genesis import Genesis, Member
from chain.keys import Es256, Es256Signer, digest
from chain.ledger.auth_group import members
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item, read_item
from chain.ledger.ledger import Ledger
from chain.ledger.operations import Data, Operation
from chain.pbft.messages import Endorsement, Proposal, sign
from chain.pbft.state_machine import VerifiedRequest
from chain.proofs.client import SealedBlock
from chain.proofs.proof import HeadSeal
from gateway.bridge.block_store import BlockStore
from nodes.config import PeerConfig
from nodes.device.device import Device
from nodes.device.ledger_sync import LedgerSync
from nodes.device.login import Login
from nodes.device.sender import Sender
from nodes.edge_config import BrokerAddress, DeviceConfig, GatewayConfig, GatewaySecrets
from nodes.events import EventLog, NoEvents
from nodes.gateway.process import GatewayProcess
from nodes.kept import KEEP_BLOCKS
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.ports import Stored, Timers, Wire
from nodes.replica.clock import SystemClock
from nodes.replica.service import Service
from nodes.replica.sqlite_store import SqliteStore
from testbed.bench.load import BenchDevice, bench_policy, devices
from testbed.errors import LabFault
from testbed.standing.direct_uplink import DirectUplink
from testbed.standing.operator import Operator
from testbed.standing.record_index import RecordIndex
from testbed.standing.running_lab import RunningLab

__all__ = ["MadeChain", "Start", "Who", "measure"]

REPLICAS = 4
DEVICES = 24
BLOCK_US = 1_000_000  # between two blocks, in consensus time
TRIES = 15  # the fastest try counts
ABOVE_BLOCKS = KEEP_BLOCKS // 2  # blocks above the kept state, on average
READING = bytes(64)
NOWHERE = BrokerAddress("127.0.0.1", 1)  # nothing is sent
SECRETS = GatewaySecrets(gateway="", admin="", devices="5" * 64)

Who = Literal["device list", "device", "gateway", "replica"]


class Start(msgspec.Struct, frozen=True):
    """Seconds of CPU time until a copy of this many blocks is open. `kept_s`: None for a replica,
    which keeps no state."""

    who: Who
    blocks: int
    kept_s: float | None
    genesis_s: float


def measure(heights: list[int], say: Callable[[str], None]) -> list[Start]:
    """One entry for each `Who` and height, in order of height. Raises LabFault."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        return asyncio.run(_measure(sorted(heights), _Copies(Path(directory), MadeChain()), say))


async def _measure(heights: list[int], copies: _Copies, say: Callable[[str], None]) -> list[Start]:
    ways: dict[Who, Callable[[], Awaitable[int]]] = {
        "device list": copies.device_list,
        "device": copies.device,
        "gateway": copies.gateway,
    }
    found = []
    for height in heights:
        say(f"making {height} blocks")
        copies.grow(height - ABOVE_BLOCKS)
        await copies.keep()
        copies.grow(height)
        say("opening them")
        kept_s = {
            who: min([await _seconds(way, height) for _ in range(TRIES)])
            for who, way in ways.items()
        }
        copies.forget()
        for who, way in {**ways, "replica": copies.replica}.items():
            found.append(Start(who, height, kept_s.get(who), await _seconds(way, height)))
    return found


class MadeChain:
    """A network whose replicas sign here. `blocks` never ends."""

    def __init__(self, reading: bytes = READING) -> None:
        self._reading = reading
        self._signers = [
            Es256Signer(ec.generate_private_key(ec.SECP256R1())) for _ in range(REPLICAS)
        ]
        self._devices = devices(DEVICES)
        self.names = {
            digest(each.voucher.public).hex(): f"m{n}" for n, each in enumerate(self._devices)
        }
        self.genesis = Genesis(
            name="restart",
            time_us=time.time_ns() // 1000,
            members=tuple(Member(n, each.public) for n, each in enumerate(self._signers)),
            policy=bench_policy(self._devices),
        )
        self._ledger = Ledger(self.genesis, Es256())
        self.blocks = self._blocks()

    def signer(self, replica: int) -> Es256Signer:
        return self._signers[replica]

    def _blocks(self) -> Iterator[tuple[SealedBlock, bytes]]:
        """Each block comes with the id of its one request."""
        network = self.genesis.network
        for each in self._devices:
            yield self._block(each.enrol(network, self._ledger.head_hash), each)
        while True:
            for each in self._devices:
                yield self._block(each.data(network, self._reading), each)

    def _block(self, operation: Operation, by: BenchDevice) -> tuple[SealedBlock, bytes]:
        request = self._request(operation, by)
        return self.sealed(request), request.id

    def sealed(self, *requests: VerifiedRequest) -> SealedBlock:
        """The next block, with these requests."""
        ledger = self._ledger
        time_us = ledger.time_us + BLOCK_US
        items = tuple(request.item for request in requests)
        block = ledger.execute(Proposal(ledger.height + 1, time_us, 0, items), requests, 0)
        weak = ledger.membership.quorum.weak
        seals = tuple(HeadSeal(n, self._signers[n].sign(block.head)) for n in range(weak))
        return SealedBlock(head=block.head, seals=seals, records=block.records)

    def _request(self, operation: Operation, by: BenchDevice) -> VerifiedRequest:
        network = self.genesis.network
        cose = sign_operation(operation, by.signer)
        request = read_item(make_item(cose), network)
        if isinstance(operation, Data):
            return request
        size, _ = self.genesis.policy.group(self._ledger.membership.quorum)
        group = members(request.id, self._ledger.membership, size)
        verdicts = tuple(
            sign(
                self._signers[n],
                network,
                Endorsement(0, n, request=request.id, accepted=True, reason=""),
            )
            for n in group
        )
        return read_item(make_item(cose, verdicts), network)


class _Copies:
    """A device's and a gateway's copy of one chain. The operator's is like a device's."""

    def __init__(self, directory: Path, chain: MadeChain) -> None:
        self._chain = chain
        self._genesis = chain.genesis
        self._state, self._gateway = directory / "device", directory / "gateway"
        self._state.mkdir()
        keygen(self._gateway)
        self._height = 0
        self._device_config = DeviceConfig(
            name="device", genesis="", state=str(self._state), voucher="", broker=NOWHERE, go=""
        )
        peers = tuple(
            PeerConfig(n, "127.0.0.1", 1, keygen(directory / f"r{n}").certificate)
            for n in range(REPLICAS)
        )
        self._gateway_config = GatewayConfig(
            name="gateway",
            genesis="",
            key=str(self._gateway / KEY_FILE),
            certificate=str(self._gateway / CERTIFICATE_FILE),
            replicas=peers,
            broker=NOWHERE,
            node="a" * 64,
            passwords="",
            copy=str(self._gateway / "copy.sqlite"),
            outbox=str(self._gateway / "outbox.sqlite"),
        )
        self._running = RunningLab(
            pid=0,
            inventory="",
            home=str(directory),
            start_ns=0,
            period_ms=0,
            broker_host=NOWHERE.host,
            broker_port=NOWHERE.port,
            broker_admin="",
            nodes={},
            vouchers=chain.names,
        )

    def grow(self, height: int) -> None:
        _close_left()
        network = self._genesis.network
        with (
            closing(BlockStore(self._state / "copy.sqlite", network)) as device,
            closing(BlockStore(self._gateway / "copy.sqlite", network)) as gateway,
            closing(self._replica_store()) as replica,
        ):
            while gateway.height < height:
                block, request = next(self._chain.blocks)
                device.append(device.height + 1, block)
                gateway.append(gateway.height + 1, block, (request,))
                assert block.block is not None
                replica.put_block(replica.height + 1, Stored(block.block, block.seals[0].signature))
            replica.commit()
        # The broker is up to date, as it is while a gateway runs.
        cursor = self._gateway / "copy.logins.json"
        cursor.write_bytes(msgspec.json.encode({"height": height}))

    async def keep(self) -> None:
        """Keeps the verified state, as a running process does now and then."""
        with self._device() as (_, sync, _), self._index(sync) as index:
            await sync.stored()
            index.update()
        with self._gateway_process() as process:
            await process.keep()

    def forget(self) -> None:
        for each in (self._state, self._gateway):
            (each / "copy.state").unlink()
        (self._state / "records.sqlite").unlink()

    @contextmanager
    def _device(self) -> Iterator[tuple[Device, LedgerSync, EventLog]]:
        uplink = DirectUplink(self._genesis.network.hex()[:16])
        with (
            EventLog(self._state / "events.jsonl", "device") as events,
            closing(Device(self._device_config, self._genesis, "mobile", uplink, events)) as device,
            closing(LedgerSync(self._state / "copy.sqlite", device, events, bodies=True)) as sync,
        ):
            yield device, sync, events

    def _index(self, sync: LedgerSync) -> closing[RecordIndex]:
        return closing(RecordIndex(self._state / "records.sqlite", sync))

    async def device_list(self) -> int:
        with self._device() as (device, sync, _), self._index(sync) as index:
            login = cast(Login, None)  # it stays offline
            operator = Operator(self._running, device, login, sync, index)
            index.update()
            if sorted(name for name, _ in operator.devices) != sorted(self._chain.names.values()):
                raise LabFault("the list is not that of the devices")
            return sync.copy.height

    async def device(self) -> int:
        with self._device() as (device, sync, events):
            backlog = self._state / "backlog.sqlite"
            with closing(Sender(backlog, device, "telemetry", 1_000, events)):
                return sync.copy.height

    @contextmanager
    def _gateway_process(self) -> Iterator[GatewayProcess]:
        with EventLog(self._gateway / "events.jsonl", "gateway") as events, ExitStack() as files:
            yield GatewayProcess(self._gateway_config, SECRETS, self._genesis, events, files)

    def _replica_store(self) -> SqliteStore:
        return SqliteStore(self._state / "ledger.sqlite", self._genesis.encode(), 0)

    async def replica(self) -> int:
        with closing(self._replica_store()) as store:
            service = Service(
                me=0,
                genesis=self._genesis,
                signer=self._chain.signer(0),
                scheme=Es256(),
                store=store,
                wire=cast(Wire, None),  # nothing is sent
                clock=SystemClock(),
                timers=cast(Timers, None),
                events=NoEvents(),
            )
            return service.ledger.height

    async def gateway(self) -> int:
        with self._gateway_process() as process:
            return process.height


def _close_left() -> None:
    """Closes files that a gateway's process leaves open, because it normally ends."""
    gc.collect()


async def _seconds(opened: Callable[[], Awaitable[int]], height: int) -> float:
    _close_left()
    start_s = time.process_time()
    found = await opened()
    if found != height:
        raise LabFault(f"a copy of {height} blocks opened at {found}")
    return time.process_time() - start_s
