"""A lab that stays up, by the commands of its operator: looked at, fixed, collected, ended.

`down` must work in the worst hour: with every process stopped, and with the disk full.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from testbed.hosts.local import LocalHost
from testbed.hosts.port import Unit
from tests.testbed.hosts_support import eventually
from tests.testbed.labs import local_lab
from tests.testbed.operator_support import Operator


@contextmanager
def detached(operator: Operator) -> Iterator[dict[str, Any]]:
    """`testbed up --detach`; ended at the end at the latest."""
    inventory = operator.home / "small.yaml"
    inventory.write_text(local_lab(mobiles=1, boards=0))
    words = ("up", "-i", str(inventory), "--every", "500ms", "--detach", "--json")
    started = operator.program(*words)
    assert started.returncode == 0, started.stdout + started.stderr
    up = json.loads(started.stdout)
    try:
        yield up
    finally:
        with suppress(ProcessLookupError):
            os.kill(up["pid"], signal.SIGTERM)
            os.kill(up["pid"], signal.SIGCONT)
        eventually(lambda: not psutil.pid_exists(up["pid"]), 90)


def processes(operator: Operator) -> dict[str, Any]:
    return {each["name"]: each for each in operator.does("status")["processes"]}


@pytest.mark.soak
def test_an_operator_looks_mends_collects_and_keeps(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    with detached(operator) as up:
        assert len(up["admitted"]) == 2
        sees_what_dies(operator)
        starts_what_was_given_up(operator)
        bundle = collects(operator)
        assert operator.run("ledger", "verify", bundle).returncode == 0
        assert operator.run("report", bundle).returncode == 0
        assert operator.does("down", "--check")["would_end"] == {
            "pid": up["pid"],
            "home": up["home"],
        }
        kept = Path(operator.does("down", "--keep", str(tmp_path / "kept"))["ended"]["kept"])
    assert operator.run("ledger", "verify", str(kept)).returncode == 0
    assert not Path(up["home"]).exists()
    assert operator.does("down") == {"ended": None}


def sees_what_dies(operator: Operator) -> None:
    before = processes(operator)["r2"]
    assert before["process"]["restarts"] == 0
    assert before["height"] > 0
    assert before["memory_bytes"] > 1_000_000
    os.kill(before["process"]["pid"], signal.SIGKILL)
    eventually(lambda: processes(operator)["r2"]["process"]["restarts"] == 1)
    after = processes(operator)["r2"]
    assert after["since_s"] > before["since_s"]
    assert after["process"]["exit_code"] == 128 + signal.SIGKILL


def starts_what_was_given_up(operator: Operator) -> None:
    """A process that dies at once, again and again, is given up; its files stay."""
    r3 = processes(operator)["r3"]
    config = Path(operator.directory("r3")) / "config.json"
    aside = config.rename(config.with_suffix(".aside"))
    os.kill(r3["process"]["pid"], signal.SIGKILL)
    eventually(lambda: processes(operator)["r3"]["process"]["state"] == "failed", 180)
    aside.rename(config)
    assert operator.does("restart", "r3", "--check")["state"] == "failed"
    assert operator.does("restart", "r3")["state"] == "active"
    eventually(lambda: (processes(operator)["r3"]["height"] or 0) >= r3["height"])
    for words in (("restart", "r9"), ("restart", "r9", "--check")):
        assert "no process is called r9" in operator.fails(2, *words)


def collects(operator: Operator) -> str:
    done = operator.does("collect", "--out", str(operator.home / "runs"))
    assert done["broken"] == []
    assert done["blocks"] > 0
    return str(done["bundle"])


@pytest.mark.soak
def test_a_chain_that_cannot_go_on_is_reported_and_down_ends_a_lab_whose_processes_are_all_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too many ledgers are lost; then nothing runs any more."""
    monkeypatch.setattr("testbed.commands.device.WAIT_S_MAX", 2.0)  # of the renewal
    operator = Operator(tmp_path)
    with detached(operator) as up:
        assert "ledger lost" not in operator.run("status").stdout
        pids = [processes(operator)[name]["process"]["pid"] for name in ("r3", "r4")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for name in ("r3", "r4"):
            for path in operator.scratch.glob(f"m2m-*/{name}/{name}/ledger.sqlite*"):
                path.unlink()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        stuck = "r3 and r4: ledger lost, no votes are sent; 3 of 4 votes are needed: this network"
        eventually(lambda: f"{stuck} cannot go on" in operator.run("status").stdout, 60)
        named = ("-i", str(tmp_path / "small.yaml"))
        ends = f"cannot go on; end it with `testbed down {' '.join(named)}`"
        assert ends in operator.run("status", *named).stdout
        assert ends in operator.run("device", "list", *named).stderr
        assert ends in operator.fails(3, "device", "renew", "phones", *named)
        assert stuck in operator.run("device", "list").stderr
        eventually(lambda: stuck in (Path(up["home"]) / "up.log").read_text(), 60)
        pids = [each["process"]["pid"] for each in processes(operator).values()]
        for pid in (*pids, up["pid"]):
            os.kill(pid, signal.SIGSTOP)
        assert operator.does("down")["ended"]["pid"] == up["pid"]
        assert not any(map(psutil.pid_exists, pids))


def test_a_stopped_process_is_woken_to_end_in_good_order(tmp_path: Path) -> None:
    """Not left to SIGKILL after its time: it would lose what it does at its end."""
    script = "trap 'echo ended >said; exit' TERM; echo ready >said; while :; do sleep 0.05; done"
    with LocalHost(tmp_path) as host:
        host.start(Unit("worker", ("sh", "-c", script)))
        eventually(lambda: host.run(["cat", "said"], check=False).stdout == "ready\n")
        host.signal("worker", signal.SIGSTOP)
        host.stop("worker")
        assert host.run(["cat", "said"]).stdout == "ended\n"


@pytest.mark.lab
@pytest.mark.skipif(os.getuid() != 0, reason="root mounts a small disk")
def test_a_full_disk_hides_no_lab_and_gives_one_clear_line(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    disk = operator.scratch
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        with detached(operator) as up:
            fill(disk / "filler")
            listed = operator.run("device", "list")
            assert listed.returncode in (0, 3), listed.stderr
            assert "Traceback" not in listed.stderr
            assert "internal error" not in listed.stderr
            assert "no lab is up" not in listed.stderr
            assert operator.does("status")["processes"]
            assert operator.does("down")["ended"]["pid"] == up["pid"]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))
