"""An operator's morning at "your first lab": the commands, the pytest example as printed, and a
sensor board that is unplugged.

The whole day is in `test_device_commands` and `test_standing_lab` (make soak). All on one lab, as a
lab takes seconds to come up.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from chain.keys import node_id, pem_of
from nodes.board.control import command
from nodes.board.flash import firmware_hash
from testbed.provision.configs import EVENTS
from tests.chain.world import signer
from tests.testbed.hosts_support import eventually
from tests.testbed.operator_support import Operator

README = Path(__file__).parents[2] / "testbed/provision/README.md"
INVENTORY = """\
schema: testbed.inventory/1
lab: first
hosts:
  pi01: {connection: local, roles: [replica, gateway, broker]}
  pi02: {connection: local, roles: [replica, environment]}
  pi03: {connection: local, roles: [replica]}
  pi04: {connection: local, roles: [replica, mobile], mobiles: 3}
  gone: {connection: local, roles: [environment], state: quarantined, reason: broken}
boards:
  th01: {host: pi02, firmware: {board: unix}}
  th02: {host: gone, firmware: {board: unix}}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Of a short name: a board's control socket has a limit."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


def test_an_operators_morning(home: Path, tmp_path: Path) -> None:
    operator = Operator(home)
    inventory = home / "my-lab.yaml"
    inventory.write_text(INVENTORY)
    before = board(operator, "-i", str(inventory))
    assert (before["state"], before["port"]) == ("not read", None)
    assert "starts with the lab" in before["why"]
    assert "start one with `testbed up`" in operator.fails(2, "device", "revoke", "x")
    named = ("-i", str(inventory))
    starts = f"start one with `testbed up {' '.join(named)}`"
    assert starts in operator.fails(2, "device", "revoke", "x", *named)
    with operator.lab(inventory) as up:
        assert up["admitted"] == ["pi02-environment", "pi04-1", "pi04-2", "pi04-3"]
        the_example_for_ones_own_tests_runs_as_printed(operator)
        unplugs_a_board_and_plugs_it_again(operator)
        gives_and_takes(operator)
        admits_one_more(operator, tmp_path)
        changes_administrators(operator, tmp_path)
        sees_what_dies_and_restarts_it(operator)
        kept = collects_and_ends_it(operator, up, tmp_path)
    for bundle in kept:
        assert operator.run("ledger", "verify", bundle).returncode == 0
    assert operator.does("down") == {"ended": None}


def the_example_for_ones_own_tests_runs_as_printed(operator: Operator) -> None:
    """With the names of that chapter, on hosts of this machine. It revokes pi04-2."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (operator.home / "test_example.py").write_text(example)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_example.py"],
        cwd=operator.home,
        env=operator.environment | {"PATH": programs},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def board(operator: Operator, *options: str) -> dict[str, Any]:
    """What `board list` says of th01. The other one is left out with its host."""
    found: dict[str, Any]
    found, quarantined = operator.does("board", "list", *options)
    assert (quarantined["name"], quarantined["state"]) == ("th02", "left out")
    assert "broken" in quarantined["why"]
    return found


def unplugs_a_board_and_plugs_it_again(operator: Operator) -> None:
    """What is said of it is true at that moment."""
    eventually(lambda: board(operator)["reading_s"] is not None)
    first = board(operator)
    reader = "pi02-environment"
    assert (first["state"], first["reader"], first["host"]) == ("read", reader, "pi02")
    assert (first["firmware"], first["current"]) == (firmware_hash(), True)
    assert Path(first["port"]).exists()
    assert first["since_s"] <= first["reading_s"]
    eventually(lambda: board(operator)["reading_s"] > first["reading_s"])

    control = Path(operator.directory("th01"), "control.sock")
    command(control, "unplug")
    eventually(lambda: board(operator)["state"] == "unplugged")
    eventually(lambda: board(operator)["since_s"] is not None)
    unplugged = board(operator)
    assert (unplugged["port"], unplugged["reader"]) == (None, None)
    assert unplugged["since_s"] >= first["since_s"]
    command(control, "plug")
    eventually(lambda: board(operator)["state"] == "read")
    assert board(operator)["since_s"] > unplugged["since_s"]
    assert "th01   pi02  /dev/pts/" in operator.run("board", "list").stdout


def a_reader_that_just_started_does_not_read_yet(operator: Operator) -> None:
    """What its log says of boards is older than its start."""
    reader = "pi02-environment"
    states = {each["name"]: each for each in operator.does("status")["processes"]}
    os.kill(states[reader]["process"]["pid"], signal.SIGSTOP)
    log = Path(operator.directory(reader), EVENTS)
    (started, *_) = (line for line in log.read_text().splitlines() if '"event":"started"' in line)
    with log.open("a") as events:
        events.write(f"{started}\n")
    found = board(operator)
    assert (found["state"], found["why"]) == ("not read", f"{reader} has not opened it yet")
    assert found["reader"] is None
    os.kill(states[reader]["process"]["pid"], signal.SIGCONT)


def gives_and_takes(operator: Operator) -> None:
    assert operator.does("device", "revoke", "pi04-2")["changed"] is False
    assert operator.does("device", "grant", "pi04-1", "--privilege", "2")["changed"] is True
    before = operator.does("device", "show", "pi04-1")
    rolled = operator.does("device", "renew", "pi04-1", "--rollover")
    assert rolled["not_after"] > before["not_after"]
    states = {each["node"]: each["state"] for each in operator.does("device", "list")}
    assert (states[before["node"]], states[rolled["node"]]) == ("renewed", "admitted")
    own = operator.does("device", "revoke", "pi04-3", "--by-device")
    assert (own["state"], own["changed"]) == ("revoked", True)
    eventually(lambda: operator.does("device", "show", rolled["node"])["data_records"] > 0)


def admits_one_more(operator: Operator, tmp_path: Path) -> None:
    admitted = operator.does("device", "admit", "lamp", "--dir", str(tmp_path / "lamp"))
    assert admitted["state"] == "admitted"
    operator.does("device", "admit", "lost", "--dir", str(tmp_path / "lost"), "--no-start")
    assert operator.does("device", "withdraw", "lost")["vouchers"] == 1
    assert operator.run("device", "withdraw", "lost").returncode == 1


def changes_administrators(operator: Operator, tmp_path: Path) -> None:
    key, public = tmp_path / "second.pem", signer("second admin").public
    key.write_bytes(pem_of(public))
    added = operator.does("admin", "add", str(key))
    assert (added["id"], added["changed"]) == (node_id(public).hex(), True)
    assert added["id"] in {each["id"] for each in operator.does("admin", "list")}
    assert operator.does("admin", "revoke", str(key))["changed"] is True
    assert operator.run("admin", "add", str(key)).returncode == 1, "a revoked key never comes back"


def sees_what_dies_and_restarts_it(operator: Operator) -> None:
    def replica() -> dict[str, Any]:
        processes = operator.does("status")["processes"]
        (found,) = (dict(each) for each in processes if each["name"] == "pi03")
        return found

    before = replica()
    os.kill(before["process"]["pid"], signal.SIGKILL)
    eventually(lambda: replica()["process"]["restarts"] == 1)
    assert replica()["process"]["exit_code"] == 128 + signal.SIGKILL
    assert operator.does("restart", "pi03")["state"] == "active"
    eventually(lambda: (replica()["height"] or 0) >= before["height"])
    assert "no process is called pi09" in operator.fails(2, "restart", "pi09")


def collects_and_ends_it(operator: Operator, up: dict[str, Any], tmp_path: Path) -> list[str]:
    """The bundles: one of the lab as it runs, one of its end."""
    done = operator.does("collect", "--out", str(tmp_path / "runs"))
    assert done["broken"] == []
    a_reader_that_just_started_does_not_read_yet(operator)
    assert operator.does("down", "--check")["would_end"]["pid"] == up["pid"]
    ended = operator.does("down", "--keep", str(tmp_path / "kept"))["ended"]
    assert not Path(up["home"]).exists()
    return [str(done["bundle"]), str(ended["kept"])]
