"""An operator's morning at "your first lab": the commands, and the pytest example as printed.

The whole day is in `test_device_commands` and `test_standing_lab` (make soak). All on one lab, as a
lab takes seconds to come up.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from chain.keys import node_id, pem_of
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
"""


def test_an_operators_morning(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    inventory = tmp_path / "my-lab.yaml"
    inventory.write_text(INVENTORY)
    assert "start one with `testbed up`" in operator.fails(2, "device", "revoke", "x")
    with operator.lab(inventory) as up:
        assert up["admitted"] == ["pi02-environment", "pi04-1", "pi04-2", "pi04-3"]
        the_example_for_ones_own_tests_runs_as_printed(operator)
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
    assert operator.does("down", "--check")["would_end"]["pid"] == up["pid"]
    ended = operator.does("down", "--keep", str(tmp_path / "kept"))["ended"]
    assert not Path(up["home"]).exists()
    return [str(done["bundle"]), str(ended["kept"])]
