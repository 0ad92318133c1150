"""What is wrong with a lab is said before a run, with what fixes it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from inventory.load import load_lab
from testbed import cli
from testbed.boards.ports import SerialPort
from testbed.care.clock import ClockReading
from testbed.care.dead_man import Armed
from testbed.care.quarantine import blocked
from testbed.doctor import Condition, DoctorFinding, Examined, compare, judge
from testbed.hosts.port import NO_ROOT_FIX
from tests.testbed.hosts_support import free_port, ssh_server_missing
from tests.testbed.lab_support import ssh_lab

INVENTORY = """\
schema: testbed.inventory/1
lab: sick
chain: {f: 0}
defaults: {net: {mgmt: eth0, data: eth1}, clock: {max_error: 1ms}}
hosts:
  pi01: {addr: 10.0.0.1, hw_serial: "abc1", roles: [replica, gateway, broker, environment],
         caps: [netem, nft]}
boards:
  th01: {host: pi01, match: {usb_serial: "E1"}, firmware: {board: rp2040}}
  th02: {host: pi01, firmware: {board: unix}}
"""
WELL = Condition(
    boot="a",
    wall_minus_monotonic_ns=10**18,
    load=0.5,
    hw_serial="ABC1",
    temperature_c=50.0,
    throttled=0,
    synchronised=True,
    disk_free_mb=4000,
    interfaces=["eth0", "eth1", "lo"],
    tools=["tc", "nft"],
    systemd=True,
    machine="x86_64",
    netem=True,
    sudo_problem="",
    sudo_s=0.1,
    name_resolves=True,
    unwritable="",
    noexec=False,
    machine_id="m1",
    host_key="ssh-ed25519 k1",
)
PORT = SerialPort("/dev/serial/by-id/x", "/dev/ttyACM0", "E1", "1-1:1.0")
FIT = Examined(WELL, ClockReading(0.2, 0.1, 0), (PORT,), ("th01",), lack="")


def findings(tmp_path: Path, seen: Examined) -> list[DoctorFinding]:
    path = tmp_path / "lab.yaml"
    path.write_text(INVENTORY)
    return list(judge(load_lab(path), "pi01", seen))


def test_a_healthy_host_has_nothing_to_mend(tmp_path: Path) -> None:
    found = findings(tmp_path, FIT)
    assert {finding.grade for finding in found} == {"ok"}
    assert len(found) >= 8


@pytest.mark.parametrize(
    ("condition", "check", "grade", "fix"),
    [
        ({"hw_serial": "ffff"}, "hardware", "failed", "another machine"),
        ({"hw_serial": ""}, "hardware", "failed", "another machine"),
        ({"temperature_c": 81.0}, "temperature", "failed", "fan"),
        ({"throttled": 0x50005}, "power", "failed", "power supply"),
        ({"throttled": 0x50000}, "power", "warning", "power supply"),
        ({"disk_free_mb": 50}, "disk", "failed", "remove files"),
        ({"disk_free_mb": 300}, "disk", "warning", "remove files"),
        ({"synchronised": False}, "time sync", "warning", "set-ntp"),
        ({"interfaces": ["eth0", "lo"]}, "network", "failed", "net.data"),
        ({"tools": ["tc"]}, "nft", "failed", "apt-get install nftables"),
        ({"sudo_problem": "sudo: a password is required"}, "netem", "failed", NO_ROOT_FIX),
        ({"sudo_s": 10.2, "name_resolves": False}, "sudo", "warning", "/etc/hosts"),
        ({"unwritable": "Read-only file system"}, "file system", "failed", "card"),
        ({"noexec": True}, "file system", "failed", "noexec"),
        ({"netem": False}, "netem", "failed", "sch_netem"),
        ({"systemd": False}, "systemd", "failed", "Raspberry Pi OS"),
        ({"machine": "aarch64"}, "board th02", "failed", "plug in a device"),
    ],
)
def test_each_trouble_is_found_and_its_fix_said(
    tmp_path: Path, condition: dict[str, object], check: str, grade: str, fix: str
) -> None:
    sick = replace(FIT, condition=msgspec.structs.replace(WELL, **condition))
    found = [one for one in findings(tmp_path, sick) if one.grade != "ok"]
    (finding,) = [one for one in found if one.check == check]
    assert finding.grade == grade
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("offset_ms", "bound_ms", "grade"),
    [(0.5, 0.1, "ok"), (1.05, 0.1, "ok"), (-3.0, 0.1, "failed"), (0.0, 4.0, "warning")],
)
def test_a_clock_is_judged_by_what_is_certain(
    tmp_path: Path, offset_ms: float, bound_ms: float, grade: str
) -> None:
    """Wrong only if it is wrong whatever the round trip did; unknown if the bound is too wide."""
    seen = replace(FIT, clock=ClockReading(offset_ms, bound_ms, 0))
    assert [f.grade for f in findings(tmp_path, seen) if f.check == "clock"] == [grade]


@pytest.mark.parametrize(
    ("ports", "flashed", "grade", "says"),
    [
        ((), (), "failed", "not found; ports: none"),
        ((replace(PORT, usb_serial="E2"),), (), "failed", "E2"),
        ((PORT, replace(PORT, path="/dev/y")), ("th01",), "failed", "2 ports match"),
        ((PORT,), (), "warning", "not flashed"),
    ],
)
def test_a_board_is_exactly_one_port_and_flashed(
    tmp_path: Path, ports: tuple[SerialPort, ...], flashed: tuple[str, ...], grade: str, says: str
) -> None:
    seen = replace(FIT, ports=ports, flashed=flashed)
    (finding,) = [f for f in findings(tmp_path, seen) if f.check == "board th01"]
    assert finding.grade == grade
    assert says in finding.says
    assert finding.fix


def test_copied_cards_and_clocks_that_are_too_far_apart_are_found_together(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    hosts = "".join(f"  p{n}: {{addr: 10.0.0.{n}, roles: [replica]}}\n" for n in range(4))
    path.write_text(
        "schema: testbed.inventory/1\nlab: four\nchain: {precision: 100ms}\n"
        f"defaults: {{clock: {{max_error: 1s}}}}\nhosts:\n{hosts}"
    )

    def host(number: int, offset_ms: float, **changes: str) -> Examined:
        ids = {"machine_id": f"m{number}", "host_key": f"ssh-ed25519 k{number}"}
        condition = msgspec.structs.replace(WELL, **{**ids, **changes})
        return replace(FIT, condition=condition, clock=ClockReading(offset_ms, 5, 0))

    def found(seen: dict[str, Examined]) -> dict[str, list[str]]:
        together = compare(load_lab(path), seen)
        return {name: [one.check for one in some] for name, some in together.items() if some}

    assert found({f"p{n}": host(n, 20 * n) for n in range(4)}) == {}
    copied = {"p0": host(0, 0), "p1": host(1, 0, machine_id="m0", host_key="ssh-ed25519 k0")}
    assert found(copied) == {name: ["host key", "machine id"] for name in copied}
    assert found({"p0": host(0, -60), "p1": host(1, 0), "p2": host(2, 60)}) == {
        "p0": ["clocks"],
        "p2": ["clocks"],
    }, "-60 ms and 60 ms are 110 ms apart at least"
    unknown = {"p0": host(0, 0, machine_id="", host_key=""), "p1": host(1, 0)}
    unknown["p2"] = unknown["p0"]
    assert found(unknown) == {}, "an unknown value is equal to nothing"


def test_an_undo_that_waited_for_somebody_to_look_is_reported(tmp_path: Path) -> None:
    seen = replace(FIT, woken=(Armed("start-r1", 0), Armed("heal", 30)))
    now, later = [f for f in findings(tmp_path, seen) if f.check == "undo"]
    assert "start-r1 waited since a restart; it runs now" in now.says
    assert "in 30 s" in later.says
    assert "testbed restore" in later.fix


def test_a_host_is_offered_for_quarantine_only_where_the_chain_survives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five replicas, none of which answers: with three no faulty one is borne."""
    inventory = tmp_path / "lab.yaml"
    ssh = f"ssh: {{port: {free_port()}}}"
    hosts = "".join(f"  p{n}: {{addr: 127.0.0.1{n}, roles: [replica], {ssh}}}\n" for n in range(5))
    inventory.write_text(f"schema: testbed.inventory/1\nlab: dark\nhosts:\n{hosts}")
    assert cli.main(["doctor", "-i", str(inventory)]) == 3
    lines = capsys.readouterr().out.splitlines()
    ways = [line.partition(": testbed ")[2] for line in lines if line.startswith("to go on")]
    assert [way.split()[:2] for way in ways] == [["quarantine", "p0"]]
    assert "--lower-f" not in ways[0]
    assert cli.main(shlex.split(ways[0])) == 0
    assert "no run without p1, p2, p3, p4: n = 3 tolerates no faulty replica" in lines


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_what_mends_several_hosts_is_said_once_for_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And no host is called fit for a run that is not provisioned."""
    with ssh_lab(tmp_path, ("replica", "replica")) as lab:
        i = str(lab.inventory)
        cli.main(["doctor", "-i", i])
        said = capsys.readouterr().out
        assert "ready for a run: 0" in said
        assert said.count("testbed provision") == 1
        assert f"fix pi01, pi02: testbed provision -i {i}\n" in said
        cli.main(["doctor", "-i", i, "--limit", "pi02"])
        assert f"fix pi02: testbed provision -i {i} --limit pi02\n" in capsys.readouterr().out


def test_the_only_gateway_is_never_offered_for_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    more = "".join(f"  p{n}: {{addr: 10.0.1.{n}, roles: [replica]}}\n" for n in range(5))
    more += "  phones: {addr: 10.0.1.9, roles: [mobile]}\n"
    path.write_text(INVENTORY.split("boards:", maxsplit=1)[0].replace("chain: {f: 0}\n", "") + more)
    assert "no active host has role broker" in blocked(load_lab(path), ["pi01"])
    assert blocked(load_lab(path), ["p0"]) == ""


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_live_an_unknown_machine_is_shown_trusted_by_hand_and_then_examined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reflashed SD card: no prompt, no auto-accept, the fingerprint and the command."""
    with ssh_lab(tmp_path, ("replica", "replica"), dead=("pi02",)) as lab:
        i = str(lab.inventory)
        known = tmp_path / "sshd-pi01" / "known_hosts"
        right = known.read_text()
        known.write_text("")
        assert cli.main(["doctor", "-i", i]) == 3
        said = capsys.readouterr()
        fingerprint = said.err.partition("SHA256:")[2].split()[0]
        assert "testbed inventory trust pi01 -i" in said.err
        assert "sound: 0 of 2 hosts; ready for a run: 0" in said.out
        trust = ["inventory", "trust", "pi01", "-i", i]
        known.write_text(f"{right.split()[0]} ssh-ed25519 A\n")
        for words, code in ((trust, 2), (["doctor", "-i", i, "--limit", "pi01"], 3)):
            assert cli.main(words) == code
            assert f"cannot read known hosts {known}" in capsys.readouterr().err
        known.write_text("")
        assert cli.main(trust) == 2, "without a terminal it never asks"
        assert cli.main([*trust, "--fingerprint", "SHA256:other"]) == 2
        assert cli.main([*trust, "--check"]) == 0
        assert f"would be trusted in {known}" in capsys.readouterr().out
        assert known.read_text() == "", "nothing was accepted by itself"
        capsys.readouterr()
        assert cli.main([*trust, "--fingerprint", f"SHA256:{fingerprint}"]) == 0
        assert known.read_text() == right
        assert cli.main(trust) == 0, "a key that is trusted needs no question"
        assert "pi01 is trusted already" in capsys.readouterr().out
        assert cli.main(["inventory", "trust", "pi02", "-i", i]) == 3
        capsys.readouterr()
        assert cli.main(["doctor", "-i", i, "--json"]) == 4
        report = json.loads(capsys.readouterr().out)["hosts"]
        assert not report["pi02"]["ok"]
        grades = {one["check"]: one["grade"] for one in report["pi01"]["findings"]}
        assert grades["clock"] == "ok"
        assert grades["software"] == "warning"
        assert cli.main(["inventory", "discover", "-i", i, "--json"]) == 4
        discovered = capsys.readouterr()
        assert list(json.loads(discovered.out)) == ["pi01"]
        assert "pi02" in discovered.err, "whoever is left out is named, and why"
        assert cli.main(["inventory", "discover", "-i", i]) == 4
        assert "hosts:\n  pi01:" in capsys.readouterr().out


def test_a_lab_of_this_machine_alone_has_nothing_to_examine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "nothing to do: no host is reached over SSH\n"
