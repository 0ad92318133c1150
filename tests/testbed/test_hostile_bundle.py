"""A bundle that a stranger sent: it is refused, or harmless, and never waited for without end."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.hops import Hop
from inventory.load import packaged
from nodes.ports import Stored
from nodes.replica.sqlite_store import SqliteStore
from nodes.trace_file import MAGIC, RECORD, Mark
from testbed import cli
from testbed.bundle import Bundle, RunFolder, find_bundle
from testbed.origin import is_ours, mark
from testbed.report.style import figure, rendered, styled
from testbed.terminal import printable
from tests.chain.world import World
from tests.testbed.bundles import Story, judged, lines, reschedule, write_lines

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
EVIL = "x\x1b]0;owned\x07\x1b[2J\r\x9b5A\u202e\n  forged row  data  ok  255"
pytestmark = pytest.mark.timeout(120)


# --- databases ------------------------------------------------------------------------------------


def two_faced(database: sqlite3.Connection) -> None:
    """The true blocks at even seconds, others at odd ones."""
    database.executescript("""
        ALTER TABLE blocks RENAME TO b0;
        CREATE VIEW blocks AS SELECT * FROM b0
            WHERE CAST(strftime('%s', 'now') AS INT) % 2 = 0 OR height < 5;
    """)


def endless(database: sqlite3.Connection) -> None:
    database.executescript("""
        ALTER TABLE blocks RENAME TO b0;
        CREATE VIEW blocks AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
            SELECT b0.* FROM c, b0 WHERE c.x < 0;
    """)


def endless_facts(database: sqlite3.Connection) -> None:
    database.executescript("""
        ALTER TABLE facts RENAME TO f0;
        CREATE VIEW facts AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
            SELECT 'stable' AS kind, x AS seq, 0 AS view, x'00' AS data, 0 AS sum FROM c;
    """)


def endless_meta(database: sqlite3.Connection) -> None:
    database.executescript("""
        ALTER TABLE meta RENAME TO m0;
        CREATE VIEW meta AS WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)
            SELECT CAST(x AS TEXT) AS name, x AS value FROM c;
    """)


def triggered(database: sqlite3.Connection) -> None:
    database.execute("CREATE TRIGGER t AFTER INSERT ON blocks BEGIN DELETE FROM blocks; END")


def computed(database: sqlite3.Connection) -> None:
    database.executescript("""
        ALTER TABLE blocks RENAME TO b0;
        CREATE TABLE blocks (height INTEGER PRIMARY KEY, head BLOB, records BLOB, signature BLOB,
            sum INTEGER AS (height * 7));
        INSERT INTO blocks (height, head, records, signature)
            SELECT height, head, records, signature FROM b0;
        DROP TABLE b0;
    """)


@pytest.mark.parametrize(
    "spoil", [two_faced, endless, endless_facts, endless_meta, triggered, computed]
)
@pytest.mark.parametrize("command", ["verify", "show"])
def test_a_database_that_is_not_ours_is_refused(
    run: RunFolder,
    capsys: pytest.CaptureFixture[str],
    command: str,
    spoil: Callable[[sqlite3.Connection], None],
) -> None:
    """What a view shows may change between two readers, or never end."""
    path = run.ledgers[0]
    with sqlite3.connect(path) as database:
        spoil(database)
    database.close()
    code = cli.main(["ledger", command, str(path)])
    said = capsys.readouterr()
    if command == "verify":
        assert code == 1
        assert "does not belong in a replica's ledger" in said.out
    else:
        assert code == 2
        assert "no block can be read" in said.err


def test_a_report_of_a_database_that_is_not_ours_ends_and_fails(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    with sqlite3.connect(run.ledgers[0]) as database:
        endless(database)
    database.close()
    assert cli.main(["report", str(run.bundle.path), "--json"]) == 1
    summary = json.loads(capsys.readouterr().out)
    assert "does not belong" in summary["ledger_problem"]


# --- text -----------------------------------------------------------------------------------------


def acted_upon(said: str) -> bool:
    """Whether a terminal would do more than show it and colour it."""
    return re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", COLOUR.sub("", said)) is not None


def test_a_record_cannot_write_to_the_terminal_of_who_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refused operation stands on the ledger with the words that its device chose."""
    world = World()
    world.idle(1)
    device = world.admit("alice")
    world.run(world.data(device, service=EVIL), device)
    store = SqliteStore(tmp_path / "r.sqlite", world.genesis.encode(), 1)
    for height, block in enumerate(world.blocks, 1):
        store.put_block(height, Stored(block, world.replicas[1].sign(block.head)))
    store.commit()
    store.close()
    assert cli.main(["ledger", "show", str(tmp_path / "r.sqlite"), "--last", "1"]) == 0
    said = capsys.readouterr().out
    assert "owned" in said
    assert not acted_upon(said)
    assert not any(line.startswith("  forged row") for line in said.splitlines())


def test_names_and_reasons_of_a_bundle_cannot_either(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = run.bundle.manifest
    run.bundle.write_manifest(msgspec.structs.replace(manifest, exclusions={"pi05": EVIL}))
    faults = run.raw / "faults.jsonl"
    write_lines(faults, [each | {"targets": {"on": [EVIL]}} for each in lines(faults)])
    cli.main(["report", str(run.bundle.path)])
    said = capsys.readouterr()
    assert "owned" in said.out
    assert not acted_upon(said.out + said.err)
    run.bundle.write_json("manifest.json", {"schema": EVIL})
    assert cli.main(["report", str(run.bundle.path)]) == 2
    assert not acted_upon(capsys.readouterr().err)


@pytest.mark.parametrize("name", [r"$\frac$", "a$b$", '" onload="alert(1)', "--></svg><script>"])
def test_a_name_is_drawn_as_it_is(name: str) -> None:
    """It is no formula, which may be a wrong one, and no markup."""
    with styled():
        made = figure(1.0, name)
        drawn = rendered(made, "svg").decode()
    assert "<script" not in drawn
    assert ET.fromstring(drawn).findall(".//*[@onload]") == []


def test_colours_pass_and_all_else_is_spelled_out() -> None:
    assert printable("\x1b[1;31mred\x1b[0m\ttab\n") == "\x1b[1;31mred\x1b[0m\ttab\n"
    assert printable("\x1b[2J\x07\x9b") == r"\x1b[2J\x07\x9b"
    assert not acted_upon(printable("".join(map(chr, range(0x2100)))))


# --- commands and files ---------------------------------------------------------------------------


def test_resume_runs_no_inventory_that_a_stranger_named(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its power commands would be run: only a bundle made here is believed."""
    inventory, trace = tmp_path / "theirs.yaml", tmp_path / "trace"
    inventory.write_text(f"lab: [this is read: {trace}")
    run.bundle.update(0, state="failed")
    manifest = run.bundle.manifest
    for false in ("", "0" * 64, "é"):
        run.bundle.write_manifest(
            msgspec.structs.replace(manifest, inventory_file=str(inventory), mark=false)
        )
        assert cli.main(["resume", str(run.bundle.path)]) == 2
        said = capsys.readouterr().err
        assert "was not made here" in said
        assert "the option -i" in said


def test_resume_runs_no_inventory_that_was_changed_under_its_name(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle that the user made and published comes back with another file of that name: its
    power commands are in nothing else that is compared."""
    inventory = tmp_path / "lab.yaml"
    text = packaged("loopback").read_text()
    inventory.write_text(text)
    run.bundle.update(0, state="failed")
    manifest = msgspec.structs.replace(run.bundle.manifest, inventory_file=str(inventory))
    run.bundle.write_manifest(msgspec.structs.replace(manifest, mark=mark(manifest)))
    assert is_ours(run.bundle.manifest)
    inventory.write_text(text + "# another power command would stand here\n")
    assert cli.main(["resume", str(run.bundle.path)]) == 2
    assert "has changed since" in capsys.readouterr().err


def linked_run(bundle: Bundle, outside: Path) -> None:
    (bundle.path / "run").rename(outside / "run")
    (bundle.path / "run").symlink_to(outside / "run")


def linked_log(bundle: Bundle, outside: Path) -> None:
    path = bundle.runs[0].raw / "r1.jsonl"
    path.unlink()
    path.symlink_to("/dev/zero")


def piped_log(bundle: Bundle, outside: Path) -> None:
    path = bundle.runs[0].raw / "r1.jsonl"
    path.unlink()
    os.mkfifo(path)


def linked_plots(bundle: Bundle, outside: Path) -> None:
    (bundle.path / "plots").symlink_to(outside)


def linked_lock(bundle: Bundle, outside: Path) -> None:
    (bundle.path / ".lock").symlink_to(outside / "mine")


@pytest.mark.parametrize("spoil", [linked_run, linked_log, piped_log, linked_plots, linked_lock])
@pytest.mark.parametrize("command", ["report", "resume", "compare"])
def test_what_is_no_file_of_the_bundle_is_neither_read_nor_written(
    run: RunFolder,
    tmp_path: Path,
    command: str,
    spoil: Callable[[Bundle, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").write_text("precious")
    spoil(run.bundle, outside)
    before = sorted(outside.rglob("*"))
    path = str(run.bundle.path)
    assert cli.main([command, path, path] if command == "compare" else [command, path]) == 2
    assert "is a link or a device" in capsys.readouterr().err
    assert (outside / "mine").read_text() == "precious"
    assert sorted(outside.rglob("*")) == before


@pytest.mark.parametrize("name", ["raw/r1.jsonl", "raw/ledger/r1.sqlite", "raw/x"])
@pytest.mark.parametrize("command", ["report", "verify-bundle"])
def test_a_sparse_file_fills_neither_memory_nor_disk(
    run: RunFolder, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It takes no room where it lies, and terabytes where it is copied."""
    with (run.path / name).open("ab") as file:
        file.truncate(2**42)
    assert cli.main([command, str(run.bundle.path)]) == 2
    assert f"{name} has {2**42} bytes: at most" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["manifest.json", "inputs/schedule.json"])
def test_a_file_that_is_nested_without_end_is_refused(
    run: RunFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run.bundle.write(name, "[" * 200_000)
    assert cli.main(["report", str(run.bundle.path)]) == 2
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "segment",
    [
        {"start_ms": 0, "end_ms": 1000, "from_per_s": 1e12, "to_per_s": 1e12},
        {"start_ms": 0, "end_ms": 86_400_000, "from_per_s": 1e9, "to_per_s": 1e9},
        {"start_ms": 0, "end_ms": 10**15, "from_per_s": 1.0, "to_per_s": 1.0},
        {"start_ms": 5, "end_ms": 5, "from_per_s": 1.0, "to_per_s": 2.0},
    ],
)
def test_a_schedule_that_draws_without_end_is_refused(
    run: RunFolder, capsys: pytest.CaptureFixture[str], segment: dict[str, float]
) -> None:
    draw = {
        "profile": {"gaps": "uniform", "segments": [{"phase": "load", **segment}]},
        "seed": "s",
        "sha256": "0" * 64,
    }

    def change(schedule: dict[str, Any]) -> None:
        (*_, device) = schedule["trials"][0]["devices"]
        device["draws"] = [draw]

    reschedule(run, change)
    assert cli.main(["report", str(run.bundle.path)]) == 2
    said = capsys.readouterr().err
    assert "internal error" not in said
    assert "sends in one run" in said or "it ends at" in said or "its rate is" in said


@pytest.mark.parametrize("name", [b"a\nb", b"a\xffb"])
def test_a_name_that_no_line_of_the_sums_can_have_is_refused(
    run: RunFolder, name: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report would have written sums that nobody can read again, or none."""
    path = os.fsencode(run.path) + b"/" + name
    Path(os.fsdecode(path)).touch()
    assert cli.main(["report", str(run.bundle.path)]) == 2
    assert "rename it" in capsys.readouterr().err


def test_a_file_that_is_moved_while_the_bundle_is_looked_through_does_no_harm(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign that goes on replaces files in it."""
    (run.path / "gone").touch()
    real = os.walk

    def listed(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        found = list(real(top))
        (run.path / "gone").unlink()
        return iter(found)

    monkeypatch.setattr("testbed.bundle.os.walk", listed)
    assert find_bundle(str(run.bundle.path)).name == run.bundle.name


@pytest.mark.parametrize("name", ["-x", "a b", "; touch mine", "$HOME", "it's"])
@pytest.mark.parametrize("where", [".", "runs"])
def test_a_command_in_a_message_finds_a_bundle_whatever_its_name(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(where) / name
    shutil.copytree(story.bundle.path, path)
    line = f'set -- {Bundle(path).typed}; printf %s:%s $# "$1"'
    count, _, word = subprocess.check_output(["sh", "-c", line], text=True).partition(":")
    assert count == "1"
    assert not word.startswith("-")
    assert find_bundle(word).path.resolve() == path.resolve()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        ("NaN", "NaN is no number"),
        ("-Infinity", "-Infinity is no number"),
        ("1e999", "Expected `float` <= "),
        ("1e300", "Expected `float` <= "),
        ("-1.0", "Expected `float` >= 0"),
        ("1" + 400 * "0", "Number out of range"),
    ],
)
def test_what_no_report_writes_in_a_summary_passes_no_gate_and_is_not_drawn(
    run: RunFolder, number: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """NaN is neither above nor below a bound."""
    run.write_json("summary.json", msgspec.to_builtins(judged(run)))
    text = re.sub(r'("p99_ms": )[0-9.]+', rf"\g<1>{number}", run.read("summary.json").decode())
    assert number in text
    run.write("summary.json", text)
    path = str(run.bundle.path)
    assert cli.main(["compare", path, path, "--max-ratio", "p99=1.2"]) == 2
    assert said in capsys.readouterr().err


def counted_twice(schedule: dict[str, Any]) -> None:
    schedule["runs"] *= 2


def without_trial(schedule: dict[str, Any]) -> None:
    schedule["runs"][0]["trial"] = 7


def without_runs(schedule: dict[str, Any]) -> None:
    schedule["runs"] = []


@pytest.mark.parametrize("spoil", [counted_twice, without_trial, without_runs])
@pytest.mark.parametrize("where", ["manifest", "schedule", "both"])
def test_runs_that_were_not_planned_are_not_judged(
    run: RunFolder,
    where: str,
    spoil: Callable[[dict[str, Any]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run that is there twice would make intervals narrower, one that was left out a result
    better."""
    if where != "manifest":
        reschedule(run, spoil)
    if where != "schedule":
        manifest = run.bundle.read_json("manifest.json")
        spoil(manifest)
        run.bundle.write_json("manifest.json", manifest)
    assert cli.main(["report", str(run.bundle.path)]) == 2
    said = capsys.readouterr().err
    assert ("have different runs" if where == "manifest" else "do not fit") in said


@pytest.mark.parametrize(
    ("height", "said"), [(2**64 - 1, f"{2**64 - 1} is no height"), (50, ""), (2**62, "")]
)
def test_a_report_is_made_whatever_a_lying_host_says_in_its_trace(
    run: RunFolder, height: int, said: str
) -> None:
    """Here a replica is primary and backup of one block."""
    start = RECORD.pack(Mark.START, 0, 0, 1, 1)
    hops = (RECORD.pack(hop, 2**16 - 1, 2**32 - 1, 2**62, height) for hop in Hop)
    run.write("raw/trace/r1.bin", MAGIC + start + b"".join(hops))
    assert cli.main(["report", str(run.bundle.path)]) == 0
    notes = [each for each in run.read_json("summary.json")["notes"] if "traces" in each]
    assert [said in each for each in notes] == [True] * bool(said)
