"""A device's process, from start to stop: enrol, verify the ledger, open a session, send data.

Mobile and environmental devices share it. They differ in their `Uplink` and in the source of their
readings (`Work`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.ledger.identity import Identity
from chain.ledger.operations import CloseSession, Data, OpenSession, Operation
from gateway.hops import Trace
from gateway.refusing import LocalFault
from gateway.tasks import Tasks, first_of
from nodes.around import EdgeAround
from nodes.config import ConfigError, load_config
from nodes.device.carrier import Carrier
from nodes.device.device import Answer, Device, Refused, Uplink
from nodes.device.ledger_sync import LedgerSync
from nodes.device.login import Login
from nodes.device.renewal import KeyChanged, Renewal
from nodes.device.sender import Ended, Sender
from nodes.device.workload import Go, until, wait_for_go
from nodes.edge_config import DeviceConfig
from nodes.events import EventLog
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.metrics import serving_metrics
from nodes.process import arguments, housekeeping, run, write_ready
from nodes.trace_file import open_trace

__all__ = ["DeviceProcess", "Parts", "Work", "device_main"]

C = TypeVar("C", bound=DeviceConfig)

# Brings readings to the sender until it is left; entered when the device is admitted.
Work = Callable[[Device, Sender, Login, Go], AbstractAsyncContextManager[None]]


class Parts(NamedTuple):
    """The parts that differ between the kinds of devices."""

    uplink: Uplink
    work: Work
    around: EdgeAround = EdgeAround()


class _Admitted(msgspec.Struct, frozen=True):
    """The parts of a device while it is admitted and logged in."""

    device: Device
    login: Login
    sync: LedgerSync
    sender: Sender
    renewal: Renewal

    @property
    def identity(self) -> Identity | None:
        """The identity in the device's own copy of the ledger; None if that has heads only."""
        ledger = self.sync.copy.ledger
        return None if ledger is None else ledger.registry.identity(self.device.node)


class DeviceProcess:
    """One device, under one key after another. `make` makes the `Device` from what is on disk."""

    def __init__(
        self,
        config: DeviceConfig,
        make: Callable[[], Device],
        uplink: Uplink,
        work: Work,
        events: EventLog,
    ) -> None:
        self._config = config
        self._make = make
        self._uplink = uplink
        self._work = work
        self._events = events

    async def run(self) -> None:
        """Ends when the device has no identity any more; the process then waits to be stopped."""
        go = None
        while True:
            with contextlib.closing(self._make()) as device:
                self._events.emit("started", id=device.node.hex())
                go = go or await wait_for_go(Path(self._config.go))
                try:
                    if device.state.password is None:
                        await self._enrol(device, go)
                    await self._be_admitted(device, go)
                except KeyChanged:
                    continue  # as the holder of the next key
                except Ended as ended:
                    self._events.emit("state", state=str(ended))
                except Refused as refusal:
                    self._events.emit("state", state="denied")
                    self._events.emit("denied", reason=refusal.reason)
                self._events.emit("done")
                return

    async def _enrol(self, device: Device, go: Go) -> None:
        due_ns = go.due_ns(go.enrol_at_ms)
        await until(due_ns)
        self._events.emit("state", state="enrolling")
        statement = await device.enrol(due_ns)
        self._events.emit(
            "admitted",
            id=statement.request.hex(),
            latency_ms=(time.time_ns() - due_ns) / 1e6,
            privilege=statement.privilege,
            service=statement.service,
        )

    async def _be_admitted(self, device: Device, go: Go) -> None:
        """Runs until cancelled. Raises Ended, KeyChanged."""
        config, state = self._config, Path(self._config.state)
        bodies = config.copy_of == "ledger"
        sync = LedgerSync(
            state / "copy.sqlite",
            device,
            self._events,
            bodies=bodies,
            keep_data_blocks=config.keep_data_blocks,
        )
        sender = Sender(
            state / "backlog.sqlite", device, config.service, go.timeout_ms, self._events
        )
        renewal = Renewal(state, config.validity_s, device, sync, self._events)
        with contextlib.closing(sync), contextlib.closing(sender):
            async with device.logged_in() as login:
                await self._serve(_Admitted(device, login, sync, sender, renewal), go)

    async def _serve(self, admitted: _Admitted, go: Go) -> None:
        device, login, sync = admitted.device, admitted.login, admitted.sync
        await sync.run(login, self._uplink)
        if (identity := admitted.identity) is not None:
            device.state.at_least(identity.counter)
            device.chain_counter = identity.counter
        self._events.emit("state", state="admitted")

        def answered(operation: Operation, answer: Answer) -> None:
            if isinstance(operation, Data):
                admitted.sender.resumed(operation, answer)
            admitted.renewal.resumed(operation, answer)

        await device.resume(login, answered)
        await first_of(
            self._session(admitted, go),
            admitted.sender.run(login),
            admitted.renewal.run(login),
            Carrier(device, self._config, self._uplink, self._events).run(login),
            sync.follow(login, self._uplink),
        )

    async def _session(self, admitted: _Admitted, go: Go) -> None:
        """Opens access to the service, works until the plan ends, closes it. A relay goes on
        relaying."""
        login = admitted.login
        session = await self._open(admitted) if self._config.session else None
        async with self._work(admitted.device, admitted.sender, login, go):
            await until(go.due_ns(go.end_ms))
            await admitted.sender.drained()
        if session is not None:
            await self._ask(admitted, CloseSession, session=session)
        await admitted.sync.run(login, self._uplink)
        self._events.emit("done")
        self._events.flush()
        await asyncio.Event().wait()

    async def _open(self, admitted: _Admitted) -> int | None:
        """The session that is open: one of an earlier start, or a new one."""
        if (identity := admitted.identity) is not None and identity.sessions:
            return next(iter(identity.sessions))
        answer = await self._ask(admitted, OpenSession, service=self._config.service)
        return None if isinstance(answer, Refused) else answer.session

    async def _ask(
        self, admitted: _Admitted, kind: Callable[..., Operation], **fields: object
    ) -> Answer:
        device = admitted.device

        def make(counter: int) -> Operation:
            return kind(network=device.genesis.network, node=device.node, counter=counter, **fields)

        async with device.asking(admitted.login, make) as answer:
            status = answer.reason if isinstance(answer, Refused) else answer.status
            self._events.emit("session", op=kind.__name__, status=status)
            return answer


def device_main(
    kind: Literal["mobile", "environment"],
    config_type: type[C],
    about: str | None,
    make: Callable[[C, str, EventLog, Trace], Parts],
) -> None:
    """The `__main__` of both kinds. `make(config, network name, events, trace)`."""
    args = arguments(f"nodes.device.{kind}", about)
    try:
        config = load_config(args.config, config_type)
        genesis = Genesis.decode(Path(config.genesis).read_bytes())
    except (ConfigError, PeerFault, OSError) as error:
        fail(EXIT_BAD_CONFIG, str(error))

    trace = open_trace(config.trace, config.trace_every)
    with (
        EventLog(Path(config.events or "/dev/null"), config.name) as events,
        contextlib.closing(trace),
    ):
        uplink, work, around = make(config, genesis.network.hex()[:16], events, trace)

        def device() -> Device:
            return Device(config, genesis, kind, uplink, events, connect=around.client, trace=trace)

        async def serve(stopping: asyncio.Event) -> None:
            process = DeviceProcess(config, device, uplink, work, events)
            try:
                async with Tasks() as tasks:
                    with serving_metrics(config.metrics, config.name):
                        write_ready(config.ready, {})
                        tasks.start(process.run())
                        tasks.start(around.follow(events))
                        tasks.start(housekeeping(events, trace))
                        await stopping.wait()
            except (LocalFault, ValueError, OSError) as error:
                raise Trouble(str(error)) from error

        run(serve, directory=Path(config.state), exit_on_stdin_eof=args.exit_on_stdin_eof)
