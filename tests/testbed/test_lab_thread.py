"""The whole thread over SSH: emulated hosts made ready, boards flashed, a campaign, all clean.

pi01 has a login with modules of its own, pi02 `umask 077`, pi03 a German locale, and pi04's clock
is behind at first. One lab for all, as making hosts ready takes longer than anything else. `make
soak` has what else makes a lab's user furious (`test_lab_abuse`), and hosts whose orchestrator was
killed (`test_orchestrator_killed`).
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from nodes.board.control import command
from testbed import cli
from testbed.care.restore import leftover
from testbed.emulate import preflight
from testbed.emulate.disk import CLOCK_BEHIND_S
from testbed.emulate.lab import EmulatedLab
from testbed.errors import ConfigurationError
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import Unit
from testbed.hosts.ssh import SshHost
from testbed.provision.ready import interpreters
from tests.testbed.command_line import run_testbed
from tests.testbed.emulate_support import emulated, host, sudo
from tests.testbed.hosts_support import eventually

pytestmark = pytest.mark.lab

# The quick-start, shorter.
CAMPAIGN = """\
schema: testbed.campaign/1
campaign: thread
workload: {kind: enrol+data, rate: 5/s, arrivals: poisson, timeout: 5s}
phases: {warmup: 4s, fault: 6s, recovery: 8s}
faults:
  - {id: kill-primary, at: 1s, for: 3s, do: process.crash, on: primary}
  - {id: replay, at: 4s, do: device.replay, messages: [admission, data, serial]}
guard: {max_faulty: f, dead_man: 30s}
expect:
  safety: [agreement, validity, exactly-once, no-unauthorised-commit]
"""


Run = Callable[..., dict[str, Any]]
"""A command at the lab that goes well; what it prints as JSON."""


def cut_power(lab: EmulatedLab, host: str, runs: Path) -> None:
    """Pull a host's plug as soon as the run recovers, and put it in again. Not before all faults
    are healed, which takes longer on a busy machine: a host that is lost meanwhile spoils a run."""

    def recovering(raw: Path) -> bool:
        said = {log.stem: log.read_text() for log in raw.glob("*.jsonl")}
        begun = '"recovery"' in said.get("run", "")
        return begun and said.get("faults", "").count('"verified"') == 2

    eventually(lambda: any(map(recovering, runs.glob("*/run/*/raw"))), deadline_s=120)
    lab.power(host, "cycle")


def test_emulated_hosts_are_a_lab_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = tmp_path / "thread.yaml"
    campaign.write_text(CAMPAIGN)
    with emulated(tmp_path / "lab", hosts=4, boards=1) as lab, host(lab, "pi02") as inside:
        inventory = str(lab.inventory)

        def run(*words: str, code: int = 0) -> dict[str, Any]:
            assert cli.main([*words, "-i", inventory, "--json"]) == code, capsys.readouterr()
            said: dict[str, Any] = json.loads(capsys.readouterr().out)
            return said

        if preflight.faketime() is not None:  # otherwise no clock is behind
            a_clock_is_behind_at_each_start_until_time_sync_steps_it(lab)
        found = run("doctor")["hosts"]
        assert all(host["fit"] for host in found.values())
        assert cli.main(["run", str(campaign), "-i", inventory, "--out", str(tmp_path)]) == 2
        assert "testbed provision" in capsys.readouterr().err, "no run on hosts that are not ready"

        has_modules_of_its_own(lab)
        a_dry_run_changes_nothing(run, inside)
        assert all(host["changed"] for host in run("provision")["hosts"].values())
        what_is_ready_is_left_alone_and_what_is_not_is_refused(run, lab, inside)
        (board,) = run("flash")["hosts"].values()
        assert board["greeting"].startswith("m2m-board/1 th01 ")
        checks = [one for host in run("doctor")["hosts"].values() for one in host["findings"]]
        amiss = {one["check"] for one in checks if one["grade"] != "ok"}
        assert amiss <= {"disk", "time sync"}, "small disks; the clock is the real machine's"
        a_console_shows_what_a_board_says_and_no_run_begins_meanwhile(lab)

        with ThreadPoolExecutor(1) as beside:
            cut = beside.submit(cut_power, lab, "pi03", tmp_path / "runs")
            summary = run("run", str(campaign), "--out", str(tmp_path / "runs"))
            cut.result()
        assert summary["verdict"] == "passed", "a host may lose its power, and comes back"
        assert summary["stage"] == "emulated"
        assert summary["ledger_verified"]
        (crash,) = summary["faults"]
        assert crash["applied"]
        assert crash["observed"]
        assert crash["healed"]
        has_what_hosts_said_and_no_secret(summary, set(found))

        standing = run("status")["hosts"].values()
        assert [host["standing"] for host in standing] == [[]] * 4, "a run leaves nothing standing"
        assert all(host["holder"] is None for host in standing)
        a_unit_that_was_left_refuses_a_run_until_restore(run, inside, campaign)
        run("deprovision")
        assert not run("status", "--limit", "pi02")["hosts"]["pi02"]["ready"]
        services = inside.run(["ls", "/etc/systemd/system"]).stdout.split()
        left = [name for name in services if name.startswith("testbed-")]
        assert left == ["testbed-m2m-.service.d", "testbed-sshd.service"], "the machine's own"


def a_clock_is_behind_at_each_start_until_time_sync_steps_it(lab: EmulatedLab) -> None:
    """What starts with the host starts in the past, as on a Raspberry Pi; who logs in later sees
    the right time."""
    unit = "[Unit]\nAfter=testbed-sshd.service\n[Service]\nType=oneshot\n"
    unit += "ExecStart=/bin/sh -c 'date +%%s >/home/pi/started'\n[Install]\n"
    unit += "WantedBy=multi-user.target\n"
    place = "/etc/systemd/system/early.service"
    with host(lab, "pi04") as inside:
        sudo(inside, f'printf %s "$1" >{place}; systemctl enable early', unit)
    lab.reboot("pi04")
    with host(lab, "pi04") as inside:
        started_s = int(inside.run(["cat", "/home/pi/started"]).stdout)
        now_s = int(inside.run(["date", "+%s"]).stdout)
    with host(lab, "pi01") as other:
        assert abs(now_s - int(other.run(["date", "+%s"]).stdout)) < CLOCK_BEHIND_S / 3
    assert started_s < now_s - CLOCK_BEHIND_S / 2
    clocks = {one["clock"] for one in lab.ask(do="status")["hosts"].values()}
    assert clocks == {"right"}


def has_modules_of_its_own(lab: EmulatedLab) -> None:
    """ROS exports PYTHONPATH in .bashrc, and somebody's package may be called nodes."""
    with host(lab, "pi01", root="/home/pi") as inside:
        inside.put(b"raise SystemExit('the wrong package')", "ros/nodes/__init__.py")
        inside.put(b"echo Hello; export PYTHONPATH=/home/pi/ros\n", ".bashrc")


def a_dry_run_changes_nothing(run: Run, inside: SshHost) -> None:
    """And says what is to be done: all of it."""
    before = inside.run(["find", "."]).stdout
    changes = run("provision", "--check", "--limit", "pi02")["hosts"]["pi02"]["changes"]
    assert [change.split()[0] for change in changes] == ["environment", "keys"]
    assert inside.run(["find", "."]).stdout == before


def what_is_ready_is_left_alone_and_what_is_not_is_refused(
    run: Run, lab: EmulatedLab, inside: SshHost
) -> None:
    """A run needs exactly our code; `provision` replaces what differs, and nothing else."""

    def provision(*options: str) -> dict[str, Any]:
        found: dict[str, Any] = run("provision", "--limit", "pi02", *options)["hosts"]["pi02"]
        return found

    def refused(why: str) -> None:
        with (
            pytest.raises(ConfigurationError, match=rf"{why}.*\n.*--limit pi02"),
            ssh_hosts(load_lab(lab.inventory), ["pi02"]) as hosts,
        ):
            interpreters(hosts)

    def kept() -> tuple[bytes, str]:
        return inside.get("pi02/keys/key.pem"), inside.run(["stat", "-c", "%i", "env"]).stdout

    assert inside.run(["stat", "-c", "%a", "pi02/keys/key.pem"]).stdout == "600\n"
    assert "wheelhouse" not in inside.run(["ls"]).stdout, "archives take no room afterwards"
    again = provision()
    assert (again["changes"], set(again["steps_s"])) == ([], {"looking"})

    package = "cd env/lib/*/site-packages/nodes/replica"
    inside.run(["sh", "-c", f"{package} && mv process.py moved"])
    refused("missing or changed")
    (change,) = provision("--check")["changes"]
    assert change.startswith("environment")
    inside.run(["sh", "-c", f"{package} && mv moved process.py"])

    made = kept()
    stamp = json.loads(inside.get("env/stamp.json")) | {"code": "older"}
    inside.put(json.dumps(stamp).encode(), "env/stamp.json")
    refused("another version")
    assert provision()["changes"] == ["our code"]
    assert made == kept(), "nothing else"


def a_console_shows_what_a_board_says_and_no_run_begins_meanwhile(lab: EmulatedLab) -> None:
    """Ctrl-] ends it, and the host is free again."""
    (board, *_) = lab.plan.boards
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "testbed.cli", "console", board.name, "-i", str(lab.inventory)]
    console = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    heard = bytearray()

    def hear(word: bytes) -> None:
        while word not in heard:
            heard.extend(os.read(ours, 4096))

    try:
        hear(b"Miniterm")
        printed = run_testbed("status", "--limit", board.host, "-i", str(lab.inventory), "--json")
        assert "console" in json.loads(printed.stdout)["hosts"][board.host]["holder"]["what"]
        command(lab.board_control(board.name), "reset")
        hear(f"m2m-board/1 {board.name} ".encode())
        os.write(ours, b"\x1d")
        hear(b"--- exit ---")
        assert console.wait(60) == 0, bytes(heard)
    finally:
        console.kill()
        console.wait()
        os.close(ours)


def a_unit_that_was_left_refuses_a_run_until_restore(
    run: Run, inside: SshHost, campaign: Path
) -> None:
    inside.start(Unit("left", ("sleep", "600")))
    refused = run("run", str(campaign), "--out", str(campaign.parent / "runs"), code=3)
    assert "pi02 is not clean" in refused["error"]["message"]
    assert "testbed restore" in refused["error"]["message"]
    cleaned = run("restore")["hosts"]
    assert "unit left" in cleaned["pi02"]["cleaned"]
    assert leftover(inside).lines == []
    assert run("status", "--limit", "pi02")["hosts"]["pi02"]["holder"] is None


def has_what_hosts_said_and_no_secret(summary: dict[str, Any], hosts: set[str]) -> None:
    raw = Path(summary["bundle"], summary["runs"][0]["path"], "raw")
    clocks = (raw / "clock.jsonl").read_text().splitlines()
    readings = [json.loads(line) for line in clocks]
    assert {one["when"] for one in readings} == {"before", "during", "after"}
    assert {one["host"] for one in readings} == hosts
    assert all(one["bound_ms"] < 50 for one in readings if "bound_ms" in one)
    names = {path.name for path in Path(summary["bundle"]).rglob("*")}
    assert not names & {"key.pem", "host.key", "passwords.json", "voucher.pem"}
    serial = (raw / "serial/th01.log").read_text()
    assert '"from-board"' in serial, "the flashed board talked"
