"""`testbed ledger`: anybody checks and reads a stored chain, from the files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from nodes.replica.ledger_copy import copy_ledger
from testbed import cli
from testbed.manifest import Manifest, RunEntry
from tests.chain.world import World
from tests.testbed.bundles import edit, store


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    device = world.admit("phone", privilege=2)
    world.run(world.data(device), device)
    world.idle(12)
    return world


RUN = "run/0000-faults"


@pytest.fixture
def bundle(world: World, tmp_path: Path) -> Path:
    """The parts of a bundle that the command reads."""
    path = tmp_path / "runs" / "20240611T100000Z-story-abcd"
    entry = RunEntry(index=0, trial=0, arm="faults", state="done")
    (path / RUN / "raw/ledger").mkdir(parents=True)
    manifest = Manifest(
        run=path.name,
        campaign="story",
        argv=(),
        stage="loopback",
        seed=1,
        schedule_sha256="",
        hosts=("here",),
        started="2024-06-11T10:00:00Z",
        runs=(entry,),
    )
    (path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    (path / RUN / "genesis.json").write_bytes(world.genesis.encode())
    for replica in range(3):
        database = store(world, tmp_path / f"{replica}.db", replica, world.blocks)
        copy_ledger(database, path / RUN / f"raw/ledger/r{replica}.sqlite")
    return path


def test_a_bundle_verifies(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ledger", "verify", str(bundle)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("holds: 14 of 14 blocks verified from genesis, 2 records") == 3
    assert "up to height 14" in printed
    assert not list(bundle.rglob("*-wal")), "reading must leave nothing behind"


def test_last_means_the_newest_run(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle.parents[1])
    assert cli.main(["ledger", "verify", "last"]) == 0
    assert cli.main(["ledger", "verify", bundle.name]) == 0


def test_one_database_verifies_against_its_own_genesis(
    world: World, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", "verify", str(bundle / RUN / "raw/ledger/r1.sqlite"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert report["network"] == world.network.hex()
    assert report["proven"] == 8, "alone it can prove what a checkpoint's quorum signed"


def test_a_changed_byte_is_named_with_exit_code_1(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(bundle / RUN / "raw/ledger/r2.sqlite", 9, signature=bytes(64))
    assert cli.main(["ledger", "verify", str(bundle)]) == 1
    assert "r2.sqlite: height 9, signature" in capsys.readouterr().out
    assert cli.main(["ledger", "verify", str(bundle), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    findings = [finding for file in report["files"] for finding in file["findings"]]
    assert ("r2.sqlite", 9, "signature") in {(f["file"], f["height"], f["field"]) for f in findings}


def test_of_what_is_no_ledger_nothing_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("# Ledgers")
    assert cli.main(["ledger", "verify", str(tmp_path / "README.md")]) == 1
    *_, what, confirmed = capsys.readouterr().out.splitlines()
    assert "file is not a database" in what
    assert confirmed == "no block is confirmed by f+1 replicas or a quorum's checkpoint"


def test_the_pinned_genesis_of_the_bundle_counts(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Replacing all databases by those of another network is noticed."""
    other = World(replicas=5)
    (bundle / RUN / "genesis.json").write_bytes(other.genesis.encode())
    assert cli.main(["ledger", "verify", str(bundle)]) == 1
    assert "another genesis" in capsys.readouterr().out


def test_blocks_are_shown_in_the_papers_fields(
    world: World, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", "show", str(bundle), "--height", "1", "--json"]) == 0
    (block,) = json.loads(capsys.readouterr().out)
    assert block["id"] == 1
    assert block["hash"] == world.blocks[0].hash.hex()
    (record,) = block["body"]
    device = world.ledger.registry.identities[-1]
    assert record["node_id"] == device.node.hex()
    assert record["public_key"] == device.key.hex()
    assert record["certificate"] == device.serial
    assert (record["operation"], record["operation_status"]) == ("enrol", "ok")
    assert (record["privilege_level"], record["service_type"]) == (2, "telemetry")

    assert cli.main(["ledger", "show", str(bundle), "--last", "2"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("hash of target block") == 2
    assert world.blocks[-2].hash.hex() in printed

    assert cli.main(["ledger", "show", str(bundle), "--height", "2"]) == 0
    printed = capsys.readouterr().out
    for word in ("node ID", "privilege", "access time", "public key", "certificate", "data"):
        assert word in printed


@pytest.mark.parametrize("command", ["verify", "show"])
def test_what_is_not_there_is_a_usage_error(
    command: str, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", command, "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    shutil.rmtree(bundle / RUN / "raw/ledger")
    assert cli.main(["ledger", command, str(bundle)]) == 2
    assert "no ledger was collected" in capsys.readouterr().err


def test_show_says_if_a_height_is_not_there(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ledger", "show", str(bundle), "--height", "99"]) == 2
    said = capsys.readouterr().err
    assert "no block of height 99" in said
    assert f"ledger verify {bundle}`" in said
