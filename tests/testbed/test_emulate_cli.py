"""`testbed emulate` as a person meets it: what it says, and with which exit code it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import cli
from tests.testbed.command_line import run_testbed
from tests.testbed.emulate_support import emulation_missing
from tests.testbed.hosts_support import eventually


def emulate(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`up` that makes a lab is a program, as what it starts lives on."""
    if words[0] == "up" and "--json" in words:
        argv = [sys.executable, "-m", "testbed.cli", "emulate", *words]
        return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        return run_testbed("emulate", *words)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may make labs; the next test is root's")
def test_without_root_it_says_so_and_touches_nothing(tmp_path: Path) -> None:
    done = emulate("up", cwd=tmp_path)
    assert done.returncode == 2
    assert "sudo" in done.stderr or "Linux" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving up root needs root")
def test_root_that_became_nobody_is_told_how_to_get_it_back(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    # The module is imported by root (an environment may be unreadable to nobody), run by nobody.
    script = (
        "import os, sys, testbed.cli, testbed.commands.emulate, testbed.commands.options;"
        "os.setgid(65534); os.setuid(65534); sys.exit(testbed.cli.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "emulate", "up"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "sudo" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["up", "--hosts", "0"],
        ["up", "--hosts", "100"],
        ["up", "--boards", "-1"],
        ["up", "--cpu", "fast"],
        ["up", "--cpu", "0%"],
        ["power", "sideways", "pi01"],
        ["reboot", "pi01"],
        ["throttle", "pi01", "very"],
        ["throttle", "pi01", "-1"],
        ["link", "pi01", "pi02", "--loss", "101%"],
        ["link", "pi01", "pi02", "--delay", "-5"],
        ["status"],
    ],
    ids=" ".join,
)
def test_a_mistake_ends_with_2_and_makes_nothing(tmp_path: Path, words: list[str]) -> None:
    done = emulate(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_down_without_a_lab_is_no_mistake(tmp_path: Path) -> None:
    done = emulate("down", cwd=tmp_path)
    assert done.returncode == 0
    assert "nothing to do" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can remove a lab")
@pytest.mark.parametrize("kind", ["path", "list", "empty", "plan"])
def test_down_removes_nothing_for_a_file_that_it_did_not_write(tmp_path: Path, kind: str) -> None:
    """Names in it become paths that root removes."""
    treasure = tmp_path / "home" / "treasure"
    treasure.parent.mkdir()
    treasure.write_text("kept")
    ours = {"schema": "testbed.emulated/1", "lab_id": "abcd"}
    content = {
        "path": {**ours, "lab_id": str(treasure.parent)},
        "list": [1],
        "empty": {},
        "plan": {**ours, "plan": 7},
    }[kind]
    (tmp_path / "emulated.json").write_text(json.dumps(content))
    for words in (("down",), ("status",), ("up",)):
        where = ["--out", str(tmp_path)] if words == ("up",) else ["-i", str(tmp_path / "x.yaml")]
        done = emulate(*words, *where, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert f"{tmp_path / 'emulated.json'} is damaged" in done.stderr
    assert treasure.read_text() == "kept"


@pytest.mark.lab
@pytest.mark.skipif(bool(emulation_missing()), reason=emulation_missing())
def test_up_status_power_and_down_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole life of a lab by its commands; `--json` for machines."""

    def power(to: str) -> int:
        return cli.main(["power", to, "pi02", "-i", str(tmp_path / "emulated/inventory.yaml")])

    try:
        made = emulate("up", "--hosts", "2", "--boards", "1", "--json", cwd=tmp_path)
        assert made.returncode == 0, made.stderr
        facts = json.loads(made.stdout)
        assert list(facts["hosts"]) == ["pi01", "pi02"]
        assert Path(facts["inventory"]).exists()
        assert "pi02" in emulate("up", "--hosts", "2", "--boards", "1", cwd=tmp_path).stdout
        assert emulate("link", "pi01", "pi09", "--loss", "5%", cwd=tmp_path).returncode == 2
        endless = ("link", "pi01", "pi02", "--loss", "5%", "--for", "inf")
        assert emulate(*endless, cwd=tmp_path).returncode == 2
        if facts["shaping"] == "switch":
            shape = ("link", "pi01", "pi02", "--delay", "20ms", "--loss", "5%")
            assert emulate(*shape, cwd=tmp_path).returncode == 0
            links = json.loads(emulate("links", "--json", cwd=tmp_path).stdout)
            (link,) = (one for one in links if (one["from"], one["to"]) == ("pi01", "pi02"))
            assert (link["to"], link["delay_ms"], link["loss"]) == ("pi02", 20, 0.05)
            assert "20 ms  5.0%" in emulate("links", cwd=tmp_path).stdout
            assert emulate("link", "pi01", "pi02", cwd=tmp_path).stdout.endswith("clear\n")
        assert emulate("throttle", "pi01", "0x50005", cwd=tmp_path).returncode == 0
        assert power("off") == 0
        hosts = json.loads(emulate("status", "--json", cwd=tmp_path).stdout)["hosts"]
        assert [host["on"] for host in hosts.values()] == [True, False]
        lab_file = str(tmp_path / "emulated/inventory.yaml")
        capsys.readouterr()
        assert cli.main(["status", "-i", lab_file, "--json"]) == 0, "a host that is off is no fault"
        hosts = json.loads(capsys.readouterr().out)["hosts"]
        assert [host["powered"] for host in hosts.values()] == [True, False]
        assert emulate("reboot", "pi02", cwd=tmp_path).returncode == 3, "it has no power"
        assert power("on") == 0
        assert emulate("reboot", "pi09", cwd=tmp_path).returncode == 2
        lost = emulate("down", "-i", "elsewhere/inventory.yaml", cwd=tmp_path)
        assert str(tmp_path / "emulated") in lost.stdout, "it says where there is one"
    finally:
        done = emulate("down", cwd=tmp_path)
    assert done.stdout == "down\n"
    eventually(lambda: list(tmp_path.iterdir()) == [])
