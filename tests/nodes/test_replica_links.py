"""The gateway's links: what a treacherous replica sends costs it no disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from gateway.follower import Follower
from nodes.config import PeerConfig
from nodes.edge_config import BrokerAddress, GatewayConfig
from nodes.events import EventLog, read_events
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.replica_links import ReplicaLinks


def config(folder: Path) -> GatewayConfig:
    return GatewayConfig(
        name="gateway",
        genesis="",
        key=str(folder / "own" / KEY_FILE),
        certificate=str(folder / "own" / CERTIFICATE_FILE),
        replicas=(PeerConfig(0, "127.0.0.1", 1, keygen(folder / "r0").certificate),),
        broker=BrokerAddress("127.0.0.1", 1),
        node="a" * 64,
        passwords="",
        copy="",
        outbox="",
    )


def test_a_replica_that_sends_garbage_does_not_flood_the_gateways_log(tmp_path: Path) -> None:
    keygen(tmp_path / "own")

    async def story(events: EventLog) -> None:
        links = ReplicaLinks(
            config(tmp_path), cast(Follower, None), events, lambda _: 0, lambda *_: None
        )
        for _ in range(10_000):  # four bytes each on the wire
            links._inbox.put(0, b"")
        links._readable.set()
        running = asyncio.ensure_future(links.run())
        while links._inbox:
            assert not running.done()
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await links.close()

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    told = [each.fields for each in read_events(tmp_path / "events")]
    assert len(told) < 20
    assert told[0]["replica"] == 0
    assert told[-1]["count"] == 8_192
