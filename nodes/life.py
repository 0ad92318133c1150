"""The life of a device's process: wait for the run, enrol, verify the ledger, add data, report.

`nodes.mobile` and `nodes.environment` give it what they differ in.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, TypeVar

from chain.errors import PeerFault
from chain.genesis import Genesis
from gateway.outbox import OutboxCorruptError
from nodes.config import ConfigError
from nodes.device import Device, Refused, Uplink
from nodes.edge_config import DeviceConfig, load_config
from nodes.events import FLUSH_AGE_MS, EventLog
from nodes.ledger_sync import LedgerSync
from nodes.login import Login
from nodes.process import EXIT_BAD_CONFIG, Trouble, fail, run, write_ready
from nodes.sender import Sender
from nodes.workload import Go, until, wait_for_go

__all__ = ["Life", "Work", "device_main"]

C = TypeVar("C", bound=DeviceConfig)

# Brings readings to the sender until it is left; entered when the device is admitted.
Work = Callable[[Device, Sender, Login, Go], AbstractAsyncContextManager[None]]


class Life:
    """One device from start to stop."""

    def __init__(
        self, config: DeviceConfig, device: Device, uplink: Uplink, work: Work, events: EventLog
    ) -> None:
        self._config = config
        self._device = device
        self._uplink = uplink
        self._work = work
        self._events = events

    async def live(self) -> None:
        """Ends when everything is said; the process then waits to be stopped."""
        config, device, events = self._config, self._device, self._events
        events.emit("started", id=device.node.hex())
        go = await wait_for_go(Path(config.go))
        if device.state.password is None and not await self._enrol(go):
            events.emit("done")
            return  # nobody to be: the process waits to be stopped
        sync = LedgerSync(Path(config.state) / "copy.sqlite", device.genesis, device.parts, events)
        sender = Sender(
            Path(config.state) / "backlog.sqlite", device, config.service, go.timeout_ms, events
        )
        async with device.logged_in() as login:
            await sync.run(login, self._uplink)
            events.emit("state", state="admitted")
            async with self._sending(sender, login), self._work(device, sender, login, go):
                await until(go.due_ns(go.end_ms))
            await sync.run(login, self._uplink)
            events.emit("done")
            events.flush()
            await login.failed  # relays go on relaying until the process is stopped

    @contextlib.asynccontextmanager
    async def _sending(self, sender: Sender, login: Login) -> AsyncIterator[None]:
        """Readings go out; on leaving, all of them have been answered."""
        sending = asyncio.ensure_future(sender.run(login))
        try:
            yield
            drained = asyncio.ensure_future(sender.drained())
            await asyncio.wait([sending, drained], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _enrol(self, go: Go) -> bool:
        due_ns = go.due_ns(go.enrol_at_ms)
        await until(due_ns)
        self._events.emit("state", state="enrolling")
        try:
            statement = await self._device.enrol()
        except Refused as refusal:
            self._events.emit("state", state="denied")
            self._events.emit("denied", reason=refusal.reason)
            return False
        self._events.emit(
            "admitted",
            id=statement.request.hex(),
            latency_ms=(time.time_ns() - due_ns) / 1e6,
            privilege=statement.privilege,
            service=statement.service,
        )
        return True


def device_main(
    kind: Literal["mobile", "environment"],
    config_type: type[C],
    about: str | None,
    make: Callable[[C, str, EventLog], tuple[Uplink, Work]],
) -> None:
    """The `__main__` of both kinds. `make(config, network name, events)`."""
    parser = argparse.ArgumentParser(prog=f"python -m nodes.{kind}", description=about)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--exit-on-stdin-eof", action="store_true")
    args = parser.parse_args()
    try:
        config = load_config(args.config, config_type)
        genesis = Genesis.decode(Path(config.genesis).read_bytes())
    except (ConfigError, PeerFault, OSError) as error:
        fail(EXIT_BAD_CONFIG, str(error))

    async def serve(stopping: asyncio.Event) -> None:
        with EventLog(Path(config.events or "/dev/null"), config.name) as events:
            try:
                uplink, work = make(config, genesis.network.hex()[:16], events)
                device = Device(config, genesis, kind, uplink, events)
            except (OutboxCorruptError, ValueError, OSError) as error:
                raise Trouble(str(error)) from error
            write_ready(Path(config.ready) if config.ready else None, {})
            await _until_stopped(Life(config, device, uplink, work, events), stopping, events)

    run(serve, exit_on_stdin_eof=args.exit_on_stdin_eof)


async def _until_stopped(life: Life, stopping: asyncio.Event, events: EventLog) -> None:
    living = asyncio.ensure_future(life.live())
    stopped = asyncio.ensure_future(stopping.wait())
    try:
        while not stopped.done():
            await asyncio.wait([stopped], timeout=FLUSH_AGE_MS / 1000)
            events.flush()
            if living.done():
                living.result()  # what went wrong ends the process
    finally:
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
