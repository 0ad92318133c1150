"""The gateway's links: what a treacherous replica sends costs it no disk."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

from gateway.bridge.follower import Follower
from nodes.events import EventLog, read_events
from nodes.gateway.replica_links import ReplicaLinks
from tests.nodes.gateway_support import lonely_gateway


def test_a_replica_that_sends_garbage_does_not_flood_the_gateways_log(tmp_path: Path) -> None:
    config = lonely_gateway(tmp_path)

    async def story(events: EventLog) -> None:
        links = ReplicaLinks(config, cast(Follower, None), events, lambda _: 0, lambda *_: None)
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
    logged = [each.fields for each in read_events(tmp_path / "events")]
    assert len(logged) < 20
    assert logged[0]["replica"] == 0
    assert logged[-1]["count"] == 8_192
