"""A device's process in a test's hand, and event logs of any process."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from chain.genesis import Genesis
from chain.proofs.certificate import verify_carrier
from nodes.device.renewal import ORDER_FILE, Order
from nodes.device.sends import Draw, Profile, Segment
from nodes.device.workload import Go
from nodes.disk import write_atomically
from nodes.edge_config import BrokerAddress, MobileConfig
from nodes.events import LoggedEvent, read_events
from nodes.keygen import CERTIFICATE_FILE
from testbed.standing.running_lab import RunningLab

__all__ = ["Log", "Phone", "until"]

DEADLINE_S = 60.0  # generous: other tests share the machine
READING_EVERY_MS = 300
PLAN_MS = 600_000
_PER_S = 1000 / READING_EVERY_MS
READINGS = Draw.of(Profile("uniform", (Segment("t", 0, PLAN_MS, _PER_S, _PER_S),)), "readings")


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.05)


class Log:
    """The events of a process, as far as they are written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self, kind: str, **fields: object) -> list[LoggedEvent]:
        return [
            event
            for event in (read_events(self._path) if self._path.exists() else [])
            if event.event == kind and fields.items() <= event.fields.items()
        ]

    def first(self, kind: str, **fields: object) -> LoggedEvent:
        """The first such event, as soon as it is there."""
        return self.nth(kind, 1, **fields)

    def nth(self, kind: str, count: int, **fields: object) -> LoggedEvent:
        try:
            until(lambda: len(self.all(kind, **fields)) >= count, f"{kind} {fields}")
        except AssertionError as late:
            logged = [(each.event, each.fields) for each in read_events(self._path)]
            raise AssertionError(f"{self._path}: {late}; logged: {logged[-12:]}") from None
        return self.all(kind, **fields)[count - 1]

    def after(self, moment: LoggedEvent, kind: str, **fields: object) -> list[LoggedEvent]:
        return [each for each in self.all(kind, **fields) if each.t > moment.t]


class Phone:
    """A mobile device that is no part of the lab's inventory: its files, and its process."""

    def __init__(self, name: str, directory: Path, running: RunningLab) -> None:
        self.name, self.directory, self._running = name, directory, running
        self.state = directory / "state"

    @property
    def log(self) -> Log:
        return Log(self.directory / "events.jsonl")

    def prepare(self, voucher: bytes, *, validity_s: int) -> None:
        """As somebody sets it up; events of an earlier life are forgotten."""
        (self.directory / "events.jsonl").unlink(missing_ok=True)
        (self.directory / "genesis.json").write_bytes(self._running.genesis.read_bytes())
        write_atomically(self.directory / "voucher.pem", voucher, mode=0o600)
        config = MobileConfig(
            name=self.name,
            genesis="genesis.json",
            state="state",
            voucher="voucher.pem",
            broker=BrokerAddress(self._running.broker_host, self._running.broker_port),
            go="go.json",
            validity_s=validity_s,
            session=False,
            events="events.jsonl",
        )
        plan = Go(
            start_ns=time.time_ns(),
            enrol_at_ms=0,
            draws=(READINGS,),
            end_ms=PLAN_MS,
            timeout_ms=5_000,
        )
        for name, content in (("config.json", config), ("go.json", plan)):
            (self.directory / name).write_bytes(msgspec.json.encode(content))

    @contextmanager
    def running(self) -> Iterator[None]:
        argv = [
            sys.executable,
            "-m",
            "nodes.device.mobile",
            "--config",
            str(self.directory / "config.json"),
        ]
        process = subprocess.Popen([*argv, "--exit-on-stdin-eof"], stdin=subprocess.PIPE)
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE_S)

    def order(self, do: Literal["renew", "rollover", "revoke"]) -> None:
        write_atomically(self.state / ORDER_FILE, msgspec.json.encode(Order(do=do)))

    def must_carry_certificate_of(self, node: object, genesis: Genesis) -> None:
        """Its X.509 carrier holds a proof for this key, valid now."""
        pem = (self.state / CERTIFICATE_FILE).read_bytes()
        assert verify_carrier(pem, genesis).node.hex() == node

    def must_have_left_no_reading_out(self) -> None:
        """From the first to the last that the chain answered."""
        due_ms = [int(str(e.fields["intended_ns"])) // 10**6 for e in self.log.all("data")]
        steps = {later - earlier for earlier, later in itertools.pairwise(due_ms)}
        assert steps == {READING_EVERY_MS}, sorted(steps)

    def forget_its_login(self) -> None:
        """As after a reset that leaves the key in force, as the device's first."""
        keys = sorted(self.state.glob("key*.pem"), key=lambda path: path.stat().st_mtime_ns)
        kept = keys[-1].read_bytes()
        for path in self.state.iterdir():
            path.unlink()
        write_atomically(self.state / "key.pem", kept, mode=0o600)
