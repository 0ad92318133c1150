"""Hosts are made ready from here, in parallel, and left alone when they are."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from inventory.load import load_lab
from testbed import cli
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.hosts import opened_hosts
from testbed.emulate.lab import EmulatedLab
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import CommandResult, Host
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings
from testbed.manifest import RunEntry
from testbed.provision.collect import collect
from testbed.provision.configs import EVENTS, STORE
from testbed.provision.deployment import Deployment, clean
from testbed.provision.layout import Node, layout
from testbed.provision.ready import interpreters
from tests.testbed.emulate_support import emulated, host, sudo
from tests.testbed.hosts_support import free_port, ssh_server_missing
from tests.testbed.lab_support import SshLab, ssh_lab

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of one command."""
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def provision(
    capsys: pytest.CaptureFixture[str], lab: SshLab, *options: str
) -> tuple[int, dict[str, Any]]:
    return command(capsys, "provision", "-i", str(lab.inventory), *options)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLab]:
    """Two hosts; the second has `umask 077`."""
    with emulated(tmp_path_factory.mktemp("lab") / "out", hosts=2, disk_mb=512) as running:
        yield running


@pytest.mark.soak
@pytest.mark.lab
@pytest.mark.parametrize("name", ["pi01", "pi02"])
def test_from_nothing_to_ready_and_back_to_nothing(
    lab: EmulatedLab, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The life of a host: dry run, made ready, left alone, fixed, removed."""
    only = ("-i", str(lab.inventory), "--limit", name)
    loaded = load_lab(lab.inventory)
    with host(lab, name) as inside:
        (keyed,) = [
            node.name
            for node in layout(loaded)
            if node.host == name and node.role in ("replica", "gateway")
        ]

        def found(path: str, form: str) -> str:
            return inside.run(["stat", "-c", form, path]).stdout.strip()

        code, said = command(capsys, "provision", *only, "--check")
        assert code == 0
        changes = said["hosts"][name]["changes"]
        assert [change.split()[0] for change in changes] == ["environment", "keys"]
        assert inside.run(["ls"]).stdout == "", "a dry run changes nothing"

        code, said = command(capsys, "provision", *only)
        assert code == 0, said
        assert said["hosts"][name]["changed"]
        key = f"{keyed}/keys/key.pem"
        assert found(key, "%a") == "600"
        assert "wheelhouse" not in inside.run(["ls"]).stdout, "archives take no room afterwards"
        made = (inside.get(key), found("env", "%i"))

        code, said = command(capsys, "provision", *only)
        assert (code, said["hosts"][name]["changes"]) == (0, [])
        assert set(said["hosts"][name]["steps_s"]) == {"looking"}

        stamp = json.loads(inside.get("env/stamp.json")) | {"code": "older"}
        inside.put(json.dumps(stamp).encode(), "env/stamp.json")
        with (
            pytest.raises(ConfigurationError, match=rf"another version.*\n.*--limit {name}"),
            ready(lab, name),
        ):
            pytest.fail("no run with older code")
        code, said = command(capsys, "provision", *only)
        assert said["hosts"][name]["changes"] == ["our code"]
        assert made == (inside.get(key), found("env", "%i")), "nothing else"
        with ready(lab, name) as python:
            inside.run([python, "-c", "import nodes.replica"])

        inside.run(["sh", "-c", "rm env/lib/*/site-packages/nodes/replica/process.py"])
        with pytest.raises(ConfigurationError, match=r"missing or changed"), ready(lab, name):
            pytest.fail("no run on a damaged host")
        code, said = command(capsys, "provision", *only)
        changes = said["hosts"][name]["changes"]
        assert [change.split()[0] for change in changes] == ["environment"]
        assert inside.get(key) == made[0]

        code, said = command(capsys, "status", *only)
        assert said["hosts"][name]["ready"]
        assert said["hosts"][name]["standing"] == []
        code, said = command(capsys, "deprovision", *only)
        assert code == 0
    with host(lab, name, root="/home/pi") as home:
        assert set(home.run(["ls", "-A"]).stdout.split()) <= {".ssh", ".bashrc"}


@contextmanager
def ready(lab: EmulatedLab, name: str) -> Iterator[str]:
    """The interpreter with our code on a host, as a run looks for it."""
    with ssh_hosts(load_lab(lab.inventory), [name]) as hosts:
        yield interpreters(hosts)[name]


@pytest.mark.lab
def test_a_host_that_fails_is_named_with_the_command_that_retries_just_it(
    lab: EmulatedLab, capsys: pytest.CaptureFixture[str]
) -> None:
    """And n never shrinks silently: the exit code is not 0."""
    lab.power("pi02", "off")
    try:
        code = cli.main(["provision", "--check", "-i", str(lab.inventory)])
        captured = capsys.readouterr()
    finally:
        lab.power("pi02", "on")
    assert code == 4
    assert "1 of 2 hosts checked, nothing was changed" in captured.out, "none is ready by that"
    assert f"retry: testbed provision --check -i {lab.inventory} --limit pi02" in captured.err
    assert "powered" in captured.err


@pytest.mark.lab
def test_a_host_without_a_usable_python_is_told_what_to_install(
    lab: EmulatedLab, capsys: pytest.CaptureFixture[str]
) -> None:
    old = "#!/bin/sh\necho Python 3.9.2\nexit 1\n"
    names = ("python3", *(f"python3.{minor}" for minor in range(11, 15)))
    with host(lab, "pi01") as inside:
        inside.put(old.encode(), "old", 0o755)
        for name in names:
            sudo(inside, f"install -m 755 {inside.root}/old /usr/local/bin/{name}")
        code, said = command(capsys, "provision", "-i", str(lab.inventory), "--limit", "pi01")
        sudo(inside, "cd /usr/local/bin && rm " + " ".join(names))
    assert code == 3
    assert "Python 3.9.2" in said["hosts"]["pi01"]["problem"]
    assert "apt-get install python3" in said["hosts"]["pi01"]["problem"]


@pytest.mark.lab
def test_a_file_system_that_starts_no_program_is_named(
    lab: EmulatedLab, capsys: pytest.CaptureFixture[str]
) -> None:
    with host(lab, "pi01") as inside:
        sudo(inside, 'mount -t tmpfs -o noexec,uid=1000 tmpfs "$1"', str(inside.root))
        try:
            code, said = command(capsys, "provision", "-i", str(lab.inventory), "--limit", "pi01")
        finally:
            sudo(inside, 'umount -l "$1"', str(inside.root))
    assert code == 3
    assert "mounted noexec" in said["hosts"]["pi01"]["problem"]


def test_a_temporary_directory_with_too_long_a_name_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel takes 107 bytes for the path of a socket."""
    long = tmp_path / ("averyverylongdirectory" * 4)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    with (
        pytest.raises(ConfigurationError, match=r"too long a name.*107 bytes\n.*TMPDIR=/tmp"),
        opened_hosts(load_lab()),
    ):
        pytest.fail("it would fail later, when its processes run")
    assert list(long.iterdir()) == []


def test_each_file_comes_home_that_can_be_read_and_the_others_are_named(tmp_path: Path) -> None:
    """An unreadable log kept every ledger from coming home, and made the run invalid."""
    lab = load_lab()
    hosts: dict[str, Host] = {name: LocalHost(tmp_path / name, name=name) for name in lab.active}
    deployment = Deployment(lab, hosts, dict.fromkeys(hosts, sys.executable), print)
    replica, other = deployment.node("r2"), deployment.node("r3")
    for node in (replica, other):
        deployment.host(node).put(b"printed\n", deployment.host(node).log_path(node.unit))
        deployment.host(node).put(b"{}\n", node.file(EVENTS))
        deployment.begun.add(node.name)
    log = tmp_path / "r2" / "log" / f"{replica.unit}.log"
    log.unlink()
    log.mkdir()  # nobody can read that, root neither
    deployment.host(replica).put(b"no database", replica.file(STORE))
    run = RunFolder(Bundle(tmp_path / "bundle"), RunEntry(index=0, trial=0, arm="baseline"))
    problems = collect(deployment, run)
    assert [problem.partition(":")[0] for problem in problems] == ["r2", "r2"]
    assert "cannot copy its ledger" in problems[0]
    assert f"log/{replica.unit}.log home" in problems[1]
    brought = {str(path.relative_to(run.path)) for path in run.raw.rglob("*.*")}
    assert brought == {"raw/r2.jsonl", "raw/r3.jsonl", "raw/log/r3.log"}
    for local in hosts.values():
        local.close()


def test_the_ledgers_of_a_running_lab_are_copied_after_the_logs_of_devices(tmp_path: Path) -> None:
    """A receipt that came between the copy of the ledgers and that of the log was judged broken."""
    copying = threading.Event()

    class Watched(LocalHost):
        def run(self, argv: Sequence[str], **options: Any) -> CommandResult:
            if any(word.endswith("collected.sqlite") for word in argv):
                copying.set()
            return super().run(argv, **options)

        def fetch(self, path: str | PurePosixPath, local_path: Path, **options: Any) -> None:
            assert "phones-1" not in str(path) or not copying.wait(0.3), "a ledger came first"
            super().fetch(path, local_path, **options)

    lab = load_lab()
    hosts: dict[str, Host] = {name: Watched(tmp_path / name, name=name) for name in lab.active}
    deployment = Deployment(lab, hosts, dict.fromkeys(hosts, sys.executable), print)
    device, replica = deployment.node("phones-1"), deployment.node("r2")
    deployment.host(device).put(b"{}\n", device.file(EVENTS))
    deployment.host(replica).put(b"no database", replica.file(STORE))
    collect(
        deployment,
        RunFolder(Bundle(tmp_path / "bundle"), RunEntry(index=0, trial=0, arm="baseline")),
    )
    assert copying.is_set()
    for local in hosts.values():
        local.close()


def test_of_several_hosts_that_do_not_answer_each_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssh_lab(tmp_path, ("replica", "replica"), dead=("pi01", "pi02")) as lab:
        assert cli.main(["up", "-i", str(lab.inventory)]) == 3
    said = capsys.readouterr().err
    assert "internal error" not in said
    for name in ("pi01", "pi02"):
        assert f"{name}: " in said


def test_a_host_that_somebody_else_has_is_not_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Locked by another person: his name, exit code 5, and a takeover restores first."""
    with ssh_lab(tmp_path) as lab:
        i = str(lab.inventory)
        assert command(capsys, "lock", "-i", i, "--for", "30m")[0] == 0
        lease = lab.homes["pi01"] / "testbed" / "lease"
        lease.write_text(lease.read_text().replace('"who": "', '"who": "alice-'))
        for words in (("restore",), ("unlock",), ("lock",)):
            code, said = command(capsys, *words, "-i", i)
            assert code == 5
            assert "alice-" in said["hosts"]["pi01"]["problem"]
        code, said = provision(capsys, lab)
        assert code == 3
        assert not (lab.homes["pi01"] / "testbed" / "env").exists()
        undo = lab.homes["pi01"] / "testbed" / "undo" / "heal"
        undo.mkdir(parents=True)
        for name, text in (("run", "echo undone >notes"), ("input", ""), ("due", "9999999999")):
            (undo / name).write_text(text)
        code, said = command(capsys, "unlock", "--takeover", "-i", i)
        assert code == 0
        assert "alice-" in said["hosts"]["pi01"]["result"]
        assert (lab.homes["pi01"] / "testbed" / "notes").read_text() == "undone\n"
        assert command(capsys, "restore", "-i", i)[0] == 0


def test_a_run_starts_from_nothing_but_keys(tmp_path: Path) -> None:
    """An older run's ledger or outbox would be taken for its own."""
    nodes = [Node("pi01", "replica", "pi01", 0), Node("pi02", "replica", "pi02", 1)]
    with LocalHost(tmp_path, name="pi01") as host:
        kept = ["pi01/keys/key.pem", "pi01/host.key", "pi01/flashed.json", "pi02/ledger.sqlite"]
        gone = ["pi01/ledger.sqlite", "pi01/state/outbox", "pi01/.hidden", "log/m2m-pi01.log"]
        for name in (*kept, *gone):
            host.put(b"old", name)
        clean(host, nodes)
        found = host.run(["find", ".", "-type", "f"]).stdout.split()
        assert sorted(found) == sorted(f"./{name}" for name in kept)
        clean(host, nodes)


def test_a_host_that_is_gone_keeps_no_other_process_running(tmp_path: Path) -> None:
    """A plug was pulled for good: the rest is stopped all the same, and the host is named."""
    lab = load_lab()
    hosts: dict[str, Host] = {name: LocalHost(tmp_path / name, name=name) for name in lab.active}
    deployment = Deployment(lab, hosts, dict.fromkeys(hosts, sys.executable), print)
    replica, broker = deployment.node("r2"), deployment.with_role("broker")[0]
    for node in (replica, broker):
        deployment.start_node(node)
    gone = SshHost("r2", "127.0.0.1", SshSettings(port=free_port(), known_hosts=tmp_path / "none"))
    with hosts["r2"]:
        hosts["r2"] = gone
        with pytest.raises(LabFault, match=r"r2: .*port"):
            deployment.stop()
    assert hosts[broker.host].units() == ()
    for each in hosts.values():
        each.close()


def test_a_lab_without_remote_hosts_has_nothing_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # labs of others that are up here are not seen
    for word in ("provision", "restore", "status", "deprovision", "unlock"):
        assert cli.main([word]) == 0
        assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["2", "8d", "0h", "1w", "-1h"])
def test_a_strange_lock_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lock", f"--for={text}"]) == 2
    assert "--for" in capsys.readouterr().err
