"""The gateway's links: what a treacherous replica sends costs it no disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from chain.pbft.messages import Denied, encode
from gateway.bridge.block_store import BlockStore
from gateway.bridge.follower import Follower
from nodes.events import EventLog, read_events
from nodes.gateway.replica_links import ReplicaLinks
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.provider.links import PeerLinks
from tests.chain.world import World
from tests.gateway.broker.brokers import running
from tests.nodes.gateway_support import FaultyReplica, lonely_gateway

NO_PORT = 70_000  # no config has it; dialling it raises what nothing in the wire expects


def test_a_replica_that_sends_garbage_does_not_flood_the_gateways_log(tmp_path: Path) -> None:
    world = World()
    store = BlockStore(tmp_path / "blocks", world.network)
    follower = Follower(world.genesis, world.scheme, store)

    async def story(events: EventLog) -> None:
        replica, all_read = FaultyReplica(tmp_path, lonely_gateway(tmp_path)), asyncio.Event()
        links = ReplicaLinks(
            replica.config, follower, events, lambda _: 0, lambda *_: all_read.set()
        )
        links.start()
        async with running(links.run()), asyncio.timeout(60):
            await replica.is_linked.wait()
            for _ in range(10_000):  # four bytes each on the wire
                replica.send(b"")
            replica.send(encode(Denied(bytes(32), "used-voucher", None)))
            await all_read.wait()
        await links.close()
        await replica.close()

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    store.close()
    logged = [e.fields for e in read_events(tmp_path / "events") if e.event == "replica-fault"]
    assert len(logged) < 20
    assert logged[0]["replica"] == 0
    assert logged[-1]["count"] == 8_192


def test_they_end_with_a_failure_of_the_wire(tmp_path: Path) -> None:
    """A bug in a task of the wire must end the gateway: without the wire it would hang."""
    world = World()
    store = BlockStore(tmp_path / "blocks", world.network)
    follower = Follower(world.genesis, world.scheme, store)
    config = lonely_gateway(tmp_path)
    (replica,) = config.replicas
    nowhere = msgspec.structs.replace(replica, port=NO_PORT)
    config = msgspec.structs.replace(config, replicas=(nowhere,))

    async def story(events: EventLog) -> None:
        links = ReplicaLinks(config, follower, events, lambda _: 0, lambda *_: None)
        links.start()
        with pytest.raises(OverflowError):
            await asyncio.wait_for(links.run(), 60)
        await links.close()

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    store.close()


def test_links_to_a_provider_end_so_too(tmp_path: Path) -> None:
    own, other = tmp_path / "own", keygen(tmp_path / "other")
    keygen(own)

    async def story(events: EventLog) -> None:
        links = PeerLinks(
            str(own / KEY_FILE),
            str(own / CERTIFICATE_FILE),
            {0: other.certificate},
            {0: ("127.0.0.1", NO_PORT)},
            events,
        )
        links.wire.start()
        with pytest.raises(OverflowError):
            await asyncio.wait_for(links.turn(), 60)
        await links.wire.close()

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
