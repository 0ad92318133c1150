"""The gateway's process ends when it is asked to, whatever it waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nodes.edge_config import GatewaySecrets
from nodes.events import EventLog, read_events
from nodes.gateway.process import GatewayProcess
from tests.chain.world import World
from tests.nodes.gateway_support import lonely_gateway


def test_asked_to_end_while_there_is_no_broker_it_ends_at_once_and_well(tmp_path: Path) -> None:
    config = lonely_gateway(tmp_path)
    secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)

    async def story(events: EventLog) -> None:
        process = GatewayProcess(config, secrets, World().genesis, events)
        stopping = asyncio.Event()
        stopping.set()
        await process.run(stopping)

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    assert "counts" in [each.event for each in read_events(tmp_path / "events")]
