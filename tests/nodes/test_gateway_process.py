"""The gateway's process: told to end, it ends, whatever it waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path

from nodes.config import PeerConfig
from nodes.edge_config import BrokerAddress, GatewayConfig, GatewaySecrets
from nodes.events import EventLog, read_events
from nodes.gateway import GatewayProcess
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from tests.chain.world import World


def test_told_to_end_while_there_is_no_broker_it_ends_at_once_and_well(tmp_path: Path) -> None:
    keygen(tmp_path / "own")
    config = GatewayConfig(
        name="gateway",
        genesis="",
        key=str(tmp_path / "own" / KEY_FILE),
        certificate=str(tmp_path / "own" / CERTIFICATE_FILE),
        replicas=(PeerConfig(0, "127.0.0.1", 1, keygen(tmp_path / "r0").certificate),),
        broker=BrokerAddress("127.0.0.1", 1),
        node="a" * 64,
        passwords="",
        copy=str(tmp_path / "copy.sqlite"),
        outbox=str(tmp_path / "outbox.sqlite"),
    )
    secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)

    async def story(events: EventLog) -> None:
        process = GatewayProcess(config, secrets, World().genesis, events)
        stopping = asyncio.Event()
        stopping.set()
        await process.run(stopping)

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    assert "counts" in [each.event for each in read_events(tmp_path / "events")]
