"""`python -m nodes.provider.process --config FILE`: the centralised service provider.

One process makes the keys of all devices, keeps them in escrow, checks each reading and stores it.
`service` decides. A batch of readings is on disk before its receipts leave. It is logged like a
block, so that both give the same figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from chain.errors import PeerFault
from gateway.refusing import refusing
from gateway.tasks import first_of
from nodes.config import ConfigError, load_config
from nodes.edge_config import load_secrets
from nodes.events import CountedEvents, EventLog
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.metrics import Metric, one, serving_metrics
from nodes.ports import Party
from nodes.process import arguments, housekeeping, run, write_ready
from nodes.provider.config import DeviceTokens, ProviderConfig
from nodes.provider.links import PeerLinks
from nodes.provider.protocol import Carried, answer_codec, call_codec
from nodes.provider.service import ProviderService
from nodes.provider.store import Escrow, ReadingStore

__all__ = ["main"]


class ProviderProcess:
    """Built from a config; runs until it is told to stop. Raises Trouble."""

    def __init__(self, config: ProviderConfig, tokens: dict[str, bytes], events: EventLog) -> None:
        self._config = config
        self._events = events
        self._faults = CountedEvents(events, "peer-fault")
        self._escrow = Escrow(Path(config.escrow))
        self._readings = ReadingStore(Path(config.store))
        self._service = ProviderService(tokens, self._escrow, self._readings, events)
        certificates: dict[Party, str] = {each.name: each.certificate for each in config.clients}
        self._links = PeerLinks(config.key, config.certificate, certificates, {}, events)

    async def run(self, stopping: asyncio.Event) -> None:
        listen = self._config.listen
        port = self._links.wire.listen(listen.host, listen.port)
        self._links.wire.start()
        self._events.emit("started", replica=0, height=self._service.height, port=port)
        write_ready(self._config.ready, {"replica": port})
        try:
            await first_of(self._serve(), housekeeping(self._events), stopping.wait())
        except sqlite3.Error as error:
            raise Trouble(f"{self._config.name}: {error}") from error
        finally:
            await self._links.wire.close()
            self._escrow.close()
            self._readings.close()
            self._events.emit("stopped", height=self._service.height)

    def metrics(self) -> Iterator[Metric]:
        yield one("height", "gauge", "Batches of readings on its disk.", self._service.height)

    async def _serve(self) -> None:
        while True:
            turn = await self._links.turn()
            began_us = time.monotonic_ns() // 1000
            now_us = time.time_ns() // 1000
            answers = [
                (party, carried.device, found)
                for party, carried in turn
                if (found := self._answer(carried, now_us)) is not None
            ]
            taken = await asyncio.to_thread(self._service.commit)
            for party, device, message in answers:
                self._links.send(party, device, message)
            if taken:
                took_us = time.monotonic_ns() // 1000 - began_us
                self._events.emit(
                    "block",
                    height=self._service.height,
                    count=taken,
                    view=0,
                    time_us=now_us,
                    proposed_us=0,
                    executed_us=took_us,
                )

    def _answer(self, carried: Carried, now_us: int) -> bytes | None:
        try:
            with refusing():
                call = call_codec.decode(carried.message)
                return answer_codec.encode(self._service.handle(carried.device, call, now_us))
        except PeerFault as fault:
            self._faults.add(fault.code, device=carried.device, code=fault.code)
            return None


def main() -> None:
    args = arguments("nodes.provider.process", __doc__)
    try:
        config = load_config(args.config, ProviderConfig)
        known = load_secrets(Path(config.passwords), DeviceTokens).keys
    except ConfigError as error:
        fail(EXIT_BAD_CONFIG, str(error))
    tokens = {device: bytes.fromhex(key) for device, key in known.items()}

    async def serve(stopping: asyncio.Event) -> None:
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(EventLog(Path(config.events or "/dev/null"), config.name))
            process = ProviderProcess(config, tokens, events)
            stack.enter_context(serving_metrics(config.metrics, config.name, process.metrics))
            await process.run(stopping)

    run(serve, directory=Path(config.store).parent, exit_on_stdin_eof=args.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
