"""Measures in this process how long each part of a replica's work takes: the prices of a
calibration.

A run of the simulator with the product's signatures is measured. Each frame is opened and handled
alone, on the thread's CPU clock, and signatures are timed separately. Only the disk and the
loopback link are timed on the wall clock. TLS, the event loop and the kernel are not in these
prices: `predict` fits them to real processes.
"""

from __future__ import annotations

import socket
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec

from chain.block import Head
from chain.genesis import Consensus, Genesis
from chain.keys import Scheme, Signer
from chain.pbft.effects import Durable
from nodes.ports import Party, Stored
from nodes.replica.sqlite_store import SqliteStore
from testbed.model.document import Document, read_document
from testbed.simulate.costs import Costs, Price
from testbed.simulate.machine import Machine
from testbed.simulate.network import healthy
from testbed.simulate.priced import kind_of
from testbed.simulate.scenario import quiet
from testbed.simulate.world import Hardware, run

__all__ = ["SHIPPED", "Calibration", "measure_prices", "read_calibration"]

SHIPPED = Path(__file__).with_name("calibration.json")

_REPLICAS = 4
_BLOCKS = 48
_DEVICES = 16  # in the run that separates the price of records from that of blocks
_ROUND_TRIPS = 400
_LINK_BYTES = 220  # a signed vote on the wire
_QUANTILES = 40
_SEND_US = 50.0  # until it is fitted to real processes


class Calibration(Document, frozen=True, kw_only=True):
    """`machine` says in words where and how `costs` were measured."""

    schema: str = "testbed.calibration/1"
    machine: str
    costs: Costs


def read_calibration(path: Path) -> Calibration:
    """Raises ConfigurationError."""
    return read_document(path, Calibration, "testbed model calibrate")


def measure_prices() -> Costs:
    """Takes some seconds. Syncs are those of the disk that holds temporary files."""
    alone, many = _Samples(), _Samples()
    _run(alone, devices=1, blocks=_BLOCKS)
    _run(many, devices=_DEVICES, blocks=_BLOCKS // 4)
    request = Price(median(alone.requests), 0.0)
    largest = max(records for _, records, _ in many.executed)
    base, crowded = median(alone.executions(1)), median(many.executions(largest))
    record_us = max(0.0, (crowded - base) / max(largest - 1, 1))
    kinds = {
        "Request": request,
        "Prepared": Price(0.0, median(alone.beyond_handling(alone.prepared))),
        "Block": Price(0.0, max(0.0, base - record_us)),
        "Record": Price(0.0, record_us),
    }
    for kind in {*alone.opened, *many.opened}:
        found = alone if kind in alone.opened else many
        open_us = median(found.opened[kind])
        if kind in ("Submit", "PrePrepare"):
            open_us = max(0.0, open_us - request.open_us)
        kinds[kind] = Price(open_us, median(found.handled.get(kind) or [0.0]))
    return Costs(
        kinds={kind: _rounded(kinds[kind]) for kind in sorted(kinds)},
        check_us=round(median(alone.checks), 1),
        sign_us=round(median(alone.signs), 1),
        sync_us=round(_sync_us(alone), 1),
        send_us=_SEND_US,
        delays_us=_delays_us(),
    )


def _rounded(price: Price) -> Price:
    return Price(round(price.open_us, 1), round(price.handle_us, 1))


# --- the code, frame by frame --------------------------------------------------------------------


class _Samples:
    """Microseconds of CPU, by kind of message."""

    def __init__(self) -> None:
        self.opened: dict[str, list[float]] = defaultdict(list)
        self.handled: dict[str, list[float]] = defaultdict(list)
        self.checks: list[float] = []
        self.signs: list[float] = []
        self.requests: list[float] = []
        self.prepared: list[tuple[str, float]] = []  # kind of the message that caused it, us
        self.executed: list[tuple[str, int, float]] = []  # the same, with records
        self.facts: list[Durable] = []
        self.stored: list[Stored] = []
        self.genesis: Genesis | None = None

    def executions(self, records: int) -> list[float]:
        return self.beyond_handling(
            [(kind, us) for kind, count, us in self.executed if count == records]
        )

    def beyond_handling(self, found: list[tuple[str, float]]) -> list[float]:
        """How much longer each took than a message of its kind without such a consequence."""
        return [max(0.0, us - median(self.handled.get(kind) or [0.0])) for kind, us in found]


class _TimedScheme:
    """A scheme that measures its own time."""

    def __init__(self, scheme: Scheme, samples: list[float]) -> None:
        self.spent_ns = 0
        self._scheme = scheme
        self._samples = samples

    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        begun_ns = time.thread_time_ns()
        try:
            return self._scheme.verify(public, data, signature)
        finally:
            took_ns = time.thread_time_ns() - begun_ns
            self.spent_ns += took_ns
            self._samples.append(took_ns / 1000)


class _TimedSigner:
    """A signer that measures its own time."""

    def __init__(self, signer: Signer, samples: list[float]) -> None:
        self.spent_ns = 0
        self.public = signer.public
        self._signer = signer
        self._samples = samples

    def sign(self, data: bytes) -> bytes:
        begun_ns = time.thread_time_ns()
        signature = self._signer.sign(data)
        took_ns = time.thread_time_ns() - begun_ns
        self.spent_ns += took_ns
        self._samples.append(took_ns / 1000)
        return signature


class _TimedMachine(Machine):
    """Opens and handles each frame alone, and notes how long that takes."""

    def __init__(self, samples: _Samples, **parts: Any) -> None:
        super().__init__(**parts)
        self._samples = samples
        self._timed_scheme = _TimedScheme(self.scheme, samples.checks)
        self._timed_signer = _TimedSigner(self.signer, samples.signs)
        self.scheme = self._timed_scheme  # type: ignore[assignment]  # `checks` is not read here
        self.signer = self._timed_signer
        self._outgoing: list[tuple[Party, bytes]] = []

    def send(self, party: Party, frame: bytes) -> None:
        self._outgoing.append((party, frame))

    def _guarded(self, action: Callable[..., None], *arguments: object) -> None:
        super()._guarded(action, *arguments)
        frames, self._outgoing = self._outgoing, []
        for party, frame in frames:
            super().send(party, frame)

    def _turn(self) -> None:
        while self.process is not None and self._inbox:
            for party, frame in self._inbox.take():
                self._guarded(self._one, party, frame)

    def _one(self, party: Party, frame: bytes) -> None:
        assert self.process is not None
        service, height, syncs = self.process.service, self.disk.height, self.disk.syncs
        checked_ns, signed_ns = self._timed_scheme.spent_ns, self._timed_signer.spent_ns
        begun_ns = time.thread_time_ns()
        verified = service.verify_all(((party, frame),))
        opened_ns = time.thread_time_ns() - begun_ns
        opened_ns -= self._timed_scheme.spent_ns - checked_ns
        checked_ns = self._timed_scheme.spent_ns
        begun_ns = time.thread_time_ns()
        self.process.step(verified)
        handled_ns = time.thread_time_ns() - begun_ns
        handled_ns -= self._timed_scheme.spent_ns - checked_ns
        handled_ns -= self._timed_signer.spent_ns - signed_ns
        kind = kind_of(verified[0][1])
        self._samples.opened[kind].append(opened_ns / 1000)
        if self.disk.height > height:
            (stored,) = self.disk.blocks(height + 1, height + 1)
            records = Head.decode(stored.block.head).count
            self._samples.executed.append((kind, records, handled_ns / 1000))
        elif self.disk.syncs > syncs:
            self._samples.prepared.append((kind, handled_ns / 1000))
        else:
            self._samples.handled[kind].append(handled_ns / 1000)
        if kind == "Submit":
            self._samples.requests.append(opened_ns / 1000)
        if self.me == 1:
            self._samples.genesis = self.genesis
            self._samples.facts = [*self.disk.facts()]
            self._samples.stored = [*self.disk.blocks(1, self.disk.height)]


def _run(samples: _Samples, *, devices: int, blocks: int) -> None:
    def make(**parts: Any) -> Machine:
        return _TimedMachine(samples, **parts)

    scenario = quiet(_REPLICAS, Consensus(), devices=devices, requests=blocks)
    scenario = msgspec.structs.replace(scenario, es256=True)
    outcome = run(scenario, hardware=Hardware(make, healthy(scenario.spread_us)))
    assert outcome.finding is None, outcome.finding


# --- disk and link -------------------------------------------------------------------------------


def _sync_us(found: _Samples) -> float:
    """The time for one synced transaction with two facts and a block: a replica makes one for each
    block. The first decile counts, because other programs' writes delay the others."""
    assert found.genesis is not None
    took = []
    with tempfile.TemporaryDirectory(prefix="calibrate-") as folder:
        store = SqliteStore(Path(folder) / "ledger.db", found.genesis.encode(), 1)
        for height, block in enumerate(found.stored, 1):
            begun_s = time.perf_counter()
            for fact in found.facts[:2]:
                store.put_fact(msgspec.structs.replace(fact, seq=height))
            store.put_block(height, block)
            store.commit()
            took.append((time.perf_counter() - begun_s) * 1e6)
        store.close()
    return quantiles(took, n=10)[0]


def _delays_us() -> tuple[int, ...]:
    """Quantiles of half a TCP round trip on loopback."""
    took = []
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(_ROUND_TRIPS):
            begun_s = time.perf_counter()
            for sender, receiver in ((one, other), (other, one)):
                sender.sendall(bytes(_LINK_BYTES))
                receiver.recv(_LINK_BYTES, socket.MSG_WAITALL)
            took.append((time.perf_counter() - begun_s) * 1e6 / 2)
    return tuple(round(each) for each in quantiles(took, n=_QUANTILES))
