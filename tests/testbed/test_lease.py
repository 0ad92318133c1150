"""A host has one owner at a time, and no owner for ever."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inventory.load import load_lab
from testbed import cli
from testbed.care.lease import Holder, Lease, break_lease, claim, holder, me, release
from testbed.errors import LabFault, LockedError
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import Host
from tests.testbed.hosts_support import eventually, ssh_server_missing
from tests.testbed.lab_support import SshLab, ssh_lab

ALICE = Holder("alice@bench", 0, "testbed lock")
BOB = Holder("bob@bench", 0, "testbed lock")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[LocalHost]:
    with LocalHost(tmp_path / "pi01", name="pi01") as one:
        yield one


@contextmanager
def opened(lab: SshLab) -> Iterator[Host]:
    """Its first host, as somebody else sees it."""
    with ssh_hosts(load_lab(lab.inventory), ["pi01"]) as hosts:
        yield hosts["pi01"]


def test_the_second_is_refused_and_told_who_has_it(host: LocalHost) -> None:
    claim(host, "a", ALICE, 60)
    with pytest.raises(LockedError, match=r"pi01.*alice@bench.*s left") as caught:
        claim(host, "b", BOB, 60)
    assert caught.value.exit_code == 5
    release(host, "b")
    assert holder(host) is not None, "another's token gives nothing back"
    release(host, "a")
    assert holder(host) is None
    claim(host, "b", BOB, 60)


def test_a_host_that_cannot_write_says_so(host: LocalHost) -> None:
    """A full card above all."""
    (Path(host.root) / "lease.new").mkdir(parents=True)
    with pytest.raises(LabFault, match=r"cannot write in .*is its disk full\?"):
        claim(host, "a", ALICE, 60)


def test_a_directory_that_cannot_be_written_is_named_with_the_way_out(host: LocalHost) -> None:
    """A read-only card above all."""
    (Path(host.root) / "lease.lock").mkdir(parents=True)
    fix = r"cannot write in .*; is its card read-only or full\? .* sudo mount -o remount,rw /"
    with pytest.raises(LabFault, match=fix):
        claim(host, "a", ALICE, 60)


def test_who_claims_waits_while_another_does(host: LocalHost) -> None:
    """Looking and writing are one step, whoever else is at it: the kernel's lock says so."""
    claim(host, "a", ALICE, 60)
    file = Path(host.root / "lease.lock")
    waiting = f"{file.stat().st_ino} "

    def waits() -> bool:
        locks = Path("/proc/locks").read_text().splitlines()
        return any("->" in line and f":{waiting}" in line for line in locks)

    with file.open() as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release_it = pool.submit(release, host, "a")
        eventually(waits)
        assert Path(host.root / "lease").exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        release_it.result()
    assert holder(host) is None


def test_of_many_at_once_exactly_one_gets_it(host: LocalHost) -> None:
    def attempt(number: int) -> bool:
        try:
            claim(host, f"token{number}", Holder(f"user{number}@bench", 0, ""), 60)
        except LockedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


def test_a_lease_that_nobody_renews_ends_by_itself(host: LocalHost) -> None:
    claim(host, "a", ALICE, 1)
    eventually(lambda: holder(host) is None)
    claim(host, "b", BOB, 60)


@pytest.mark.parametrize("date_s", ["0", "99999999999"])
def test_setting_the_clock_neither_ends_nor_prolongs_a_lease(
    host: LocalHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, date_s: str
) -> None:
    """A Raspberry Pi starts in the past and jumps when it has found a time server."""
    claim(host, "a", ALICE, 7200)
    date = tmp_path / "bin" / "date"
    date.parent.mkdir()
    date.write_text(f"#!/bin/sh\necho {date_s}\n")
    date.chmod(0o755)
    monkeypatch.setenv("PATH", str(date.parent), prepend=":")
    present = holder(host)
    assert present is not None
    assert 7100 < present.left_s <= 7200
    with pytest.raises(LockedError):
        claim(host, "b", BOB, 60)


def test_after_a_restart_of_the_host_a_lease_counts_from_the_beginning(host: LocalHost) -> None:
    """Uptime starts at 0 again: neither lost, as the lock of a person, nor kept for ever."""

    def of_another_boot(length_s: int) -> None:
        claim(host, "a", ALICE, 60)
        token, _, _, who, _ = host.get("lease").decode().splitlines()
        host.put("\n".join([token, "10000000", str(length_s), who, "boot"]).encode(), "lease")

    up_s = int(float(Path("/proc/uptime").read_text().split()[0]))
    of_another_boot(up_s + 60)
    with pytest.raises(LockedError):
        claim(host, "b", BOB, 60)
    break_lease(host)
    of_another_boot(up_s)
    claim(host, "b", BOB, 60)


def test_what_a_process_of_ours_left_when_it_died_is_taken_over(host: LocalHost) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    claim(host, "a", Holder(me().who, gone.pid, "testbed run"), 600)
    claim(host, "b", me(), 60)
    with pytest.raises(LockedError):
        claim(host, "c", Holder(me().who, 1, "testbed run"), 60)


def test_under_ones_own_lock_ones_own_commands_go_on(host: LocalHost) -> None:
    claim(host, "mine", me(person=True), 600)
    with Lease({"pi01": host}):
        pass
    present = holder(host)
    assert present is not None
    assert present.is_mine, "the run did not end the person's lock"
    claim(host, "again", me(person=True), 60)
    with pytest.raises(LockedError):
        claim(host, "b", BOB, 60)


def test_all_hosts_or_none(tmp_path: Path) -> None:
    with LocalHost(tmp_path / "a", name="a") as one, LocalHost(tmp_path / "b", name="b") as two:
        claim(two, "b", BOB, 60)
        with (
            pytest.raises(LockedError, match=r"b is taken by bob@bench.*\n.*unlock --takeover"),
            Lease({"a": one, "b": two}),
        ):
            pytest.fail("it must not be had")
        assert holder(one) is None


def test_a_heartbeat_keeps_it_and_the_end_gives_it_back(host: LocalHost) -> None:
    with Lease({"pi01": host}, lease_s=8):
        first = host.get("lease").splitlines()[1]
        eventually(lambda: host.get("lease").splitlines()[1] > first)
        assert holder(host) is not None
    assert holder(host) is None


def test_whoever_loses_it_to_a_takeover_hears_of_it(host: LocalHost) -> None:
    heard: list[str] = []
    lost = threading.Event()

    def hear(why: str) -> None:
        heard.append(why)
        lost.set()

    lease = Lease({"pi01": host}, lease_s=2)
    lease.on_lost = hear
    with lease:
        break_lease(host, takeover=True)
        assert lost.wait(60), "its heart must not take it back"
        assert holder(host) is None
        claim(host, "b", BOB, 60)
    assert "pi01 was taken over" in heard[0]
    present = holder(host)
    assert present is not None
    assert present.who == BOB.who, "the loser's end takes nothing away"


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_a_damaged_lease_is_free_or_a_clear_error(host: LocalHost, content: bytes) -> None:
    host.put(content, "lease")
    with suppress(LabFault):  # names the file and what to do with it
        assert holder(host) is None


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_a_lock_that_failed_says_of_no_host_that_it_is_yours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All or none: what was taken is given back, and the retry must name all of them."""
    with ssh_lab(tmp_path, ("replica", "replica"), dead=("pi02",)) as lab:
        code = cli.main(["lock", "-i", str(lab.inventory), "--for", "1d"])
        captured = capsys.readouterr()
        assert not (lab.homes["pi01"] / "testbed" / "lease").exists()
    assert code == 4
    assert "yours" not in captured.out
    assert "given back" in captured.out
    assert f"retry: testbed lock --for 1d -i {lab.inventory}\n" in captured.err


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_the_way_to_repeat_a_takeover_is_a_takeover(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssh_lab(tmp_path, dead=("pi01",)) as lab:
        assert cli.main(["unlock", "--takeover", "-i", str(lab.inventory)]) == 3
        assert f"unlock --takeover -i {lab.inventory} --limit pi01" in capsys.readouterr().err


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_a_lock_that_is_interrupted_gives_back_what_it_has(tmp_path: Path) -> None:
    """All or none also at Ctrl-C: one host is taken, the other one lets us wait."""
    with ssh_lab(tmp_path, ("replica", "replica")) as lab:
        taken, busy = (lab.homes[name] / "testbed" for name in ("pi01", "pi02"))
        busy.mkdir(mode=0o700)
        argv = [sys.executable, "-m", "testbed.cli", "lock", "-i", str(lab.inventory)]
        with (busy / "lease.lock").open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with subprocess.Popen(argv, cwd=Path(__file__).parents[2]) as locking:
                eventually((taken / "lease").exists)
                locking.send_signal(signal.SIGINT)
                eventually(lambda: not (taken / "lease").exists())
                fcntl.flock(held, fcntl.LOCK_UN)
                assert locking.wait() == 130


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_lock_waits_until_somebody_elses_lease_has_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssh_lab(tmp_path) as lab, opened(lab) as host:
        claim(host, "b", BOB, 60)
        i = ("-i", str(lab.inventory))
        assert cli.main(["lock", *i]) == 5
        assert cli.main(["lock", "--wait", "1ms", *i]) == 5
        capsys.readouterr()
        said: list[str] = []

        def waits() -> bool:
            said.append(capsys.readouterr().err)
            return "waiting: pi01 is taken by bob@bench" in "".join(said)

        with ThreadPoolExecutor(1) as beside:
            locked = beside.submit(cli.main, ["lock", "--wait", "5m", *i])
            eventually(waits)
            release(host, "b")
            assert locked.result() == 0
        present = holder(host)
        assert present is not None
        assert present.is_mine


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_power_is_not_cut_under_somebody_elses_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that does not answer is switched all the same: that is what a switch is for."""
    switched = tmp_path / "switched"
    switch = f"power: {{driver: command, off: [touch, {switched}], on: [touch, {switched}]}}"
    with ssh_lab(tmp_path, ("replica", "replica"), dead=("pi02",)) as lab, opened(lab) as host:
        text = lab.inventory.read_text().replace("roles: [replica]", f"roles: [replica], {switch}")
        lab.inventory.write_text(text)
        i = ("-i", str(lab.inventory))
        claim(host, "b", BOB, 60)
        assert cli.main(["power", "off", "pi01", *i]) == 5
        assert "pi01 is taken by bob@bench" in capsys.readouterr().err
        assert cli.main(["power", "off", "pi01", "--check", *i]) == 5
        assert "pi01 is taken by bob@bench" in capsys.readouterr().err
        assert cli.main(["power", "off", "pi02", "--check", *i]) == 0
        assert capsys.readouterr().out == "pi02: power would go off\n"
        assert not switched.exists()
        assert cli.main(["power", "off", "pi02", *i]) == 0
        assert switched.exists()


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_what_would_run_is_said_of_hosts_that_are_free_and_ready(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`up --check` and `run --check`: the same look, and the same refusals, as without --check."""
    monkeypatch.chdir(tmp_path)
    for words in (["up"], ["run", "quick-start"]):
        assert cli.main([*words, "--check"]) == 0
        assert "would run gw1-broker, gw1-gateway" in capsys.readouterr().out
    with ssh_lab(tmp_path) as lab, opened(lab) as host:
        check = ["up", "--check", "-i", str(lab.inventory)]
        assert cli.main(check) == 3
        said = capsys.readouterr().err
        assert "pi01: not provisioned" in said
        assert f"testbed provision -i {lab.inventory} --limit pi01" in said
        claim(host, "b", BOB, 60)
        assert cli.main(check) == 5
        assert "pi01 is taken by bob@bench" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_with_check_nothing_is_taken_or_given_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ssh_lab(tmp_path) as lab, opened(lab) as host:
        i = ("-i", str(lab.inventory))
        assert cli.main(["lock", "--check", *i]) == 0
        assert "would be yours for 2h" in capsys.readouterr().out
        assert holder(host) is None
        claim(host, "b", BOB, 60)
        assert cli.main(["lock", "--check", *i]) == 5
        assert "pi01 is taken by bob@bench" in capsys.readouterr().err
        release(host, "b")
        assert cli.main(["lock", *i]) == 0
        assert cli.main(["unlock", "--check", *i]) == 0
        assert "would be taken from" in capsys.readouterr().out
        assert holder(host) is not None
        assert cli.main(["unlock", *i]) == 0
        assert holder(host) is None
