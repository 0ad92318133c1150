"""What makes a lab's user furious, done to an emulated lab: real hosts, real boards, real runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nodes.board.control import command
from testbed.care.clock import read_clock
from testbed.care.conditions import open_facts
from testbed.care.restore import QDISC_HANDLE, TABLE_COMMENT
from testbed.emulate.lab import EmulatedLab
from testbed.emulate.plan import EmulatedBoard
from testbed.hosts.ssh import SshHost
from testbed.provision.configs import EVENTS
from tests.testbed.command_line import run_testbed
from tests.testbed.emulate_support import emulated, host, sudo
from tests.testbed.hosts_support import eventually

pytestmark = [pytest.mark.lab, pytest.mark.soak]

CALM = """\
schema: testbed.campaign/1
campaign: calm
workload: {kind: enrol+data, rate: 5/s, arrivals: poisson, timeout: 5s}
phases: {warmup: 2s, watched: 10s}
expect: {safety: [agreement, validity, exactly-once, no-unauthorised-commit]}
"""
SANDBOX = {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "RestrictNamespaces": "yes"}
OPEN = """
import serial, sys
try:
    serial.Serial(sys.argv[1], exclusive=True)
except serial.SerialException as error:
    print(error)
"""


class Bench:
    """A provisioned lab, and our own command line."""

    def __init__(self, lab: EmulatedLab, files: Path) -> None:
        self.lab = lab
        self.files = files

    def begin(self, *words: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "testbed.cli", *words, "-i", str(self.lab.inventory)]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, cwd=self.files)

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        done = run_testbed(*words, "-i", str(self.lab.inventory), "--json")
        assert done.returncode == code, done.stdout + done.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def reach(self, process: subprocess.Popen[str], what: Callable[[], bool]) -> None:
        """Until a process has come so far; fails with what it said if it ends before."""
        eventually(lambda: what() or process.poll() is not None, 120)
        assert process.poll() is None, process.communicate()

    def campaign(self, text: str) -> str:
        path = self.files / f"{text.split()[3]}.yaml"
        path.write_text(text)
        return str(path)

    def during(self, campaign: str, phase: str, do: Callable[[], None]) -> dict[str, Any]:
        """Run a campaign, do something in a phase of it; the summary."""
        out = self.files / "runs"
        before = set(out.glob("*"))
        process = self.begin("run", self.campaign(campaign), "--out", str(out), "--json")
        self.reach(process, lambda: passed(out, before, f'"{phase}"'))
        do()
        said, err = process.communicate()
        assert said, err
        summary: dict[str, Any] = json.loads(said)
        return summary


def passed(out: Path, before: set[Path], word: str) -> bool:
    """Whether a new run has written that word."""
    logs = (log for new in set(out.glob("*")) - before for log in new.rglob("raw/run.jsonl"))
    return any(word in log.read_text() for log in logs)


@pytest.fixture
def bench(made: Bench) -> Bench:
    """Ready for a run; nothing is done if nobody edits our code meanwhile."""
    made.run("provision")
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    files = tmp_path_factory.mktemp("lab")
    with emulated(files / "lab", hosts=4, boards=2) as lab:
        ready = Bench(lab, files)
        ready.run("provision")
        ready.run("flash")
        yield ready


def test_an_unplugged_board_is_reported_and_undervoltage_makes_a_run_invalid(bench: Bench) -> None:
    """Items 6, 7 and 12: a board is missed, opened again, and its port is ours alone; plausible
    numbers from a starved host do not count. And our processes are hardened services."""
    for name in ("pi01", "pi02", "pi03"):
        bench.lab.throttle(name, 0)
    board = bench.lab.plan.boards[0]
    control = bench.lab.board_control(board.name)
    refused: list[str] = []
    held: dict[str, str] = {}

    def interfere() -> None:
        bench.lab.throttle("pi02", 0x50005)
        asked = ",".join((*SANDBOX, "ControlGroup", "ActiveState"))
        show = ["systemctl", "show", "-p", asked, "testbed-m2m-pi02.service"]
        answer = host(bench.lab, "pi02").run(show).stdout
        held.update(line.partition("=")[::2] for line in answer.splitlines())
        inside = host(bench.lab, board.host)
        port = f"/dev/serial/by-id/{board.port}"
        second = [f"{inside.root}/env/bin/python", "-c", OPEN, port]
        refused.append(inside.run(second).stdout)
        eventually(lambda: states(inside, board).count("connected") == 1)
        command(control, "unplug")
        eventually(lambda: any("lost" in state for state in states(inside, board)))
        command(control, "plug")
        eventually(lambda: states(inside, board).count("connected") == 2)

    try:
        summary = bench.during(CALM, "watched", interfere)
    finally:
        for machine in bench.lab.plan.machines:
            bench.lab.throttle(machine.name, None)
    assert summary["verdict"] == "invalid"
    notes = " ".join(summary["notes"])
    assert "this run does not count: pi02: undervoltage, throttled during the run" in notes
    assert "not known of pi04: whether they were throttled" in notes, "never taken for fine"
    (of_run,) = [row["summary"] for row in summary["runs"]]
    assert all(each["held"] for each in of_run["properties"]), "it is the figures that do not"
    assert {**SANDBOX, "ActiveState": "active"}.items() <= held.items()
    assert held["ControlGroup"].endswith("/testbed-m2m-pi02.service")
    assert "exclusively lock" in refused[0], "two readers would split the bytes"
    notes_of_board = [
        note for note in summary["notes"] if note.startswith(f"board {board.name} was out")
    ]
    assert notes_of_board, summary["notes"]


def test_board_list_and_status_say_who_reads_a_plugged_board(bench: Bench) -> None:
    """A plugged board is no process: its device reads it, or nobody does."""
    board = bench.lab.plan.boards[0]
    control = bench.lab.board_control(board.name)

    def seen() -> dict[str, Any]:
        boards: Any = bench.run("board", "list")
        (found,) = (dict(each) for each in boards if each["name"] == board.name)
        return found

    idle = seen()
    assert (idle["state"], idle["reader"]) == ("not read", None)
    assert idle["why"] == "flashed; no process reads it"
    assert idle["port"] == f"/dev/serial/by-id/{board.port}"
    assert idle["current"]
    up = bench.begin("up", "--detach", "--every", "500ms")
    assert up.wait(120) == 0, up.communicate()
    try:
        eventually(lambda: seen()["reading_s"] is not None)
        read = seen()
        assert (read["state"], read["reader"]) == ("read", f"{board.host}-environment")
        status = bench.run("status")
        assert board.name not in [each["name"] for each in status["processes"]]
        (of_board, *_) = status["hosts"][board.host]["boards"]
        assert (of_board["name"], of_board["state"], of_board["reader"]) == (
            board.name,
            "read",
            read["reader"],
        )
        command(control, "unplug")
        eventually(lambda: seen()["state"] == "unplugged")
        command(control, "plug")
        eventually(lambda: seen()["state"] == "read")
    finally:
        bench.run("down")
    assert seen()["state"] == "not read"


def states(inside: SshHost, board: EmulatedBoard) -> list[str]:
    """What a board's host has said of it during the run that goes on."""
    name = f"{board.host}-environment"
    events = inside.run(["cat", f"{name}/{EVENTS}"], check=False).stdout.splitlines()
    return [
        line["state"]
        for line in map(json.loads, events)
        if line["event"] == "board" and line["board"] == board.name
    ]


def test_restore_removes_our_rules_and_nobody_elses(bench: Bench) -> None:
    """Item 3: only what carries our mark."""
    inside = host(bench.lab, "pi03")
    sudo(inside, "nft add table inet theirs")
    sudo(inside, f"nft 'add table inet testbed-cut {{ comment \"{TABLE_COMMENT}\"; }}'")
    sudo(inside, f"tc qdisc add dev eth1 root handle {QDISC_HANDLE} pfifo limit 7")
    sudo(inside, "tc qdisc add dev lo root handle 9: pfifo limit 9")
    found = bench.run("restore", "--limit", "pi03")["hosts"]["pi03"]["cleaned"]
    assert "filter table inet testbed-cut" in found
    assert any("on eth1" in line for line in found)
    assert sudo(inside, "nft list tables") == "table inet theirs\n"
    assert "limit 9p" in sudo(inside, "tc qdisc show dev lo")
    assert "limit 7p" not in sudo(inside, "tc qdisc show dev eth1")


def test_a_shaped_data_network_spoils_neither_clocks_nor_commands(bench: Bench) -> None:
    """Items 2 and 4: the way of SSH and of the clock is another cable."""
    if bench.lab.plan.shaping != "switch":
        pytest.skip("this kernel has netem: links are shaped with tc")
    names = [machine.name for machine in bench.lab.plan.machines]
    try:
        for name in names:
            for other in names:
                if other != name:
                    bench.lab.shape(name, other, {"delay_ms": 2000.0, "loss": 0.9}, 0)
        with host(bench.lab, "pi01") as inside, open_facts(inside, "python3") as clock:
            assert read_clock(clock).bound_ms < 1000
    finally:
        bench.lab.ask(do="clear")


def test_a_host_that_is_off_stops_a_run_before_it_begins_and_n_does_not_shrink(
    bench: Bench,
) -> None:
    """Item 8: what is missing is named; fewer replicas only if the inventory says so."""
    bench.lab.power("pi04", "off")
    try:
        out = bench.files / "none"
        refused = bench.run("run", bench.campaign(CALM), "--out", str(out), code=3)
        assert "pi04" in refused["error"]["message"]
        partly = bench.run("provision", code=4)
        assert [name for name, one in partly["hosts"].items() if not one["ok"]] == ["pi04"]
        printed = run_testbed("provision", "-i", str(bench.lab.inventory))
        assert printed.returncode == 4
        assert "retry: testbed provision -i" in printed.stderr
        assert "--limit pi04" in printed.stderr
    finally:
        bench.lab.power("pi04", "on")


def test_a_host_behind_a_jump_host_is_trusted_and_used_through_it(bench: Bench) -> None:
    """Item 10: the fingerprint is shown and compared, also of a machine that only another reaches;
    a changed key is reported with both fingerprints and the command that trusts the new one."""
    far = host(bench.lab, "pi02")
    block = f"add rule inet gone i ip saddr {bench.lab.plan.own_addr} drop"
    inventory = bench.lab.out / "jump.yaml"
    text = bench.lab.inventory.read_text()
    addr = next(m.addr for m in bench.lab.plan.machines if m.name == "pi02")
    inventory.write_text(
        text.replace("known_hosts: ./known_hosts", "known_hosts: ./jump_hosts").replace(
            f"    addr: {addr}\n",
            f"    addr: {addr}\n    ssh: {{jump: pi01, connect_timeout: 8s}}\n",
        )
    )
    known = (bench.lab.out / "known_hosts").read_text()
    jump_hosts = bench.lab.out / "jump_hosts"
    stale = f"{addr} {known.split()[1]} {known.split()[2]}\n"  # pi01's key, at pi02's address
    jump_hosts.write_text(
        "".join(f"{one}\n" for one in known.splitlines() if addr not in one) + stale
    )
    true_key = sudo(far, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key").split()[1]

    def through_the_jump_host(*words: str) -> subprocess.CompletedProcess[str]:
        return run_testbed(*words, "-i", str(inventory))

    cut = "nft -f - <<end\nadd table inet gone\nadd chain inet gone i { type filter hook input "
    cut += f"priority 0; }}\n{block}\nend\n"
    gate = host(bench.lab, "pi01")
    with host(bench.lab, "pi02", jump=gate) as inside:  # the way that stays open
        sudo(inside, cut)
    far.close()
    try:
        changed = through_the_jump_host("status", "--limit", "pi02")
        assert changed.returncode == 3
        assert "the host key CHANGED" in changed.stderr
        assert true_key in changed.stderr
        assert "testbed inventory trust" in changed.stderr
        trust = ("inventory", "trust", "pi02", "--fingerprint")
        shown = through_the_jump_host(*trust, "SHA256:other")
        assert shown.returncode == 2
        assert true_key in shown.stdout
        assert through_the_jump_host(*trust, true_key).returncode == 0
        assert through_the_jump_host("status", "--limit", "pi02").returncode == 0
    finally:
        with host(bench.lab, "pi02", jump=gate) as inside:
            sudo(inside, "nft delete table inet gone")
        inventory.unlink()
        jump_hosts.unlink()
    assert far.run(["true"]).exit_code == 0


def test_a_read_only_card_is_found_and_the_host_is_still_shown(bench: Bench) -> None:
    """A dying SD card: `doctor` says so, `status` still answers, nobody gets a lock there."""
    inside = host(bench.lab, "pi03")
    sudo(inside, "mount -o remount,ro /")
    try:
        seen = bench.run("doctor", "--limit", "pi03", code=3)["hosts"]["pi03"]["findings"]
        (found,) = [finding for finding in seen if finding["check"] == "file system"]
        assert (found["grade"], found["says"]) == ("failed", "cannot write: Read-only file system")
        assert bench.run("status", "--limit", "pi03")["hosts"]["pi03"]["ready"]
        refused = bench.run("lock", "--limit", "pi03", code=3)["hosts"]["pi03"]["problem"]
        assert "Read-only file system" in refused
        assert "sudo mount -o remount,rw /" in refused
    finally:
        sudo(inside, "mount -o remount,rw /")


def test_a_login_may_export_what_it_likes_and_a_noexec_home_is_named(bench: Bench) -> None:
    """ROS exports PYTHONPATH, with a package of any name there."""
    inside = host(bench.lab, "pi02")
    inside.run(["sh", "-c", "mkdir -p nodes; echo 'raise SystemExit(9)' >nodes/__init__.py"])
    export = 'echo "export PYTHONPATH=$HOME/testbed" | cat - ~/.bashrc >b && mv b ~/.bashrc'
    inside.run(["sh", "-c", f"cp ~/.bashrc keep; {export}"])
    try:
        bench.run("provision", "--limit", "pi02")
        bench.run("doctor", "--limit", "pi02")
    finally:
        inside.run(["sh", "-c", "mv keep ~/.bashrc; rm -rf nodes"])
    sudo(inside, f"mount -t tmpfs -o noexec,uid={inside.facts.uid} tmpfs {inside.root}")
    try:
        seen = bench.run("doctor", "--limit", "pi02", code=3)["hosts"]["pi02"]["findings"]
        assert "our directory is mounted noexec" in [finding["says"] for finding in seen]
    finally:
        sudo(inside, f"umount --lazy {inside.root}")
