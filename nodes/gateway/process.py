"""`python -m nodes.gateway.process --config FILE`: the gateway's broker logins, outbox, clock and
links.

`gateway.bridge.bridge` decides. `replica_links` holds the links to replicas, `broker_logins` the
logins of other parties. This module receives messages from the broker and sends the answers. It
writes requests to disk outside the event loop: requests that arrive during one write share the
next.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256
from gateway.bridge.block_store import BlockStore
from gateway.bridge.bridge import Bridge
from gateway.bridge.logins import CarrierCertificate, LoginChange
from gateway.bridge.outbox import Outbox, OutboxFullError
from gateway.bridge.ports import BridgeLimits
from gateway.broker.port import DynamicSecurityAdmin
from gateway.broker.security import user_name
from gateway.hops import NO_TRACE, Trace
from gateway.limits import RateLimiter
from gateway.mqtt.client import BrokerUnavailableError, MqttClient, Presence
from gateway.mqtt.topics import HeadTopic, Response, Role, Status
from gateway.refusing import LocalFault
from gateway.tasks import Tasks, first_of
from nodes.around import EdgeAround
from nodes.config import ConfigError, load_config
from nodes.edge_config import GatewayConfig, GatewaySecrets, load_secrets
from nodes.events import EventLog
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.gateway.broker_logins import BrokerLogins, done_height
from nodes.gateway.replica_links import ReplicaLinks
from nodes.kept import KEEP_BLOCKS, KeptState
from nodes.metrics import Metric, one, serving_metrics
from nodes.process import arguments, housekeeping, run, write_ready
from nodes.trace_file import open_trace

__all__ = ["GatewayProcess", "gateway_main", "main"]

C = TypeVar("C", bound=GatewayConfig)

TICK_S = 0.1
ANNOUNCE_S = 1.0
CHECKPOINT_S = 2.0
ANSWERS_WAITING_MAX = 8_192  # for the broker; a device asks again if its answer did not fit
ANSWERS_IN_FLIGHT_MAX = 32
PUBLISH_DEADLINE_S = 30.0
DISK_RETRY_S = 0.5
# Events about refusals, of all relays together: at most some 30 MB a day.
EVENTS_PER_S = 1.0
COUNTS_S = 1.0  # between two logs of counts that grow: a kill loses little


class GatewayProcess:
    """Implements `bridge.Outside`. `files` closes everything that it opens, even if `__init__`
    fails: the next try, in the same process, needs the outbox."""

    def __init__(
        self,
        config: GatewayConfig,
        secrets: GatewaySecrets,
        genesis: Genesis,
        events: EventLog,
        files: contextlib.ExitStack,
        *,
        around: EdgeAround | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._config = config
        self._around = around = around or EdgeAround()
        self._events = events
        self._trace = trace
        entries_max = config.limits.waiting_max + ANSWERS_IN_FLIGHT_MAX
        self._outbox = Outbox(Path(config.outbox), entries_max=entries_max)
        files.callback(self._outbox.close)
        self._store = BlockStore(Path(config.copy), genesis.network, config.keep_data_blocks)
        files.callback(self._store.close)
        cursor = Path(config.copy).with_suffix(".logins.json")
        self._logins = BrokerLogins(
            cursor,
            follower=lambda: self._bridge.follower,
            answer=self.answer,
            events=events,
        )
        self._kept = KeptState(Path(config.copy).with_suffix(".state"), genesis.network)
        self._bridge = Bridge(
            genesis=genesis,
            scheme=Es256(),
            store=self._store,
            unfinished=self._outbox.pending(limit=-1),
            login_secret=secrets.login_secret,
            logins_done=done_height(cursor),
            limits=_limits(config),
            outside=self,
            kept=self._kept.load(),
            trace=trace,
        )
        self._kept_height = self._bridge.follower.resumed_height
        self._packed: tuple[int, bytes] | None = None  # a state to be kept, and its height
        self._links = ReplicaLinks(
            config,
            self._bridge.follower,
            events,
            self._bridge.on_seal,
            self._bridge.on_denied,
            put_around=around.wire,
        )
        net = self._bridge.net
        self._head_topic = str(HeadTopic(net))
        self._client = around.client(
            config.broker.login(
                user_name(Role.GATEWAY, config.node),
                secrets.gateway,
                (f"m2m/1/{net}/up/+/+/+", f"m2m/1/{net}/status/+"),
                Presence(str(Status(net, config.node)), b"gateway", b""),
            )
        )
        admin = user_name(Role.ADMIN, config.node)
        self._admin_client = MqttClient(
            config.broker.login(admin, secrets.admin, DynamicSecurityAdmin.subscriptions)
        )
        self._admin = DynamicSecurityAdmin(self._admin_client, net, again=False)
        self._answers: deque[tuple[str, bytes]] = deque()
        self._answers_ready = asyncio.Event()
        self._outbox_ready = asyncio.Event()
        self._in_flight = asyncio.Semaphore(ANSWERS_IN_FLIGHT_MAX)

    @property
    def height(self) -> int:
        """The newest final block."""
        return self._bridge.follower.height

    def metrics(self) -> Iterator[Metric]:
        """Metrics for Prometheus. Called from another thread."""
        bridge = self._bridge
        yield one("height", "gauge", "The newest final block that it knows.", self.height)
        yield one("waiting", "gauge", "Requests without a final answer.", bridge.waiting)
        counts = {what: float(count) for what, count in dict(bridge.counts).items()}
        yield Metric("requests", "counter", "Requests, by what became of them.", counts, "result")

    async def run(self, stopping: asyncio.Event) -> None:
        self._links.start()
        try:
            await first_of(
                self._client.run(),
                self._admin_client.run(),
                self._admin.run(),
                self._logins.run(self._admin),
                self._links.run(),
                self._from_devices(),
                self._to_outbox(),
                self._to_devices(),
                self._announce(),
                self._tick(),
                self._checkpoint(),
                self._count(),
                housekeeping(self._events, self._trace),
                self._around.follow(self._events),
                self._begin(stopping),
                stopping.wait(),
            )
        except (BrokerUnavailableError, LocalFault) as error:
            raise Trouble(str(error)) from error
        except sqlite3.Error as error:
            raise Trouble(f"{self._config.copy}: {error}") from error
        finally:
            await self._links.close()
            self.emit("counts", **dict(self._bridge.counts))

    async def _begin(self, stopping: asyncio.Event) -> None:
        """Reports when all is up; the broker may start later. Raises BrokerUnavailableError."""
        await self._client.ready()
        await self._admin_client.ready()
        write_ready(self._config.ready, {})
        self.emit("started", height=self._bridge.follower.height, owed=self._bridge.waiting)
        await stopping.wait()

    # --- bridge.Outside ---------------------------------------------------------------------------

    def submit(self, cose: bytes, *, everyone: bool) -> None:
        self._links.submit(cose, everyone=everyone)

    def answer(self, device: str, kind: str, payload: bytes) -> None:
        if len(self._answers) >= ANSWERS_WAITING_MAX:
            self._answers.popleft()
            self._bridge.counts["answers-dropped"] += 1
        self._answers.append((str(Response(self._bridge.net, device, kind)), payload))
        self._answers_ready.set()

    def change_login(self, change: LoginChange) -> None:
        self._logins.change(change)

    def list_carrier(self, carrier: CarrierCertificate) -> None:
        self._logins.list_carrier(carrier)

    def answer_with_login(self, login: str, device: str, payload: bytes) -> None:
        self._logins.answer_with_login(login, device, payload)

    def emit(self, event: str, **fields: object) -> None:
        self._events.emit(event, **fields)

    # --- work -------------------------------------------------------------------------------------

    async def _from_devices(self) -> None:
        async for message in self._client.messages():
            self._bridge.on_up(message.topic, message.payload, _now_ms())
            self._outbox_ready.set()

    async def _to_outbox(self) -> None:
        """Requests that arrive during one sync to disk share the next one."""
        while True:
            await self._outbox_ready.wait()
            self._outbox_ready.clear()
            while (writes := self._bridge.take_writes()) is not None:
                try:
                    await asyncio.to_thread(self._outbox.exchange, writes.fresh, writes.done)
                except OutboxFullError as error:
                    self.emit("outbox-full", reason=str(error))
                    self._bridge.written(writes, full=True)
                    await asyncio.sleep(DISK_RETRY_S)
                else:
                    self._bridge.written(writes)

    async def _to_devices(self) -> None:
        """Sends answers in order; several may be in flight."""
        async with Tasks() as publishing:
            while True:
                await self._answers_ready.wait()
                self._answers_ready.clear()
                while self._answers:
                    await self._in_flight.acquire()
                    publishing.start(self._answer_one(*self._answers.popleft()))

    async def _answer_one(self, topic: str, payload: bytes) -> None:
        """Sends one answer. If the broker does not take it in time, it is dropped: its device asks
        again."""
        try:
            await self._client.publish(topic, payload, deadline_s=PUBLISH_DEADLINE_S)
        except BrokerUnavailableError as error:
            self.emit("answer-lost", topic=topic, reason=str(error))
        finally:
            self._in_flight.release()

    async def _announce(self) -> None:
        """Announces the newest head, and repeats it every ANNOUNCE_S for devices that have just
        connected. Heads that are overtaken meanwhile are left out."""
        announced, announced_s = b"", 0.0
        while True:
            await asyncio.sleep(TICK_S)
            head = self._bridge.follower.head
            if head == announced and time.monotonic() - announced_s < ANNOUNCE_S:
                continue
            with contextlib.suppress(BrokerUnavailableError):
                await self._client.publish(self._head_topic, head)
                announced, announced_s = head, time.monotonic()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._bridge.tick(_now_ms())
            self._links.tick()
            self._outbox_ready.set()

    async def _count(self) -> None:
        """Logs how much was refused and answered since the start, when that has changed."""
        emitted: dict[str, int] = {}
        while True:
            await asyncio.sleep(COUNTS_S)
            if (counts := dict(self._bridge.counts)) != emitted:
                self.emit("counts", **counts)
                emitted = counts

    async def _checkpoint(self) -> None:
        while True:
            await asyncio.sleep(CHECKPOINT_S)
            await asyncio.to_thread(self._store.checkpoint)
            await self.keep()

    async def keep(self) -> None:
        """Keeps the verified state for the next start, if enough of it is new and its logins are on
        the broker's disk. Notes how far the logins are."""
        height = self._bridge.follower.height
        if self._packed is None and height - self._kept_height >= KEEP_BLOCKS:
            self._packed = height, self._kept.pack(self._bridge.state)
        # If the disk is full, only the next start takes longer.
        with contextlib.suppress(OSError, sqlite3.OperationalError):
            await self._logins.mark()
            if self._packed is not None and self._packed[0] <= self._logins.settled:
                (self._kept_height, state), self._packed = self._packed, None
                await asyncio.to_thread(
                    self._store.sync
                )  # so that the block of `state` survives a power cut
                await asyncio.to_thread(self._kept.write, state)


def _limits(config: GatewayConfig) -> BridgeLimits:
    limits = config.limits
    return BridgeLimits(
        relays=limits.relays(),
        devices=limits.devices(),
        syncs=limits.limiter(limits.sync_rate_per_s, limits.sync_burst),
        events=RateLimiter(
            rate_per_s=EVENTS_PER_S,
            burst=limits.events_burst,
            total_rate_per_s=EVENTS_PER_S,
            total_burst=limits.events_burst,
            sources_max=limits.sources_max,
            clock=time.monotonic,
        ),
        waiting_max=limits.waiting_max,
        device_waiting_max=limits.device_waiting_max,
        relay_waiting_max=limits.relay_waiting_max,
        submit_timeout_ms=config.submit_timeout_ms,
    )


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def gateway_main(
    kind: type[C], put_around: Callable[[C, EventLog], EdgeAround], about: str | None
) -> None:
    """The `__main__` of a gateway whose config is a `kind`."""
    args = arguments("nodes.gateway.process", about)
    try:
        config = load_config(args.config, kind)
        secrets = load_secrets(Path(config.passwords), GatewaySecrets)
        genesis = Genesis.decode(Path(config.genesis).read_bytes())
    except (ConfigError, PeerFault, OSError) as error:
        fail(EXIT_BAD_CONFIG, str(error))

    async def serve(stopping: asyncio.Event) -> None:
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(EventLog(Path(config.events or "/dev/null"), config.name))
            trace = open_trace(config.trace, config.trace_every)
            stack.callback(trace.close)
            try:
                process = GatewayProcess(
                    config,
                    secrets,
                    genesis,
                    events,
                    stack,
                    around=put_around(config, events),
                    trace=trace,
                )
            except (LocalFault, ValueError, OSError) as error:
                raise Trouble(str(error)) from error
            stack.enter_context(serving_metrics(config.metrics, config.name, process.metrics))
            await process.run(stopping)

    run(serve, directory=Path(config.copy).parent, exit_on_stdin_eof=args.exit_on_stdin_eof)


def main() -> None:
    gateway_main(GatewayConfig, lambda *_: EdgeAround(), __doc__)


if __name__ == "__main__":
    main()
