"""A host that misbehaves is left out by one line of the inventory, and n never shrinks unsaid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventory.load import load_lab, packaged
from testbed import cli
from testbed.care.quarantine import FaultTolerance, QuarantineChange, quarantine, release
from testbed.errors import ConfigurationError

FIVE = """\
# The bench by the window.
schema: testbed.inventory/1
lab: five   # not six
hosts:
  pi01: {addr: 10.0.0.1, roles: [replica, gateway, broker]}     # the old one
  pi02: {addr: 10.0.0.2, roles: [replica]}
  pi03:
    # behind the fan
    roles: [replica]

    addr: 10.0.0.3
  pi04: {addr: 10.0.0.4, roles: [replica]}
  pi05: {roles: ['replica'], addr: "10.0.0.5"}
"""


@pytest.fixture
def five(tmp_path: Path) -> Path:
    path = tmp_path / "five.yaml"
    path.write_text(FIVE)
    path.chmod(0o640)
    return path


@pytest.mark.parametrize("host", ["pi01", "pi02", "pi03", "pi05"])
def test_only_the_mark_changes_and_release_takes_it_off_again(five: Path, host: str) -> None:
    """Every comment, quote and empty line stays: the file is a person's."""
    assert quarantine(five, host, 'says "hot": 81 C').changed
    lab = load_lab(five)
    assert [(out.name, out.reason) for out in lab.excluded()] == [(host, 'says "hot": 81 C')]
    kept = [line for line in FIVE.splitlines() if host not in line]
    assert [line for line in five.read_text().splitlines() if line in kept] == kept
    assert five.stat().st_mode & 0o777 == 0o640
    assert release(five, host) == QuarantineChange(True, FaultTolerance(4, 1), FaultTolerance(5, 1))
    after = re.sub(" +#", " #", five.read_text())  # a comment moves with the end of its line
    assert after == re.sub(" +#", " #", FIVE)
    assert [path.name for path in five.parent.iterdir()] == ["five.yaml"], "nothing lies about"


def test_brackets_in_any_shape_keep_their_meaning_and_their_comments(five: Path) -> None:
    odd = FIVE.replace("[replica, gateway, broker]}", "[replica, gateway,\n     broker]}")
    five.write_text(odd.replace("pi04: {", "pi04: {  "))
    before = load_lab(five)
    quarantine(five, "pi02", "hot")
    release(five, "pi02")
    assert load_lab(five) == before
    comments = [line.partition("#")[2] for line in FIVE.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in five.read_text().splitlines() if "#" in line] == (
        comments
    )


def test_twice_is_once_and_another_reason_replaces(five: Path) -> None:
    quarantine(five, "pi02", "undervoltage")
    text = five.read_text()
    assert quarantine(five, "pi02", "undervoltage") == QuarantineChange(
        False, FaultTolerance(4, 1), FaultTolerance(4, 1)
    )
    assert five.read_text() == text
    assert quarantine(five, "pi02", "a broken card").changed
    assert load_lab(five).excluded()[0].reason == "a broken card"
    assert release(five, "pi02").changed
    assert not release(five, "pi02").changed


def test_fewer_than_3f_plus_1_only_on_request_and_then_the_file_says_so(five: Path) -> None:
    quarantine(five, "pi02", "hot")
    text = five.read_text()
    with pytest.raises(ConfigurationError, match=r"n = 3 .*3f\+1 = 4: f would fall from 1 to 0"):
        quarantine(five, "pi03", "hot")
    assert five.read_text() == text
    assert quarantine(five, "pi03", "hot", lower_f=True).after == FaultTolerance(3, 0)
    assert load_lab(five).chain.f == 0


def test_a_stated_f_is_lowered_where_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    hosts = "".join(f"  r{n}: {{addr: 10.0.0.{n}, roles: [replica]}}\n" for n in range(1, 8))
    path.write_text(
        "schema: testbed.inventory/1\nlab: seven\n"
        f"chain: {{heartbeat: 1s, f: 2}} # for the paper\nhosts:\n{hosts}"
    )
    assert quarantine(path, "r7", "hot", lower_f=True).after == FaultTolerance(6, 1)
    assert "chain: {heartbeat: 1s, f: 1} # for the paper\n" in path.read_text()


def test_what_would_leave_a_broken_file_is_refused_by_name(tmp_path: Path) -> None:
    """The first lab's only gateway and broker; a host that shares its entry with another."""
    path = tmp_path / "lab.yaml"
    path.write_text(packaged("first-lab").read_text())
    with pytest.raises(ConfigurationError, match="no active host has role gateway"):
        quarantine(path, "pi01", "hot", lower_f=True)
    assert path.read_text() == packaged("first-lab").read_text()
    shared = FIVE.replace("pi02: {", "pi02: &two {").replace("10.0.0.2", "localhost")
    path.write_text(shared + "  gw: *two\n")
    with pytest.raises((ConfigurationError, ValueError)):
        quarantine(path, "pi02", "hot")
    assert path.read_text() == shared + "  gw: *two\n"


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reason=st.text(min_size=1, max_size=200))
def test_any_reason_that_a_file_can_hold_comes_back_as_it_was(five: Path, reason: str) -> None:
    five.write_text(FIVE)
    try:
        quarantine(five, "pi03", reason)
    except ConfigurationError:
        assert five.read_text() == FIVE
    else:
        assert load_lab(five).excluded()[0].reason == reason


def test_the_command(five: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> int:
        return cli.main(["quarantine", *words])

    i = ("-i", str(five))
    assert run("pi02", *i, "--reason", "undervoltage", "--check") == 0
    assert "pi02: would be quarantined: undervoltage; n = 4, f = 1" in capsys.readouterr().out
    assert run("pi09", *i, "--reason", "hot", "--check") == 2
    assert five.read_text() == FIVE
    capsys.readouterr()
    assert run("pi02", *i, "--reason", "undervoltage", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"]
    assert (said["host"], said["state"], said["changed"]) == ("pi02", "quarantined", True)
    assert (said["n"], said["f"]) == (4, 1)
    assert run("pi03", *i, "--reason", "hot") == 2
    assert "--lower-f" in capsys.readouterr().err
    assert run("pi09", *i, "--reason", "hot") == 2
    assert "pi01, pi02" in capsys.readouterr().err
    assert run("pi02", *i) == 2
    assert run("pi02", *i, "--release", "--reason", "x") == 2
    assert run("r1", "--reason", "hot") == 2, "the packaged file is nobody's to edit"
    assert run("pi03", *i, "--reason", "hot", "--lower-f") == 0
    capsys.readouterr()
    assert run("pi03", *i, "--release") == 0
    assert "states chain.f: 0; without that, f would be 1" in capsys.readouterr().out
