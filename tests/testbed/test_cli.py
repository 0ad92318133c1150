"""The command line: one clear message and the agreed exit code for everything that goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from inventory.load import packaged
from testbed import cli
from testbed.errors import LabFault, LockedError, RestoreIncompleteError

ROOT = Path(__file__).parents[2]


def test_help_names_every_command_and_imports_none() -> None:
    code = (
        "import sys; from testbed.cli import main; main(['--help']);"
        "heavy = [m for m in ('pydantic', 'ruamel.yaml', 'rich', 'testbed.commands.plan')"
        " if m in sys.modules]; sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_what_brings_a_lab_up_waits_for_no_drawing() -> None:
    """matplotlib takes a second of CPU to import; only figures need it."""
    code = "import sys, testbed.api; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("command", ["inventory", "campaign", "plan"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"Usage: testbed {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Usage: testbed"),
        (["inventory"], "Usage: testbed inventory"),
        (["inventry"], "Did you mean 'inventory'?"),
        (["plan"], "Missing argument"),
        (["plan", "quick-start", "--seed", "x"], "--seed"),
        (["plan", "quick-start", "--sed", "1"], "--sed"),
        (["plan", "nope"], "quick-start"),
        (["plan", "quick-start", "-i", "nowhere.yaml"], "cannot read"),
        (["plan", "quick-start", "--save", "/nowhere/at/all.json"], "choose another"),
        (["inventory", "check", "a.yaml", "-i", "b.yaml"], "name one"),
    ],
)
def test_usage_and_configuration_mistakes_end_with_2_and_one_message(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (LabFault("pi03 does not answer; check its power"), 3, "pi03"),
        (LockedError("held by ann until 12:00"), 5, "held by ann"),
        (RestoreIncompleteError("pi02"), 6, "pi02"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("oh"), 3, "TESTBED_DEBUG=1"),
    ],
)
def test_every_failure_has_its_exit_code(
    error: BaseException,
    code: int,
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        raise error

    monkeypatch.delenv("TESTBED_DEBUG", raising=False)
    monkeypatch.setattr("testbed.commands.inventory.load_lab", fail)
    assert cli.main(["inventory", "check"]) == code
    captured = capsys.readouterr()
    assert says in captured.err
    assert "Traceback" not in captured.err


def test_a_terminal_that_lacks_a_letter_is_no_failure(tmp_path: Path) -> None:
    """What was done stays done: a letter that cannot be shown is replaced."""
    text = packaged("loopback").read_text().replace("hosts:", "chain: {f: 0}\nhosts:")
    (tmp_path / "lab.yaml").write_text(
        text.replace("r1: {", 'r1: {state: quarantined, reason: "wet → dry", '), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli", "inventory", "check", str(tmp_path / "lab.yaml")],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        encoding="latin-1",
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "left out: wet ? dry" in done.stdout


def test_a_place_that_cannot_be_used_is_named_and_is_no_internal_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert cli.main(["emulate", "status", "-i", str(tmp_path / "file" / "lab" / "x.yaml")]) == 3
    said = capsys.readouterr().err
    assert f"{tmp_path / 'file' / 'lab'}" in said
    assert "Not a directory" in said
    assert "internal error" not in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full here")
def test_an_answer_that_finds_no_room_is_no_verdict() -> None:
    """1 would say that a property failed."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "testbed.cli", "inventory", "show", "--json"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 3
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_tracebacks_are_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setenv("TESTBED_DEBUG", "1")
    monkeypatch.setattr("testbed.commands.inventory.load_lab", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["inventory", "check"])


def test_errors_are_json_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "lab.yaml"
    broken.write_text("lab: x\nhost: {}\n")
    assert cli.main(["inventory", "check", str(broken), "--json"]) == 2
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert error["exit_code"] == 2
    assert {"file": str(broken), "line": 2, "column": 1, "where": "host"}.items() <= (
        error["problems"][-1].items()
    )
    assert captured.err == ""


def test_inventory_check_reports_the_lab(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inventory", "check", str(packaged("first-lab")), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is True
    assert (report["stage"], report["f"], report["warnings"]) == ("lab", 1, [])
    assert cli.main(["inventory", "check"]) == 0
    assert "4 replicas (f = 1), 3 mobile devices, 2 boards" in capsys.readouterr().out


def test_inventory_show_fills_in_the_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inventory", "show"]) == 0
    shown = capsys.readouterr().out
    for part in ("r4", "mobile x3", "th02", "view_timeout", "m 3, k 2"):
        assert part in shown


@pytest.mark.parametrize("command", ["inventory", "campaign"])
def test_schemas_are_printed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].startswith("https://json-schema.org")


def test_plan_prints_and_writes_the_schedule_that_its_hash_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "schedule.json"
    assert cli.main(["plan", "quick-start", "--seed", "5", "--json", "--save", str(out)]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["schedule"] == json.loads(out.read_bytes())
    assert planned["schedule"]["seed"] == 5
    assert cli.main(["plan", "quick-start", "--seed", "5"]) == 0
    printed = capsys.readouterr().out
    assert planned["schedule_hash"] in printed
    assert "kill-primary" in printed


def test_campaigns_are_listed_and_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["campaign", "list"]) == 0
    listed = capsys.readouterr().out
    assert "quick-start" in listed
    assert "process.crash" in listed
    assert cli.main(["campaign", "check", "quick-start"]) == 0
    assert "1 run of 27 s" in capsys.readouterr().out
