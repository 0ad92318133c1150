"""Hosts are made ready from here, in parallel, and left alone when they are."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from testbed import cli
from testbed.campaign.hosts import opened_hosts
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.local import LocalHost
from testbed.hosts.port import Host
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings
from testbed.provision.clean import clean
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
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


def test_from_nothing_to_ready_and_back_to_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The life of a host: dry run, made ready, left alone, mended, removed."""
    with ssh_lab(tmp_path) as lab:
        home = lab.homes["pi01"]
        code, said = provision(capsys, lab, "--check")
        assert code == 0
        assert [change.split()[0] for change in said["hosts"]["pi01"]["changes"]] == [
            "environment",
            "keys",
        ]
        assert not (home / "testbed" / "env").exists(), "a dry run changes nothing"

        code, said = provision(capsys, lab)
        assert code == 0, said
        assert said["hosts"]["pi01"]["changed"]
        key = home / "testbed" / "pi01" / "keys" / "key.pem"
        assert key.stat().st_mode & 0o777 == 0o600
        assert not (home / "testbed" / "wheelhouse").exists(), "archives take no room afterwards"
        made = (key.read_bytes(), (home / "testbed/env").stat().st_ino)

        code, said = provision(capsys, lab)
        assert (code, said["hosts"]["pi01"]["changes"]) == (0, [])
        assert set(said["hosts"]["pi01"]["steps_s"]) == {"looking"}

        stamp = home / "testbed/env/stamp.json"
        stale = json.loads(stamp.read_text()) | {"code": "older"}
        stamp.write_text(json.dumps(stale))
        loaded = load_lab(lab.inventory)
        with (
            pytest.raises(ConfigurationError, match=r"another version.*\n.*--limit pi01"),
            opened_hosts(loaded),
        ):
            pytest.fail("no run with older code")
        code, said = provision(capsys, lab)
        assert said["hosts"]["pi01"]["changes"] == ["our code"]
        assert made == (key.read_bytes(), (home / "testbed/env").stat().st_ino), "nothing else"
        with opened_hosts(loaded) as (hosts, python):
            hosts["pi01"].run([python["pi01"], "-c", "import nodes.replica"])

        next((home / "testbed/env/lib").glob("*/site-packages/nodes/replica/process.py")).unlink()
        with pytest.raises(ConfigurationError, match=r"missing or changed"), opened_hosts(loaded):
            pytest.fail("no run on a damaged host")
        code, said = provision(capsys, lab)
        assert [change.split()[0] for change in said["hosts"]["pi01"]["changes"]] == ["environment"]
        assert key.read_bytes() == made[0]

        code, said = command(capsys, "status", "-i", str(lab.inventory))
        assert said["hosts"]["pi01"]["ready"]
        assert said["hosts"]["pi01"]["standing"] == []
        code, said = command(capsys, "deprovision", "-i", str(lab.inventory))
        assert code == 0
        assert list(home.iterdir()) == []


def test_a_host_that_fails_is_named_with_the_command_that_retries_just_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And n never shrinks silently: the exit code is not 0."""
    with ssh_lab(tmp_path, ("replica", "replica"), dead=("pi02",)) as lab:
        code = cli.main(["provision", "--check", "-i", str(lab.inventory)])
        captured = capsys.readouterr()
    assert code == 4
    assert "1 of 2 hosts looked at, nothing was changed" in captured.out, "none is ready by that"
    assert f"retry: testbed provision --check -i {lab.inventory} --limit pi02" in captured.err
    assert "powered" in captured.err


def test_a_host_without_a_usable_python_is_told_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shadow = tmp_path / "bin"
    shadow.mkdir()
    for name in ("python3", *(f"python3.{minor}" for minor in range(11, 15))):
        (shadow / name).write_text("#!/bin/sh\necho Python 3.9.2\nexit 1\n")
        (shadow / name).chmod(0o755)
    with ssh_lab(tmp_path, path=shadow) as lab:
        code, said = provision(capsys, lab)
    assert code == 3
    assert "Python 3.9.2" in said["hosts"]["pi01"]["problem"]
    assert "apt-get install python3" in said["hosts"]["pi01"]["problem"]


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
    for host in hosts.values():
        host.close()


def test_a_lab_without_remote_hosts_has_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("provision", "restore", "status", "deprovision", "unlock"):
        assert cli.main([word]) == 0
        assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["2", "8d", "0h", "1w", "-1h"])
def test_a_strange_lock_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lock", f"--for={text}"]) == 2
    assert "--for" in capsys.readouterr().err
