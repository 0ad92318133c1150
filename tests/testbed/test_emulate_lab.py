"""An emulated lab is a lab: real SSH, private machines, power, links, and no trace afterwards."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from inventory.load import load_lab
from nodes.board.control import command
from testbed import cli
from testbed.care.clock import read_clock
from testbed.care.conditions import Conditions, open_facts, read_facts
from testbed.emulate import preflight
from testbed.emulate.disk import CLOCK_BEHIND_S
from testbed.emulate.lab import EmulatedLab, down, elsewhere, find, up
from testbed.emulate.plan import EmulationOptions
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.port import HostFault, OutcomeUnknown, Unit, UnitState, Unreachable
from testbed.hosts.ssh import SshHost
from tests.testbed.emulate_support import (
    emulated,
    emulation_missing,
    host,
    sudo,
    traces,
)
from tests.testbed.hosts_support import eventually

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(bool(emulation_missing()), reason=emulation_missing()),
]

TBF = "rate 10mbit burst 16kb latency 50ms"
ECHO = """
import socket
server = socket.create_server(("", 7000))
while True:
    peer, _ = server.accept()
    word = peer.recv(100)
    peer.sendall(word)
    if word == b"end":
        break
"""
CALL = """
import socket, sys, time
began = time.monotonic()
with socket.create_connection((sys.argv[1], 7000), timeout=float(sys.argv[2])) as peer:
    peer.sendall(sys.argv[3].encode())
    assert peer.recv(100)
print((time.monotonic() - began) * 1000)
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLab]:
    with emulated(tmp_path_factory.mktemp("lab") / "out", hosts=3, boards=1) as running:
        yield running


def test_its_files_are_an_inventory_like_any_other(lab: EmulatedLab) -> None:
    """The loader accepts it, and the private key is nobody else's."""
    loaded = load_lab(lab.inventory)
    assert loaded.stage_name() == "emulated"
    assert list(loaded.hosts) == ["pi01", "pi02", "pi03"]
    assert {b.host for b in loaded.boards.values()} == {lab.plan.boards[0].host}
    assert stat.S_IMODE((lab.out / "id_ed25519").stat().st_mode) == 0o600


def test_every_host_is_a_machine_of_its_own(lab: EmulatedLab) -> None:
    """Own name, files, processes, boot id, hardware serial; and all reached at once over SSH."""
    names = [machine.name for machine in lab.plan.machines]
    look = (
        "hostname; cat /proc/sys/kernel/random/boot_id; grep ^Serial /proc/cpuinfo; sudo touch /me"
    )
    with ThreadPoolExecutor(3) as pool:
        seen = list(pool.map(lambda name: host(lab, name).run(["sh", "-c", look]).stdout, names))
    assert [text.split()[0] for text in seen] == names
    assert len({text.split()[1] for text in seen}) == len(names)
    for machine, text in zip(lab.plan.machines, seen, strict=True):
        assert text.endswith(f"{machine.hw_serial}\n")
    assert not Path("/me").exists()
    processes = host(lab, "pi01").run(["ps", "ax", "-o", "args"]).stdout
    assert "pytest" not in processes
    assert str(os.getpid()) not in host(lab, "pi01").run(["ls", "/proc"]).stdout.split()


def test_processes_see_the_boot_id_of_their_host(lab: EmulatedLab) -> None:
    """Hardened units too: by it reports know which clock a process's times are of."""
    inside, path = host(lab, "pi01"), "/proc/sys/kernel/random/boot_id"
    run = f"systemd-run -q --pipe --unit testbed-m2m-look -p ProtectKernelTunables=yes cat {path}"
    assert sudo(inside, run) == inside.run(["cat", path]).stdout


def test_nothing_personal_of_this_machine_is_seen_inside(lab: EmulatedLab) -> None:
    inside = host(lab, "pi01")
    assert inside.run(["ls", "-A", "/home"]).stdout == "pi\n"
    assert set(inside.run(["ls", "-A", "/home/pi"]).stdout.split()) <= {".ssh", "testbed"}
    assert sudo(inside, "ls -A /root/.ssh; ls /root") == ""
    top = set(inside.run(["ls", "-A", "/"]).stdout.split())
    assert not top - {
        *("bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt", "me"),
        *("boot", "dev", "home", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp"),
    }
    assert "$" not in sudo(inside, "cat /etc/shadow"), "no password hash"


def test_hosts_are_as_unforgiving_as_the_field(lab: EmulatedLab) -> None:
    """A login without root, a name that nothing resolves, a strict umask, another language."""
    pi01, pi02, pi03 = (host(lab, machine.name) for machine in lab.plan.machines)
    for inside in (pi01, pi02, pi03):
        assert inside.run(["id", "-un"]).stdout == "pi\n"
        assert inside.run(["sudo", "-n", "id", "-u"]).stdout == "0\n"
        assert inside.run(["getent", "hosts", inside.name], check=False).exit_code != 0
    limits = sudo(pi01, "mkdir -p /run/sshd; /usr/sbin/sshd -T").splitlines()
    assert {"maxsessions 10", "maxstartups 10:30:100"} <= set(limits), "OpenSSH's own"
    assert pi01.run(["sh", "-c", "umask"]).stdout == "0022\n"
    assert pi02.run(["sh", "-c", "umask"]).stdout == "0077\n"
    assert "LC_ALL=de_DE.UTF-8" in pi03.run(["sh", "-c", ". ~/.bashrc; locale"]).stdout
    assert "LC_ALL=C.UTF-8" in pi03.run(["locale"]).stdout, "our commands are spared that"
    with host(lab, "pi01", root="/root") as barred, pytest.raises(HostFault):
        barred.put(b"", "file")


def test_the_log_of_a_unit_is_readable_for_the_login(lab: EmulatedLab) -> None:
    """systemd opens it as root; before and after a death, and when it was made again."""
    with host(lab, "pi02") as inside:  # with `umask 077`
        unit = Unit("talker", ("sh", "-c", "echo here; exec sleep 600"))
        inside.start(unit)
        eventually(lambda: inside.get(inside.log_path("talker")) == b"here\n")
        inside.stop("talker")
        inside.run(["rm", str(inside.log_path("talker"))])
        start = inside.start_command(unit)
        assert start is not None
        inside.run(start.argv, input=start.input)
        eventually(lambda: inside.get(inside.log_path("talker")) == b"here\n")
        inside.stop("talker")


def test_hosts_reach_each_other_but_not_the_world(lab: EmulatedLab) -> None:
    """Management and data are two networks with addresses of their own."""
    inside, other = host(lab, "pi01"), lab.plan.machines[1]
    for addr, interface in (
        (other.addr, "eth0"),
        (other.data_addr, "eth1"),
        (lab.plan.own_addr, "eth0"),
        (lab.plan.own_data_addr, "eth1"),
    ):
        assert f"{addr} dev {interface}" in inside.run(["ip", "route", "get", addr]).stdout
    assert inside.run(["ip", "route", "get", "192.0.2.1"], check=False).exit_code != 0


@pytest.mark.parametrize(
    "harm",
    [
        "date -s 2001-01-01",
        "echo h >/proc/sysrq-trigger",
        "echo 1 >/proc/sys/kernel/sysrq",
        "echo x >/proc/sys/kernel/hostname && false",
    ],
)
def test_a_fault_inside_cannot_harm_the_real_machine(lab: EmulatedLab, harm: str) -> None:
    """Its clock, its kernel's settings and its restart key."""
    argv = ["sudo", "-n", "sh", "-c", harm]
    assert host(lab, "pi01").run(argv, check=False).exit_code != 0


def test_a_host_may_still_tune_its_own_network(lab: EmulatedLab) -> None:
    inside = host(lab, "pi01")
    sudo(inside, "echo 1 >/proc/sys/net/ipv4/ip_forward")
    assert inside.get("/proc/sys/net/ipv4/ip_forward") == b"1\n"
    sudo(inside, f"tc qdisc add dev eth1 root tbf {TBF}")


def test_a_board_is_a_serial_port_of_its_host(lab: EmulatedLab) -> None:
    board = lab.plan.boards[0]
    inside = host(lab, board.host)
    port = f"/dev/serial/by-id/{board.port}"
    assert inside.run(["test", "-c", port], check=False).exit_code == 0
    # The firmware speaks first: frames end with a zero byte.
    listen = ["timeout", "20", "sh", "-c", f"head -c 8 <{port} | wc -c"]
    assert inside.run(listen).stdout.strip() == "8"


def test_a_board_can_be_unplugged_and_plugged_again(lab: EmulatedLab) -> None:
    board = lab.plan.boards[0]
    present = ["test", "-e", f"/dev/serial/by-id/{board.port}"]
    control = lab.board_control(board.name)
    command(control, "unplug")
    assert host(lab, board.host).run(present, check=False).exit_code == 1
    command(control, "plug")
    assert host(lab, board.host).run(present, check=False).exit_code == 0


def test_firmware_says_nothing_of_throttling_until_it_is_asked_to(lab: EmulatedLab) -> None:
    """The stand-in for a Raspberry Pi's sensors: what is not there reads as not known."""
    with host(lab, "pi01") as inside, open_facts(inside, "python3") as facts:

        def throttled() -> int | None:
            return read_facts(facts, "conditions", Conditions).throttled

        assert throttled() is None
        lab.throttle("pi01", 0x50005)
        assert throttled() == 0x50005
        lab.throttle("pi01", 0)
        assert throttled() == 0
        lab.throttle("pi01", None)
        assert throttled() is None


def test_a_link_is_delayed_one_way_read_back_and_undone_by_itself(lab: EmulatedLab) -> None:
    if lab.plan.shaping != "switch":
        pytest.skip("this kernel has netem: links are shaped with tc")
    pi01, pi02 = host(lab, "pi01"), host(lab, "pi02")
    addr = lab.plan.machines[1].data_addr
    server = threading.Thread(target=lambda: pi02.run(["python3", "-c", ECHO], timeout_s=100))
    server.start()

    def call(timeout_s: float = 5, word: str = "x") -> float:
        return float(pi01.run(["python3", "-c", CALL, addr, str(timeout_s), word]).stdout)

    def answers() -> bool:
        try:
            return call() > 0
        except HostFault:
            return False

    eventually(answers)
    way = {"from": "pi01", "to": "pi02"}
    lab.ask(do="shape", **way, shape={"delay_ms": 60})
    assert call() >= 2 * 60, "the handshake and the word each go there once"
    (link,) = (one for one in lab.ask(do="links")["links"] if way.items() <= one.items())
    assert link["delay_ms"] == 60
    lost_before = link["frames"].get("lost", 0)
    lab.ask(do="shape", **way, shape={"loss": 1.0})
    with pytest.raises(HostFault):
        call(0.3)
    assert pi02.run(["true"]).exit_code == 0, "the way of the orchestrator is never cut"
    lab.ask(do="shape", **way, shape={"loss": 1.0}, for_s=1.0)
    eventually(answers)
    (link,) = (one for one in lab.ask(do="links")["links"] if way.items() <= one.items())
    assert link["loss"] == 0
    assert link["frames"]["lost"] > lost_before
    lab.ask(do="clear")
    call(word="end")
    server.join()


@pytest.mark.parametrize(
    "order",
    [
        {"do": "shape", "from": "pi01", "to": "nobody", "shape": {}},
        {"do": "shape", "from": "pi01", "to": "pi02", "shape": {"loss": 2}},
        {"do": "shape", "from": "pi01", "to": "pi02", "shape": {"colour": 1}},
        {"do": "power", "host": "pi01", "to": "up"},
        {"do": "dance"},
        {},
    ],
    ids=str,
)
def test_a_bad_order_is_refused_by_name_and_changes_nothing(
    lab: EmulatedLab, order: dict[str, object]
) -> None:
    with pytest.raises(LabFault):
        lab.ask(**order)
    assert all(one["on"] for one in lab.ask(do="status")["hosts"].values())


def test_a_power_cut_ends_everything_and_the_disk_stays(lab: EmulatedLab) -> None:
    with host(lab, "pi02") as inside:
        inside.put(b"kept", "kept")
        boot = inside.get("/proc/sys/kernel/random/boot_id")
        running = threading.Thread(target=_interrupted, args=(inside,))
        running.start()
        eventually(lambda: "sleep 60" in inside.run(["ps", "ax", "-o", "args"]).stdout)
        lab.power("pi02", "off")
        running.join()
        with pytest.raises(Unreachable):
            inside.run(["true"])
        lab.power("pi02", "on")
        assert inside.get("kept") == b"kept"
        assert inside.get("/proc/sys/kernel/random/boot_id") != boot


def _interrupted(inside: SshHost) -> None:
    with pytest.raises(OutcomeUnknown):
        inside.run(["sleep", "60"], timeout_s=8)


def test_a_host_without_systemd_is_refused_by_doctor_and_provision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And root may log in, where that is asked for."""
    out = tmp_path / "out"
    try:
        lab = up(out, EmulationOptions(hosts=1, disk_mb=256, login="root", systemd=False))
        assert host(lab, "pi01").run(["id", "-u"]).stdout == "0\n"
        assert cli.main(["provision", "-i", str(lab.inventory)]) == 3
        assert "no systemd" in capsys.readouterr().err
        assert cli.main(["doctor", "-i", str(lab.inventory)]) == 3
        said = capsys.readouterr().out
        assert "failed" in said
        assert "no systemd" in said
        assert cli.main(["restore", "-i", str(lab.inventory)]) == 0
    finally:
        down(out)
    assert traces(lab.plan.lab_id) == []


def test_a_reboot_asks_processes_to_end_also_when_ordered_from_inside(lab: EmulatedLab) -> None:
    inside = host(lab, "pi03")
    script = "trap 'echo bye >last; exit' TERM; : >ready; while :; do sleep 0.1; done"
    inside.run(["sh", "-c", 'nohup sh -c "$1" >/dev/null 2>&1 &', "sh", script])
    eventually(lambda: "ready" in inside.run(["ls"]).stdout)
    lab.reboot("pi03")
    assert inside.get("last") == b"bye\n"
    boots = lab.ask(do="status")["hosts"]["pi03"]["boots"]
    with suppress(HostFault):
        inside.run(["sudo", "reboot", "-f"], timeout_s=5)
    eventually(lambda: lab.ask(do="status")["hosts"]["pi03"]["boots"] == boots + 1)
    lab.wait_for_ssh(["pi03"])


def test_up_again_finds_the_lab_and_another_size_is_refused(lab: EmulatedLab) -> None:
    again = up(lab.out, lab.plan.options)
    assert again.plan == lab.plan
    assert find(lab.out).plan == lab.plan
    with pytest.raises(ConfigurationError, match="emulate down"):
        up(lab.out, EmulationOptions(4, disk_mb=256))


def test_two_labs_do_not_collide_and_leave_no_trace_also_without_their_folders(
    tmp_path: Path,
) -> None:
    """A lab is named after what the kernel holds, not after its files."""
    outs = [tmp_path / "a", tmp_path / "b"]
    options = EmulationOptions(1, disk_mb=64)
    try:
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda out: up(out, options), outs)
        networks = {n for one in (first, second) for n in (one.plan.network, one.plan.data_network)}
        assert len(networks) == 4
        for one in (first, second):
            assert host(one, "pi01").run(["hostname"]).stdout == "pi01\n"
        shutil.rmtree(outs[0])
        assert outs[0] in elsewhere()
        assert down(outs[0])
        assert traces(first.plan.lab_id) == []
        assert outs[0] not in elsewhere()
        assert not down(outs[0]), "down is repeatable"
        assert host(second, "pi01").run(["true"]).exit_code == 0
        shutil.rmtree(outs[1])
        fresh = up(outs[1], options)
        assert traces(second.plan.lab_id) == [], "nobody could take it down later"
        assert host(fresh, "pi01").run(["true"]).exit_code == 0
    finally:
        assert [down(out) for out in outs] == [False, True]
    assert traces(fresh.plan.lab_id) == []
    assert not any(out.exists() for out in outs)


@pytest.mark.soak
@pytest.mark.skipif(preflight.faketime() is None, reason="needs libfaketime")
def test_a_clock_that_is_behind_is_found_and_steps_when_time_sync_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with emulated(tmp_path / "out", hosts=2, wrong_clock=True) as lab, host(lab, "pi02") as inside:

        def clock() -> str:
            cli.main(["doctor", "-i", str(lab.inventory), "--limit", "pi02", "--json"])
            findings = json.loads(capsys.readouterr().out)["hosts"]["pi02"]["findings"]
            return str(next(one["grade"] for one in findings if one["check"] == "clock"))

        assert clock() == "failed"
        with open_facts(inside, "python3") as facts:
            offset_ms = read_clock(facts).offset_ms
        assert offset_ms == pytest.approx(-1000 * CLOCK_BEHIND_S, abs=5000)
        sudo(inside, "systemctl start testbed-timesync")
        assert clock() != "failed"


def test_where_the_kernel_has_netem_data_goes_over_a_bridge_and_tc_shapes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other way of making the data network, also on a kernel without netem."""
    monkeypatch.setattr(preflight, "kernel_has_netem", lambda: True)
    with emulated(tmp_path / "out", hosts=2) as lab:
        assert lab.plan.shaping == "netem"
        assert all("netem" in one.caps for one in load_lab(lab.inventory).hosts.values())
        addr = lab.plan.machines[1].data_addr
        server = threading.Thread(target=lambda: host(lab, "pi02").run(["python3", "-c", ECHO]))
        server.start()
        call = ["python3", "-c", CALL, addr, "5", "end"]
        eventually(lambda: host(lab, "pi01").run(call, check=False).exit_code == 0)
        server.join()
        with pytest.raises(LabFault, match="tc netem on eth1"):
            lab.ask(do="links")


UP = """
import sys
from pathlib import Path
from nodes.board.control import command
from testbed.emulate import preflight
from testbed.emulate.lab import up
from testbed.emulate.plan import EmulationOptions
up(Path(sys.argv[1]), EmulationOptions(2, 1, cpu_percent=50, disk_mb=64))
"""


def _stages(out: Path) -> list[str]:
    """What `up` has reached, oldest first."""
    state = _state(out)
    found = ["state"] if state else []
    runtime = Path("/run/testbed") / state.get("lab_id", "none")
    if (runtime / "keeper.json").exists():
        found.append("keeper")
    if "plan" in state:
        found.append("plan")
    if (runtime / "control").exists():
        found.append("control")
    return found


def _state(out: Path) -> dict[str, str]:
    try:
        state: dict[str, str] = json.loads((out / "emulated.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return state


@pytest.mark.parametrize(
    "stage",
    [
        *(pytest.param(each, marks=pytest.mark.soak) for each in ("state", "plan")),
        "keeper",
        "control",
    ],
)
def test_kill_minus_nine_of_up_half_way_leaves_nothing_after_down(
    tmp_path: Path, stage: str
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", UP, out], stderr=subprocess.DEVNULL)
    eventually(lambda: stage in _stages(out) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab_id = _state(out)["lab_id"]
    assert down(out)
    eventually(lambda: traces(lab_id) == [])
    assert not out.exists()


def test_kill_minus_nine_of_the_keeper_takes_the_lab_along(tmp_path: Path) -> None:
    with emulated(tmp_path / "out", hosts=1) as lab:
        identity = json.loads((Path("/run/testbed") / lab.plan.lab_id / "keeper.json").read_text())
        os.kill(identity["keeper_pid"], signal.SIGKILL)
        eventually(lambda: not Path(f"/sys/class/net/{lab.plan.uplink}").exists())
        with pytest.raises(LabFault, match="is the lab up"):
            lab.ask(do="status")
        with pytest.raises(ConfigurationError, match="no emulated lab"):
            find(lab.out)
        fresh = up(lab.out, lab.plan.options)
        assert host(fresh, "pi01").run(["true"]).exit_code == 0
        assert traces(lab.plan.lab_id) == []
    assert traces(fresh.plan.lab_id) == []


def test_a_slow_host_gets_the_share_of_a_core_that_was_asked_for(tmp_path: Path) -> None:
    spin = "from time import *; t = time()\nwhile time() < t + 1.5: pass\nprint(process_time())"
    try:
        with emulated(tmp_path / "out", hosts=1, cpu_percent=20) as lab:
            used_s = float(host(lab, "pi01").run(["python3", "-c", spin]).stdout)
    except LabFault as fault:
        pytest.skip(str(fault))
    assert used_s < 0.3 * 1.5 + 0.1


def systemd_groups() -> set[Path]:
    """What any systemd made in this machine's own control groups, those of labs left out."""
    made = (".slice", ".scope", ".service", ".mount")
    return {
        path
        for path in Path("/sys/fs/cgroup").glob("**/")
        if path.name.endswith(made) and not any(part.startswith("testbed-") for part in path.parts)
    }


def test_with_systemd_hosts_have_services_that_come_back_after_a_power_cut(tmp_path: Path) -> None:
    groups = systemd_groups()
    with emulated(tmp_path / "out", hosts=2) as lab:
        inside = host(lab, "pi01")
        assert inside.facts.systemd
        assert inside.run(["systemctl", "is-system-running", "--wait"]).stdout == "running\n"
        script = "touch /etc/no || echo hardened; exec sleep 600"
        inside.start(Unit("replica", ("sh", "-c", script)))
        eventually(lambda: inside.status("replica").pid is not None)
        with inside.follow(inside.log_path("replica")) as lines:
            assert any("hardened" in line for line in lines)
        lab.power("pi01", "cycle")
        eventually(lambda: inside.status("replica").state is UnitState.ACTIVE)
        inside.stop("replica")
        assert "testbed-replica" not in inside.run(["ls", "/etc/systemd/system"]).stdout
        lab.reboot("pi02")
        assert host(lab, "pi02").run(["true"]).exit_code == 0
    assert systemd_groups() <= groups, "systemd left nothing in the machine's own hierarchies"
    assert traces(lab.plan.lab_id) == []
