"""`testbed ssh` and `testbed logs`: what a person looks at while a lab does its work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from testbed import cli
from tests.testbed.hosts_support import ssh_server_missing
from tests.testbed.lab_support import SshLab, ssh_lab

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshLab]:
    """pi02 is behind pi01. What processes printed stands there, without an environment of ours."""
    directory = tmp_path_factory.mktemp("lab")
    with ssh_lab(directory, ("replica", "replica")) as made:
        text = made.inventory.read_text()
        before, _, after = text.partition("pi02: ")
        made.inventory.write_text(before + "pi02: " + after.replace("ssh: {", "ssh: {jump: pi01, "))
        for name, home in made.homes.items():
            log = home / "testbed/log" / f"m2m-{name}.log"
            log.parent.mkdir(parents=True)
            log.write_text("".join(f"line {n}\n" for n in range(100)))
        yield made


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "testbed.cli", *words]


def test_ssh_runs_a_command_word_for_word_through_the_jump_host(lab: SshLab) -> None:
    command = ["printf", "%s|", "a  b", "$HOME", "it's"]
    for host in ("pi01", "pi02"):
        argv = program("ssh", host, "-i", str(lab.inventory), "--", *command)
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "a  b|$HOME|it's|"), done.stderr
    argv = program("ssh", "pi01", "-i", str(lab.inventory), "--", "sh", "-c", "exit 7")
    assert subprocess.run(argv, check=False).returncode == 7


def test_ssh_never_trusts_an_unknown_machine(lab: SshLab) -> None:
    known = lab.inventory.parent / "sshd-pi01" / "known_hosts"
    right = known.read_text()
    known.write_text("")
    try:
        argv = program("ssh", "pi01", "-i", str(lab.inventory), "--", "true")
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    finally:
        known.write_text(right)
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr
    assert known.read_text() == right


def test_ssh_names_one_host(lab: SshLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ssh", "role:replica", "-i", str(lab.inventory)]) == 2
    assert "pi01, pi02; name one host" in capsys.readouterr().err
    assert cli.main(["ssh", "pi09", "-i", str(lab.inventory)]) == 2


def test_logs_prints_the_last_lines_of_each_process(
    lab: SshLab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["logs", "-n", "2", "-i", str(lab.inventory)]) == 0
    printed = sorted(capsys.readouterr().out.splitlines())
    assert printed == [f"pi0{host} | line {n}" for host in (1, 2) for n in (98, 99)]
    assert cli.main(["logs", "pi02", "-n", "0", "-i", str(lab.inventory)]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["logs", "pi03", "-i", str(lab.inventory)]) == 2
    assert "pi03 is no process of this lab; there are: pi01, pi02" in capsys.readouterr().err


def test_a_log_that_cannot_be_read_is_named_and_one_that_is_not_there_is_empty(
    lab: SshLab, capsys: pytest.CaptureFixture[str]
) -> None:
    log = lab.homes["pi01"] / "testbed/log/m2m-pi01.log"
    aside = log.rename(log.with_name("aside"))
    try:
        assert cli.main(["logs", "-n", "1", "-i", str(lab.inventory)]) == 0
        assert capsys.readouterr().out == "pi02 | line 99\n"
        log.mkdir()
        assert cli.main(["logs", "-n", "1", "-i", str(lab.inventory)]) == 4
        said = capsys.readouterr()
        log.rmdir()
    finally:
        aside.rename(log)
    assert said.out == "pi02 | line 99\n"
    assert said.err.startswith("pi01: ")


def test_logs_follow_goes_on_as_they_print_until_it_is_interrupted(lab: SshLab) -> None:
    """No line twice, none left out."""
    log = lab.homes["pi01"] / "testbed/log/m2m-pi01.log"
    argv = program("logs", "-f", "-n", "1", "pi01", "-i", str(lab.inventory))
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "pi01 | line 99\n"
        with log.open("a") as file:
            file.write("line 100\nline 101\n")
        assert running.stdout.readline() == "pi01 | line 100\n"
        assert running.stdout.readline() == "pi01 | line 101\n"
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
        assert running.stdout.read() == ""
