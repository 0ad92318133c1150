"""What the operator looks up costs no more when the ledger is old, and is what was verified."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from chain.ledger.statement import decode_leaf
from gateway.bridge.block_store import BlockStore, BlockStoreError
from nodes.device.ledger_sync import LedgerSync
from testbed.standing.record_index import RecordIndex
from tests.gateway.broker.brokers import story
from tests.nodes.test_device import admitted, ask, rigged
from tests.nodes.test_kept import change

READINGS = 6


def test_records_are_found_by_request_and_node_and_only_new_blocks_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    blocks = BlockStore.blocks

    def counting(self: BlockStore, start: int, stop: int) -> object:
        read.extend(range(start, stop + 1))
        return blocks(self, start, stop)

    @story
    async def play(folder: Path) -> None:
        async with rigged(folder) as rig, admitted(rig) as (device, login):
            with (
                closing(
                    LedgerSync(folder / "copy.sqlite", device, rig.events, bodies=True)
                ) as sync,
                closing(RecordIndex(folder / "records.sqlite", sync)) as index,
            ):
                for _ in range(READINGS):
                    await ask(rig, device, login)
                await sync.run(login, rig.uplink)
                index.update()
                everything = [
                    (height, decode_leaf(record.leaf), record)
                    for height, sealed in enumerate(sync.sealed(), 1)
                    for record in sealed.records or ()
                ]
                for _, statement, record in everything:
                    found = index.find(statement.request)
                    assert found is not None
                    assert (found[0].records or ())[found[1]] == record
                mine = [(h, s) for h, s, _ in everything if device.node in (s.node, s.by)]
                assert index.others(device.node) == [(h, s) for h, s in mine if s.op != "data"]
                assert index.readings(device.node) == sum(s.op == "data" for _, s in mine)
                assert index.readings(device.node) == READINGS
                assert index.find(bytes(32)) is None

                monkeypatch.setattr(BlockStore, "blocks", counting)
                await ask(rig, device, login)
                await sync.run(login, rig.uplink)
                read.clear()
                index.update()
                assert read == [sync.copy.height], "the one that is new"
                assert index.readings(device.node) == READINGS + 1
                read.clear()
                index.others(device.node)
                assert len(read) == len(index.others(device.node))

                change(sync, folder / "copy.sqlite")
                lied = [s for h, s, _ in everything if h == 2]
                with pytest.raises(BlockStoreError):
                    index.find(lied[0].request)

    play(tmp_path)
