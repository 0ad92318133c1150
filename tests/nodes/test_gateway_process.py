"""The gateway's process ends when it is asked to, whatever it waits for."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.bridge.block_store import BlockStore, BlockStoreError
from gateway.bridge.outbox import Outbox
from nodes.edge_config import GatewaySecrets
from nodes.events import EventLog, read_events
from nodes.exits import Trouble
from nodes.gateway.process import GatewayProcess
from tests.chain.world import World
from tests.nodes.gateway_support import lonely_gateway


def test_asked_to_end_while_there_is_no_broker_it_ends_at_once_and_well(
    tmp_path: Path, connections: list[sqlite3.Connection]
) -> None:
    """And closes what it opened: a second try in the same process begins with the same files."""
    config = lonely_gateway(tmp_path)
    secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)

    async def story(events: EventLog) -> None:
        stopping = asyncio.Event()
        stopping.set()
        with ExitStack() as files:
            await GatewayProcess(config, secrets, World().genesis, events, files).run(stopping)

    with EventLog(tmp_path / "events", "gateway") as events:
        asyncio.run(story(events))
    assert "counts" in [each.event for each in read_events(tmp_path / "events")]
    assert connections
    for each in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            each.execute("SELECT 1")


def test_a_start_that_fails_leaves_no_file_open(tmp_path: Path) -> None:
    """The same process tries again, for example when a full disk has room: its outbox is free."""
    config = lonely_gateway(tmp_path)
    secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)
    Path(config.copy).mkdir()
    with (
        EventLog(tmp_path / "events", "gateway") as events,
        pytest.raises(BlockStoreError) as kept,
        ExitStack() as files,
    ):
        GatewayProcess(config, secrets, World().genesis, events, files)
    Outbox(Path(config.outbox)).close()
    assert kept.tb is not None, "what failed is still referred to"


def test_a_damaged_copy_ends_it_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found while it runs: whoever starts it learns which file to delete."""

    def damaged(_: BlockStore) -> None:
        raise BlockStoreError("the copy is damaged; delete it")

    monkeypatch.setattr(BlockStore, "checkpoint", damaged)
    monkeypatch.setattr("nodes.gateway.process.CHECKPOINT_S", 0)
    config = lonely_gateway(tmp_path)
    secrets = GatewaySecrets(gateway="one", admin="two", devices="5" * 64)

    async def story(events: EventLog) -> None:
        with ExitStack() as files:
            process = GatewayProcess(config, secrets, World().genesis, events, files)
            await process.run(asyncio.Event())

    with (
        EventLog(tmp_path / "events", "gateway") as events,
        pytest.raises(Trouble, match="the copy is damaged"),
    ):
        asyncio.run(story(events))
