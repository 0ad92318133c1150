"""`testbed board list`: what it says of a sensor board is true at that moment."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from nodes.board.control import command
from nodes.board.flash import firmware_hash
from testbed.provision.configs import EVENTS
from tests.testbed.hosts_support import eventually
from tests.testbed.operator_support import Operator

INVENTORY = """\
schema: testbed.inventory/1
lab: boards
hosts:
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  env1: {connection: local, roles: [environment]}
  gone: {connection: local, roles: [environment], state: quarantined, reason: broken}
boards:
  th01: {host: env1, firmware: {board: unix}}
  th02: {host: gone, firmware: {board: unix}}
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """Of a short name: a board's control socket has a limit."""
    with TemporaryDirectory() as directory:
        yield Path(directory)


def test_a_board_is_read_unplugged_and_read_again(home: Path) -> None:
    operator = Operator(home)
    inventory = home / "boards.yaml"
    inventory.write_text(INVENTORY)

    def seen() -> dict[str, Any]:
        board, quarantined = operator.does("board", "list", "-i", str(inventory))
        assert (quarantined["name"], quarantined["state"]) == ("th02", "left out")
        assert "broken" in quarantined["why"]
        found: dict[str, Any] = board
        return found

    before = seen()
    assert (before["state"], before["port"]) == ("not read", None)
    assert "starts with the lab" in before["why"]
    with operator.lab(inventory):
        eventually(lambda: seen()["reading_s"] is not None)
        first = seen()
        assert (first["state"], first["reader"], first["host"]) == ("read", "env1", "env1")
        assert (first["firmware"], first["current"]) == (firmware_hash(), True)
        assert Path(first["port"]).exists()
        assert first["since_s"] <= first["reading_s"]
        eventually(lambda: seen()["reading_s"] > first["reading_s"])

        control = Path(operator.directory("th01"), "control.sock")
        command(control, "unplug")
        eventually(lambda: seen()["state"] == "unplugged" and seen()["since_s"] is not None)
        unplugged = seen()
        assert (unplugged["port"], unplugged["reader"]) == (None, None)
        assert unplugged["since_s"] >= first["since_s"]
        command(control, "plug")
        eventually(lambda: seen()["state"] == "read")
        assert seen()["since_s"] > unplugged["since_s"]

        assert "th01   env1  /dev/pts/" in operator.run("board", "list").stdout
        a_reader_that_just_started_does_not_read_yet(operator)
        operator.does("down")


def a_reader_that_just_started_does_not_read_yet(operator: Operator) -> None:
    """What its log says of boards is older than its start."""
    states = {each["name"]: each for each in operator.does("status")["processes"]}
    os.kill(states["env1"]["process"]["pid"], signal.SIGSTOP)
    log = Path(operator.directory("env1"), EVENTS)
    with log.open("a") as events:
        events.write(json.dumps({"event": "started"}, separators=(",", ":")) + "\n")
    (board, _) = operator.does("board", "list")
    assert (board["state"], board["why"]) == ("not read", "env1 has not opened it yet")
    assert board["reader"] is None
    os.kill(states["env1"]["process"]["pid"], signal.SIGCONT)
