"""`python -m nodes.replica.process --config FILE`: one replica as a process.

The real clock, wire, store and timers are built and put together only here; `event_loop` has the
loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256, Es256Signer
from gateway.tasks import Tasks, set_within
from nodes.config import MEMORY, ConfigError, ReplicaConfig, certificate_der, certificate_spki
from nodes.disk import write_atomically
from nodes.events import CountedEvents, EventLog, LimitedEvents
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail, say
from nodes.keygen import load_key
from nodes.metrics import serving_metrics
from nodes.ports import Party, Store, StoreFull
from nodes.process import arguments, run, write_ready
from nodes.replica.abstention import Abstention
from nodes.replica.around import Around
from nodes.replica.clock import SystemClock
from nodes.replica.event_loop import EventLoop
from nodes.replica.ledger_file import Damaged
from nodes.replica.memory_store import MemoryStore
from nodes.replica.metrics import replica_metrics
from nodes.replica.service import Service
from nodes.replica.sqlite_store import SqliteStore, move_aside, moved_aside
from nodes.replica.timers import LoopTimers
from nodes.replica.verify_pool import VerifyPool, default_threads
from nodes.trace_file import open_trace
from nodes.usage import USAGE_S, CountedScheme, CountedSigner, usage
from nodes.wire.inbox import Inbox
from nodes.wire.tally import Tally
from nodes.wire.tls_wire import TlsWire

__all__ = ["ABSTENTION", "ReplicaProcess", "main", "replica_main"]

C = TypeVar("C", bound=ReplicaConfig)

HOUSEKEEPING_S = 0.25
COUNTERS_S = 1.0
ABSTENTION = "abstention-until"
_ABSTENTION_UNKNOWN = -1
_BEGUN = "begun"
_VOTES_IN = "votes-in"
"""A file beside the key: it names the network in which this key votes, once there is a store."""


class ReplicaProcess:
    """Built from a config; `serve` runs until it is told to stop. Raises ConfigError, Trouble."""

    def __init__(self, config: ReplicaConfig, around: Around | None = None) -> None:
        self._config = config
        self._around = around or Around()
        self._genesis, self._signer = _identity(config)
        self._events = EventLog(Path(config.events or "/dev/null"), config.name)
        self._link_events = LimitedEvents(self._events)
        self._trace = open_trace(config.trace, config.trace_every)
        self._tally = Tally() if self._trace.on else None
        self._signs = CountedSigner(self._signer)
        self._scheme = CountedScheme(Es256())
        self._tasks = Tasks()
        self._counted: dict[str, object] = {}
        self._store: Store | None = None
        self._service: Service
        self._event_loop: EventLoop | None = None

    async def serve(self, stopping: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        self._inbox = Inbox(self._trace.now_ns)
        self._timers = LoopTimers(loop, lambda: self._inbox.arrived, self._wake)
        self._wire = self._make_wire()
        try:
            async with self._tasks:
                port = self._wire.listen(self._config.listen.host, self._config.listen.port)
                self._service = self._assemble()
                self._tasks.start(self._around.follow(self._events))
                event_loop = self._begin(port)
                names = {each.replica: each.name for each in self._config.peers if each.name}
                with serving_metrics(
                    self._config.metrics,
                    self._config.name,
                    lambda: replica_metrics(self._service, event_loop, self._wire, names),
                ):
                    write_ready(self._config.ready, {"replica": port})
                    await self._until_stopped(loop, stopping)
        except (StoreFull, Damaged) as error:
            raise Trouble(f"{self._config.name}: {error}") from error
        finally:
            await self._end()

    def _begin(self, port: int) -> EventLoop:
        wanted = self._config.verify_threads
        threads = default_threads() if wanted is None else wanted
        event_loop = EventLoop(
            service=self._service,
            pool=VerifyPool(self._service.verify_all, threads),
            inbox=self._inbox,
            timers=self._timers,
            resume=self._wire.resume,
            together=self._wire.together,
            on_failure=self._fail,
        )
        height = self._service.ledger.height
        self._events.emit("started", replica=self._config.replica, height=height, port=port)
        self._wire.start()
        event_loop.start()
        self._event_loop = event_loop
        # All objects of now stay: the collector need not look at them again.
        gc.collect()
        gc.freeze()
        return event_loop

    async def _until_stopped(
        self, loop: asyncio.AbstractEventLoop, stopping: asyncio.Event
    ) -> None:
        """Housekeeping: nothing here is on the path of a request."""
        assert self._event_loop is not None
        counters_at = loop.time() + COUNTERS_S
        usage_at = loop.time() + USAGE_S
        while not await set_within(stopping, HOUSEKEEPING_S):
            self._event_loop.idle()
            if loop.time() >= counters_at:
                counters_at += COUNTERS_S
                self._emit_counters()
            if loop.time() >= usage_at:
                usage_at += USAGE_S
                self._emit_usage()
            self._events.flush()
            self._trace.flush()

    async def _end(self) -> None:
        self._timers.close()
        if self._event_loop is not None:
            self._event_loop.stop()
        await self._wire.close()
        if self._event_loop is not None:
            self._event_loop.close()
            self._emit_counters()
            self._emit_usage()
            self._events.emit("stopped", height=self._service.ledger.height)
        if self._store is not None:
            with contextlib.suppress(StoreFull):
                self._store.close()
        self._events.close()
        self._trace.close()

    def _wake(self) -> None:
        if self._event_loop is not None:
            self._event_loop.wake()

    def _fail(self, error: BaseException) -> None:
        self._events.emit("failed", detail=f"{type(error).__name__}: {error}")
        self._tasks.fail(error)

    # --- parts ---------------------------------------------------------------------------------

    def _make_wire(self) -> TlsWire:
        config = self._config
        certificates: dict[Party, bytes] = {
            peer.replica: certificate_der(peer.certificate) for peer in config.peers
        }
        dial: dict[Party, tuple[str, int]] = {
            peer.replica: (peer.host, peer.port)
            for peer in config.peers
            if peer.replica < config.replica
        }
        for client in config.clients:
            certificates[client.name] = certificate_der(client.certificate)
        refused = CountedEvents(self._events, "link-refused")
        return TlsWire(
            key_file=Path(config.key),
            certificate_file=Path(config.certificate),
            certificates=certificates,
            dial=dial,
            inbox=self._inbox,
            on_readable=self._wake,
            on_link=self._link,
            on_refused=lambda reason: refused.add(reason, reason=reason),
            on_failure=self._fail,
            tally=self._tally,
        )

    def _assemble(self) -> Service:
        """A damaged store is moved aside; then this replica fetches everything again, in
        abstention. A store that was made in abstention stays so over restarts."""
        config = self._config
        if config.store == MEMORY:
            self._store = MemoryStore()
            return self._make_service(self._store, None)
        path = Path(config.store)
        try:
            return self._from_disk(path)
        except Damaged as damage:
            aside = move_aside(path)
            self._events.emit("store-damaged", detail=str(damage), aside=str(aside))
            say(
                f"{config.name}: {damage}. Moved to {aside}; fetching the chain from peers, "
                "no votes until it is past all earlier ones."
            )
        return self._from_disk(path)

    def _disk_store(self, path: Path) -> SqliteStore:
        """A new store begins in abstention in two cases: a damaged store lies beside it (also if an
        earlier start was interrupted), or somebody deleted this key's store of this network."""
        store = SqliteStore(path, self._genesis.encode(), self._config.replica)
        beside_key = Path(self._config.key).with_name(_VOTES_IN)
        network = self._genesis.network.hex()
        known = beside_key.exists() and beside_key.read_text(errors="replace") == network
        if store.untouched:
            if known and not moved_aside(path):
                self._events.emit("store-missing", path=str(path))
                say(
                    f"{self._config.name}: {path} is gone, and this key has voted in this network. "
                    "Fetching the chain from peers, no votes until it is past all earlier ones."
                )
            if known or moved_aside(path):
                store.note(ABSTENTION, _ABSTENTION_UNKNOWN)
            store.note(_BEGUN, 1)  # or a crash before the first vote would look like a lost store
            store.commit()
        if not known:
            try:
                write_atomically(beside_key, network.encode())
            except OSError as error:
                store.close()
                raise Trouble(f"{beside_key}: {error.strerror}") from error
        return store

    def _from_disk(self, path: Path) -> Service:
        """Raises Damaged: the file's form, or any block that does not follow from the genesis."""
        store = self._disk_store(path)
        try:
            until = store.noted(ABSTENTION)
            abstention = None
            if until is not None:
                known = None if until == _ABSTENTION_UNKNOWN else until
                abstention = Abstention(self._genesis.consensus, known)
            service = self._make_service(store, abstention)
        except BaseException:
            store.close()
            raise
        self._store = store
        return service

    def _make_service(self, store: Store, abstention: Abstention | None) -> Service:
        def note(until: int | None) -> None:
            assert isinstance(store, SqliteStore)
            store.note(ABSTENTION, until)

        around = self._around
        return Service(
            me=self._config.replica,
            genesis=self._genesis,
            signer=self._signs if self._trace.on else self._signer,
            scheme=self._scheme if self._trace.on else Es256(),
            store=around.store(store),
            wire=around.wire(self._wire, self._signer, self._events),
            clock=around.clock(SystemClock()),
            timers=self._timers,
            events=self._events,
            wrap=lambda service: around.effects(service, self._signer, self._events),
            keep_data_blocks=self._config.keep_data_blocks,
            abstention=abstention,
            on_abstention=note,
            trace=self._trace,
        )

    # --- events --------------------------------------------------------------------------------

    def _link(self, party: Party, up: bool, reason: str) -> None:
        self._link_events.emit(party, "link-up" if up else "link-down", party=party, reason=reason)
        if not up and self._event_loop is not None:
            self._service.left(party)

    def _emit_usage(self) -> None:
        """What this process has used so far, if it is traced."""
        if self._tally is not None and self._event_loop is not None:
            self._events.emit(
                "usage",
                **usage(),
                **self._tally.as_fields(),
                signatures_made=self._signs.made,
                signatures_checked=self._scheme.checked,
                syncs=self._event_loop.syncs,
                syncs_s=round(self._event_loop.syncs_s, 4),
            )

    def _emit_counters(self) -> None:
        """Refused frames by reason, frames not sent, frames that came: only when they changed."""
        counted: dict[str, object] = {
            "faults": {f"{party}/{code}": n for (party, code), n in self._service.faults.items()},
            "unsent": {str(party): n for party, n in self._wire.dropped().items()},
            "heard": {str(party): n for party, n in self._wire.heard().items()},
        }
        if counted != self._counted:
            self._counted = counted
            self._events.emit("counters", **counted)


def _identity(config: ReplicaConfig) -> tuple[Genesis, Es256Signer]:
    """The genesis and our key, checked against each other and against the peers' pins."""
    try:
        genesis = Genesis.decode(Path(config.genesis).read_bytes())
        signer = Es256Signer(load_key(Path(config.key)))
        pinned = certificate_spki(Path(config.certificate).read_text())
    except (OSError, PeerFault, ValueError) as error:
        raise ConfigError(f"{config.name}: {error}") from error
    if pinned != signer.public:
        raise ConfigError(f"{config.name}: certificate and key do not belong together")
    own = genesis.membership.spki(config.replica)
    if own is not None and own != signer.public:
        raise ConfigError(f"{config.name}: replica {config.replica} has another key in the genesis")
    for peer in config.peers:
        spki = genesis.membership.spki(peer.replica)
        if spki is not None and spki != certificate_spki(peer.certificate):
            raise ConfigError(
                f"{config.name}: replica {peer.replica} has another key in the genesis"
            )
    return genesis, signer


@contextlib.contextmanager
def _profiled(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    # CPU time of the one busy thread: on a busy machine the wall clock shows who was preempted.
    with cProfile.Profile(time.thread_time) as profile:
        yield
    profile.dump_stats(path)


def replica_main(
    config_type: type[C], make: Callable[[C], ReplicaProcess], about: str | None
) -> None:
    """The `__main__` of a replica, honest or not."""
    args = arguments("nodes.replica.process", about)
    try:
        config = config_type.load(args.config)
        with _profiled(config.profile):
            run(
                lambda stopping: make(config).serve(stopping),
                directory=Path(config.store).parent,
                exit_on_stdin_eof=args.exit_on_stdin_eof,
            )
    except ConfigError as error:
        fail(EXIT_BAD_CONFIG, str(error))


def main() -> None:
    replica_main(ReplicaConfig, ReplicaProcess, __doc__)


if __name__ == "__main__":
    main()
