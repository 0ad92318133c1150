"""Whatever happens to the orchestrator, hosts come back: by themselves, or by `testbed restore`.

What concerns units is in `test_restore_units`, on hosts that have systemd.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed import cli
from testbed.campaign.between import assert_clean
from testbed.care.dead_man import arm, armed, disarm, fire
from testbed.care.restore import QDISC_HANDLE, TABLE_COMMENT, leftover, restore
from testbed.errors import LabFault
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import NO_ROOT_FIX, HostFault, NodeCommand
from testbed.hosts.ssh import SshHost
from testbed.programs import python, shell
from tests.testbed.hosts_support import SshServer, eventually, ssh_server_missing
from tests.testbed.lab_support import ssh_lab
from tests.testbed.network_support import AS_NOBODY, NEEDS_ROOT, in_a_network

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


@pytest.fixture
def host(server: SshServer, tmp_path: Path) -> Iterator[SshHost]:
    with server.host(root=tmp_path / "r") as remote:
        yield remote
        restore(remote, lambda _: None)


def note(word: str) -> NodeCommand:
    """An undo that leaves a line behind each time that it runs."""
    return NodeCommand(("sh", "-c", 'read -r word; echo "$word" >>notes'), word.encode() + b"\n")


def notes(directory: Path) -> list[str]:
    path = directory / "r" / "notes"
    return path.read_text().split() if path.exists() else []


def sleeper(directory: Path, name: str) -> int:
    """Its process id."""
    return int((directory / "r" / "undo" / name / "pid").read_text())


def time_is_up(directory: Path, name: str) -> None:
    """Ends an undo's sleep. Who knows how long a slow machine takes for what comes before?"""
    pid = sleeper(directory, name)
    wake = ["pkill", "-x", "-P", str(pid), "sleep"]
    eventually(lambda: subprocess.run(wake, check=False).returncode == 0)


def is_gone(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_undo_happens_on_the_host_when_nobody_is_left(
    server: SshServer, host: SshHost, tmp_path: Path
) -> None:
    """Not even a connection."""
    arm(host, "heal", 600, note("healed"))
    assert [one.name for one in armed(host)] == ["heal"]
    server.drop_connections()
    server.stop()
    time_is_up(tmp_path, "heal")
    eventually(lambda: notes(tmp_path) == ["healed"])
    server.start()
    eventually(lambda: armed(host) == [])


def test_what_was_disarmed_never_happens(host: SshHost, tmp_path: Path) -> None:
    arm(host, "first", 600, note("first"))
    arm(host, "second", 600, note("second"))
    first = sleeper(tmp_path, "first")
    disarm(host, "first")
    disarm(host, "first")
    eventually(lambda: is_gone(first))
    time_is_up(tmp_path, "second")
    eventually(lambda: notes(tmp_path) == ["second"])


def test_arming_again_replaces_and_fire_does_it_once(host: SshHost, tmp_path: Path) -> None:
    arm(host, "heal", 600, note("old"))
    old = sleeper(tmp_path, "heal")
    arm(host, "heal", 600, note("new"))
    new = sleeper(tmp_path, "heal")
    fire(host, "heal")
    fire(host, "heal")
    assert notes(tmp_path) == ["new"]
    eventually(lambda: is_gone(old) and is_gone(new))
    assert notes(tmp_path) == ["new"], "no timer fired after it was fired by hand"


def test_an_undo_happens_when_its_time_has_come(host: SshHost, tmp_path: Path) -> None:
    arm(host, "heal", 1, note("healed"))
    eventually(lambda: notes(tmp_path) == ["healed"])
    eventually(lambda: armed(host) == [])


def test_an_undo_whose_time_comes_while_it_is_still_being_armed_was_armed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `cut` the host looks whether the sleeper is on its own."""
    slow = tmp_path / "bin" / "cut"
    slow.parent.mkdir()
    slow.write_text(
        '#!/bin/sh\nwhile [ -e undo/heal ]; do sleep 0.02; done\nPATH=/usr/bin:/bin exec cut "$@"\n'
    )
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    with LocalHost(tmp_path / "r", name="pi01") as host:
        arm(host, "heal", 1, note("healed"))
        eventually(lambda: notes(tmp_path) == ["healed"])
        eventually(lambda: armed(host) == [])


def test_an_undo_that_does_not_succeed_is_named_and_stays(host: SshHost) -> None:
    arm(host, "bad", 600, NodeCommand(("sh", "-c", "echo no such rule >&2; [ -e mended ]")))
    with pytest.raises(HostFault, match=r"undo bad.*\n?.*no such rule"):
        restore(host, lambda _: None)
    host.run(["touch", "mended"])
    restore(host, lambda _: None)
    assert armed(host) == []


def test_an_undo_at_work_is_waited_for_and_longer_on_a_slow_host(
    server: SshServer, host: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.care.dead_man.UNDO_S_MAX", 0.1)
    arm(host, "heal", 600, NodeCommand(("sh", "-c", "until [ -e go ]; do sleep 0.01; done")))
    time_is_up(tmp_path, "heal")
    eventually((tmp_path / "r/undo/.fired-heal").exists)
    with pytest.raises(HostFault, match="its undo is still at work"):
        disarm(host, "heal")
    (tmp_path / "r/go").touch()
    eventually(lambda: armed(host) == [])
    arm(host, "slow", 600, NodeCommand(("sh", "-c", "sleep 1; echo healed >>notes")))
    time_is_up(tmp_path, "slow")
    eventually((tmp_path / "r/undo/.fired-slow").exists)
    with server.host(root=tmp_path / "r", slowness=100) as slow:
        disarm(slow, "slow")
    assert notes(tmp_path) == ["healed"]


def test_a_host_without_anything_of_ours_is_clean(host: SshHost) -> None:
    assert leftover(host).lines == []
    assert leftover(host).brief == "nothing"


def test_files_of_faults_are_removed_and_named(host: SshHost) -> None:
    """By their name: what filled a disk, or what a twin wrote."""
    host.put(b"much", "fault-full")
    host.put(b"{}", "fault-twin-r1/config.json")
    host.put(b"mine", "notes")
    ours = {"file fault-full", "file fault-twin-r1"}
    assert ours <= set(leftover(host).lines)
    assert ours <= set(restore(host, lambda _: None))
    assert not [name for name in host.run(["ls"]).stdout.split() if name.startswith("fault-")]
    assert host.get("notes") == b"mine"


def test_a_failed_undo_does_not_run_in_place_of_the_next_of_its_name(
    host: SshHost, tmp_path: Path
) -> None:
    arm(host, "heal", 600, NodeCommand(("sh", "-c", "echo no such rule >&2; exit 1")))
    with pytest.raises(HostFault, match="no such rule"):
        fire(host, "heal")
    arm(host, "heal", 600, note("new"))
    fire(host, "heal")
    assert notes(tmp_path) == ["new"]
    assert armed(host) == []


def test_a_disarming_that_was_cut_off_does_not_spoil_the_next(
    host: SshHost, tmp_path: Path
) -> None:
    """What it left behind would hide the next one's sleeper, which then fires what comes after."""
    arm(host, "heal", 600, note("first"))
    host.run(
        ["sh", "-c", "mv undo/heal undo/.off-heal && kill -s KILL -- -$(cat undo/.off-heal/pid)"]
    )
    arm(host, "heal", 3, note("second"))
    disarm(host, "heal")
    arm(host, "heal", 600, note("third"))
    arm(host, "witness", 4, note("witness"))
    eventually(lambda: "witness" in notes(tmp_path))
    assert notes(tmp_path) == ["witness"]
    disarm(host, "heal")


def test_the_sleeper_of_an_undo_that_was_disarmed_is_gone(host: SshHost, tmp_path: Path) -> None:
    """It would fire the next undo of that name before its time: in the middle of its fault."""
    arm(host, "heal", 3, note("first"))
    disarm(host, "heal")
    arm(host, "heal", 3, note("second"))
    arm(host, "heal", 600, note("third"))
    arm(host, "witness", 4, note("witness"))
    eventually(lambda: "witness" in notes(tmp_path))
    assert notes(tmp_path) == ["witness"]
    disarm(host, "heal")


def test_a_process_that_stands_is_one_line_whatever_its_arguments_say(tmp_path: Path) -> None:
    """A program text has line ends, as characters and as backslash and n; neither splits it."""
    python = tmp_path / "env" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    text = "import sys\nprint('up\\nand\\033[31mred', flush=True)\nsys.stdin.read()"
    argv, pipe = [str(python), "-c", text], subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        with LocalHost(tmp_path, name="pi01") as host:
            stands = [line for line in leftover(host).others if "filter tables" not in line]
        process.kill()
    shown = text.replace("\n", " ")
    assert stands == [f"process {process.pid}: {python} -c {shown} "[:160]]


STANDING = shell("care/standing.sh", "remove", "/nowhere", TABLE_COMMENT, QDISC_HANDLE)


@NEEDS_ROOT
@pytest.mark.lab
def test_only_rules_with_our_exact_mark_are_removed_and_each_is_named() -> None:
    """Somebody else's firewall may be called anything, testbed_firewall too."""
    said = in_a_network(
        f"nft 'add table inet ours {{ comment \"{TABLE_COMMENT}\"; }}'",
        "nft add table inet testbed_firewall",
        f"nft 'add table ip other {{ comment \"not {TABLE_COMMENT}\"; }}'",
        "nft add table ip6 chained",
        f"nft 'add chain ip6 chained c {{ comment \"{TABLE_COMMENT}\"; }}'",
        "ip link add v1 type veth peer name v2",
        f"tc qdisc add dev v1 root handle {QDISC_HANDLE} pfifo",
        "tc qdisc add dev v2 root handle 7bee: pfifo",
        shlex.join(STANDING),
        "echo left; nft list tables; tc qdisc show",
    )
    removed, _, left = said.partition("left\n")
    assert removed.splitlines() == ["filter table inet ours", "pfifo on v1"]
    assert "testbed_firewall" in left
    assert "ip other" in left
    assert "ip6 chained" in left
    assert "7bee: dev v2" in left
    assert "ours" not in left
    assert QDISC_HANDLE not in left


@NEEDS_ROOT
@pytest.mark.lab
def test_where_filters_cannot_be_looked_at_a_host_is_not_called_clean() -> None:
    """A login without sudo cannot list tables: what it cannot see may stand there."""
    said = in_a_network(shlex.join([*AS_NOBODY, *STANDING]))
    assert said.startswith("cannot look at filter tables: ")
    assert "sudo" in said


@NEEDS_ROOT
@pytest.mark.lab
def test_why_there_is_no_root_is_said_and_not_what_sudo_warns_of_first() -> None:
    """On a host whose own name does not resolve, sudo warns of that before it says no."""
    look = ["sh", "-c", f"echo doctor | {shlex.join(python('python3', 'care/on_host.py'))}"]
    found, said = in_a_network(
        "hostname without-a-name",
        "cd /",
        shlex.join([*AS_NOBODY, *STANDING]),
        shlex.join([*AS_NOBODY, *look]),
    ).splitlines()
    assert found == "cannot look at filter tables: sudo: a password is required"
    assert json.loads(said)["sudo_problem"] == "sudo: a password is required"


@NEEDS_ROOT
@pytest.mark.lab
def test_restore_ends_with_6_where_it_could_not_look(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A login without the right to list tables. Once it may, the host is clean."""
    blind = tmp_path / "blind/nft"
    blind.parent.mkdir()
    blind.write_text(
        f'#!/bin/sh\nexec setpriv --reuid=65534 --clear-groups {shutil.which("nft")} "$@"\n'
    )
    blind.chmod(0o755)
    with ssh_lab(tmp_path, path=blind.parent) as lab:
        i = ("-i", str(lab.inventory))
        assert cli.main(["restore", *i]) == 6
        said = capsys.readouterr()
        assert "pi01: restore: cannot look at filter tables: " in said.err
        assert "is clean" not in said.out
        assert cli.main(["restore", *i, "--json"]) == 6
        host = json.loads(capsys.readouterr().out)["hosts"]["pi01"]
        assert not host["ok"]
        assert "cannot look" in host["problem"]
        assert cli.main(["restore", "--check", *i]) == 6
        said = capsys.readouterr()
        assert "cannot look at filter tables" in said.err
        assert "would remove" not in said.out
        blind.unlink()
        assert cli.main(["restore", *i]) == 0
        assert "is clean" in capsys.readouterr().out


def test_where_sudo_needs_a_password_run_and_restore_name_the_fix_that_doctor_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `run` says must not lead to a `restore` that only says to try it again."""
    stubs = {"id": "echo 1000", "sudo": "echo 'sudo: a password is required' >&2; exit 1"}
    for name, text in {**stubs, "nft": "exit 1"}.items():
        stub = tmp_path / "login" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{text}\n")
        stub.chmod(0o755)
    with ssh_lab(tmp_path, path=tmp_path / "login") as lab:
        for more in ((), ("--check",)):
            assert cli.main(["restore", "-i", str(lab.inventory), *more]) == 6
            said = capsys.readouterr().err
            assert f"sudo: a password is required\n  fix: {NO_ROOT_FIX}\n" in said
        with (
            ssh_hosts(load_lab(lab.inventory), ["pi01"]) as hosts,
            pytest.raises(LabFault, match=rf"^pi01 is not clean: .*\n  fix: {NO_ROOT_FIX}$"),
        ):
            assert_clean(hosts)


def test_restore_with_check_names_what_it_would_remove_and_leaves_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssh_lab(tmp_path) as lab, ssh_hosts(load_lab(lab.inventory), ["pi01"]) as hosts:
        arm(hosts["pi01"], "heal", 600, note("healed"))
        i = ("-i", str(lab.inventory))
        assert cli.main(["restore", "--check", *i]) == 0
        assert "would remove armed undo heal" in capsys.readouterr().out
        assert [one.name for one in armed(hosts["pi01"])] == ["heal"]
        assert cli.main(["restore", *i]) == 0
        assert "removed armed undo heal" in capsys.readouterr().out
        assert armed(hosts["pi01"]) == []
        assert cli.main(["restore", *i]) == 0
        assert "is clean" in capsys.readouterr().out
