"""One conformance suite for every kind of host: what a fault or a campaign may rely on anywhere.

Commands and files: local ones, and a real OpenSSH server on loopback. Units: local processes, and
an emulated machine with systemd as its first process when the machine allows (mark `lab`).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from testbed.emulate.lab import EmulatedLab
from testbed.hosts.local import LocalHost
from testbed.hosts.port import (
    ACTION_CHARS_MAX,
    LINE_BYTES_MAX,
    CommandFailed,
    Host,
    HostFault,
    OutcomeUnknown,
    TransferFailed,
    Unit,
    UnitState,
)
from testbed.hosts.supervise import SupervisedUnit
from tests.testbed.emulate_support import emulated
from tests.testbed.emulate_support import host as emulated_host
from tests.testbed.hosts_support import SshServer, eventually, ssh_server_missing

NASTY = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "$HOME",
    "`id`",
    "\\",
    "a\nb",
    "*",
    "~",
    ";true",
    "&",
    "|",
    "!",
    "#",
    "%d %n %",
    "$(touch x)",
    "-n",
    "é€",
    "\t",
    "{a,b}",
    "$$",
]


@pytest.fixture(scope="module")
def systemd_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLab]:
    with emulated(tmp_path_factory.mktemp("lab") / "out", hosts=1) as lab:
        yield lab


@pytest.fixture(scope="module")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    if missing := ssh_server_missing():
        pytest.skip(missing)
    with SshServer(tmp_path_factory.mktemp("sshd") / "home") as server:
        yield server


SYSTEMD = pytest.param("systemd", marks=pytest.mark.lab)
units = pytest.mark.parametrize("host", ["local", SYSTEMD], indirect=True)
"""For tests of units: the plain SSH server runs where there may be no systemd."""
everywhere = pytest.mark.parametrize("host", ["local", "ssh", SYSTEMD], indirect=True)


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Host]:
    if request.param == "local":
        with LocalHost(tmp_path / "local") as local:
            yield local
        return
    if request.param == "systemd":
        lab = request.getfixturevalue("systemd_lab")
        with emulated_host(lab, "pi01", root=tmp_path.name) as remote:
            yield remote
        return
    server = request.getfixturevalue("ssh_server")
    with server.host(root=tmp_path / "r") as remote:
        yield remote


@pytest.fixture
def begin(host: Host) -> Iterator[Callable[..., Unit]]:
    """Starts units from shell text and stops every one of them at the end."""
    names: list[str] = []

    def start(name: str, script: str, *, restart: bool = True, **env: str) -> Unit:
        unit = Unit(name, ("sh", "-c", script), env, restart=restart)
        names.append(name)
        host.start(unit)
        return unit

    yield start
    for name in names:
        host.stop(name, timeout_s=1)


def test_a_command_returns_its_exit_code_and_both_streams(host: Host) -> None:
    result = host.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "out\n", "err\n")


def test_a_failed_command_names_the_host_the_command_and_what_it_said(host: Host) -> None:
    with pytest.raises(CommandFailed) as caught:
        host.run(["sh", "-c", "echo no disk >&2; exit 3"])
    for part in (host.name, "exit 3", "exit code 3", "no disk"):
        assert part in str(caught.value)


@units
def test_a_long_program_is_named_by_its_beginning(host: Host) -> None:
    """What is run is a whole program at times: nobody wants to read it in an error."""
    with pytest.raises(CommandFailed) as failed:
        host.run(["sh", "-c", "exit 3\n" + "# more\n" * 100])
    assert "sh -c 'exit 3 ...: exit code 3" in str(failed.value)
    with pytest.raises(CommandFailed) as failed:
        host.run(["sh", "-c", "exit 3", "x" * 5000])
    assert len(str(failed.value)) < ACTION_CHARS_MAX + 80


def test_a_program_that_is_not_there_reads_as_127(host: Host) -> None:
    assert host.run(["no-such-program"], check=False).exit_code == 127


def test_a_death_by_signal_reads_as_128_plus_its_number(host: Host) -> None:
    result = host.run(["sh", "-c", "kill -9 $$"], check=False)
    assert result.exit_code == 128 + signal.SIGKILL


def test_no_shell_ever_sees_an_argument(host: Host) -> None:
    result = host.run(["printf", "%s\\0", *NASTY])
    assert result.stdout.split("\0")[:-1] == NASTY


def test_environment_values_arrive_as_they_are(host: Host) -> None:
    for word in NASTY:
        assert host.run(["printenv", "WORD"], env={"WORD": word}).stdout == word + "\n"


def test_input_goes_in_and_end_of_file_follows(host: Host) -> None:
    data = os.urandom(300_000)
    assert host.run(["wc", "-c"], input=data).stdout.strip() == str(len(data))
    assert host.run(["cat"]).stdout == ""


def test_a_command_need_not_read_its_input(host: Host) -> None:
    assert host.run(["true"], input=b"x" * 3_000_000).exit_code == 0


def test_commands_run_in_the_root_that_is_ours(host: Host) -> None:
    assert host.run(["pwd"]).stdout == f"{host.root}\n"


def test_a_hanging_command_ends_at_its_deadline_with_an_unknown_outcome(host: Host) -> None:
    limit_s = 0.5
    while "pid" not in host.run(["ls"]).stdout.split():  # it had not even begun by then
        with pytest.raises(HostFault) as caught:
            host.run(["sh", "-c", "echo $$ >pid; exec sleep 600"], timeout_s=limit_s)
        limit_s *= 2
    assert isinstance(caught.value, OutcomeUnknown)
    assert "still running" in str(caught.value)
    assert host.name in str(caught.value)
    pid = host.get("pid").decode().strip()
    eventually(lambda: host.run(["kill", "-0", pid], check=False).exit_code != 0)


def test_endless_output_is_cut_off(host: Host) -> None:
    with pytest.raises(OutcomeUnknown, match="printed more than"):
        host.run(["yes"], timeout_s=60)


def test_a_file_is_put_whole_with_its_mode_and_comes_back_equal(host: Host) -> None:
    secret = os.urandom(100_000)
    host.put(secret, "deep/er/key", 0o600)
    assert host.get("deep/er/key") == secret
    assert host.run(["stat", "-c", "%a", "deep/er/key"]).stdout == "600\n"
    host.put(b"", "deep/er/key")
    assert host.get("deep/er/key") == b""
    assert host.run(["ls", "-A", "deep/er"]).stdout == "key\n", "no temporary file stays"


def test_a_nasty_file_name_is_just_a_name(host: Host) -> None:
    name = "a b'c\"$(x)\n%d"
    host.put(b"1", name)
    assert host.get(name) == b"1"


def test_a_put_that_fails_leaves_the_old_file(host: Host, tmp_path: Path) -> None:
    host.put(b"old", "file")
    with pytest.raises(TransferFailed, match="gone"):
        host.put(tmp_path / "gone", "file")
    assert host.get("file") == b"old"
    host.run(["mkdir", "directory"])
    with pytest.raises(TransferFailed, match=r"directory"):
        host.put(b"new", "directory")
    assert host.run(["ls", "-A"]).stdout.split() == sorted(host.run(["ls", "-A"]).stdout.split())
    assert ".part" not in host.run(["ls", "-A"]).stdout


def test_a_reader_sees_the_old_file_or_the_new_one_never_half(host: Host) -> None:
    versions = [bytes([n]) * 400_000 for n in (1, 2)]
    host.put(versions[0], "file")
    done = threading.Event()

    def write() -> None:
        for n in range(12):
            host.put(versions[n % 2], "file")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert host.get("file") in versions
    writer.join()


def test_a_big_file_goes_there_and_back(host: Host, tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(1024) * 24 * 1024)
    host.put(source, "big")
    host.fetch("big", copy)
    assert copy.read_bytes() == source.read_bytes()
    with pytest.raises(TransferFailed, match="use fetch"):
        host.get("big")


def test_a_missing_file_is_a_definite_failure_and_leaves_nothing_here(
    host: Host, tmp_path: Path
) -> None:
    with pytest.raises(TransferFailed, match="No such file"):
        host.get("missing")
    with pytest.raises(TransferFailed, match="No such file"):
        host.fetch("missing", tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert not list(tmp_path.glob("*.part"))


def test_follow_gives_every_line_from_the_start_over_rotation_until_closed(host: Host) -> None:
    host.put(b"one\ntwo\n", "events")
    with host.follow("events") as lines:
        assert list(islice(lines, 2)) == ["one", "two"]
        host.run(["sh", "-c", "printf thr >>events; printf 'ee\\n' >>events"])
        assert next(lines) == "three"
        host.run(["sh", "-c", "mv events old; echo four >events"])
        assert next(lines) == "four"
        threading.Timer(0.1, lines.close).start()
        assert list(lines) == []


@units
def test_follow_may_begin_before_the_file_does(host: Host) -> None:
    with host.follow("later") as lines:
        host.run(["sh", "-c", "echo born >later"])
        assert next(lines) == "born"


def test_a_line_without_an_end_is_not_kept_for_ever(host: Host) -> None:
    host.run(["sh", "-c", 'head -c "$1" /dev/zero >endless', "fill", str(2 * LINE_BYTES_MAX)])
    with host.follow("endless") as lines, pytest.raises(HostFault, match="line longer than"):
        next(lines)
    with (
        host.dialogue(["sh", "-c", "read -r line; cat /dev/zero"]) as line,
        pytest.raises(OutcomeUnknown, match="line longer than"),
    ):
        line.ask("hello")


def test_a_closed_follow_leaves_no_process(host: Host) -> None:
    host.put(b"x\n", "unique-name")
    with host.follow("unique-name") as lines:
        next(lines)
    eventually(lambda: "unique-name" not in host.run(["ps", "axww", "-o", "args"]).stdout)


@units
def test_a_unit_runs_until_it_is_stopped(host: Host, begin: Callable[..., Unit]) -> None:
    assert host.status("clock").state is UnitState.INACTIVE
    begin("clock", 'echo "$GREETING"; while :; do sleep 600; done', GREETING="it's 100% $HOME;")
    eventually(lambda: host.status("clock").pid is not None)
    with host.follow(host.log_path("clock")) as lines:
        assert next(lines) == "it's 100% $HOME;"
    host.stop("clock")
    status = host.status("clock")
    assert (status.state, status.pid) == (UnitState.INACTIVE, None)
    host.stop("clock")


def test_what_is_there_exists(host: Host) -> None:
    host.put(b"", "made/-n $HOME")
    host.run(["ln", "-s", "nowhere", "dangling"])
    assert host.exists("made")
    assert host.exists("made/-n $HOME")
    assert host.exists(str(host.root / "made"))
    assert not host.exists("made/other")
    assert not host.exists("dangling")
    assert not host.exists("made/-n $HOME/below a file")
    assert not host.exists("made/other", within_s=0.2)


def test_what_comes_while_the_host_looks_for_it_exists(host: Host) -> None:
    with ThreadPoolExecutor() as pool:
        there = pool.submit(host.exists, "comes", within_s=10.0)
        host.put(b"", "comes")
        assert there.result()


@units
def test_units_get_their_arguments_unchanged(host: Host) -> None:
    script = 'for w; do printf "%s\\0" "$w"; done >words; : >done'
    host.start(Unit("words", ("sh", "-c", script, "sh", *NASTY), restart=False))
    try:
        eventually(lambda: "done" in host.run(["ls"]).stdout)
        assert host.get("words").decode().split("\0")[:-1] == NASTY
    finally:
        host.stop("words")


@units
def test_starting_twice_changes_nothing_and_a_changed_unit_replaces(
    host: Host, begin: Callable[..., Unit]
) -> None:
    unit = begin("same", "exec sleep 600")
    eventually(lambda: host.status("same").pid is not None)
    pid = host.status("same").pid
    host.start(unit)
    assert host.status("same").pid == pid
    begin("same", "exec sleep 601")
    eventually(lambda: host.status("same").pid not in (None, pid))


@units
def test_a_killed_unit_comes_back_and_is_counted(host: Host, begin: Callable[..., Unit]) -> None:
    begin("phoenix", "exec sleep 600")
    eventually(lambda: host.status("phoenix").pid is not None)
    first = host.status("phoenix")
    host.signal("phoenix", signal.SIGKILL)
    eventually(lambda: host.status("phoenix").pid not in (None, first.pid))
    status = host.status("phoenix")
    assert status.state is UnitState.ACTIVE
    assert status.restarts == first.restarts + 1
    assert status.exit_code in (None, 128 + signal.SIGKILL)


@units
def test_a_unit_that_should_not_restart_shows_how_it_ended(
    host: Host, begin: Callable[..., Unit]
) -> None:
    begin("once-bad", "exit 7", restart=False)
    eventually(lambda: host.status("once-bad").state is UnitState.FAILED)
    assert host.status("once-bad").exit_code == 7
    begin("once-good", "exit 0", restart=False)
    eventually(lambda: host.status("once-good").exit_code == 0)
    assert host.status("once-good").state is UnitState.INACTIVE
    with pytest.raises(HostFault, match="no process"):
        host.signal("once-good", signal.SIGTERM)


@units
def test_units_lists_what_was_started_and_not_stopped(
    host: Host, begin: Callable[..., Unit]
) -> None:
    """And nothing else of the machine, whatever its services are called."""
    assert host.units() == ()
    begin("one", "exec sleep 600")
    begin("two", "exec sleep 600")
    assert sorted(host.units()) == ["one", "two"]
    host.stop("one")
    assert host.units() == ("two",)


@units
def test_a_start_command_does_on_the_host_what_start_does(
    host: Host, begin: Callable[..., Unit]
) -> None:
    """None where units end with this program anyway."""
    unit = begin("later", "exec sleep 600")
    command = host.start_command(unit)
    host.stop("later")
    if command is None:
        assert isinstance(host, LocalHost)
        return
    for _ in range(2):
        host.run(command.argv, input=command.input)
        eventually(lambda: host.status("later").state is UnitState.ACTIVE)


@units
def test_a_stop_command_does_on_the_host_what_stop_does(
    host: Host, begin: Callable[..., Unit]
) -> None:
    begin("ending", "exec sleep 600")
    command = host.stop_command("ending")
    if command is None:
        assert isinstance(host, LocalHost)
        return
    for _ in range(2):
        host.run(command.argv, input=command.input)
        assert host.status("ending").state is UnitState.INACTIVE
    assert "ending" not in host.units()


@units
def test_a_signal_command_does_on_the_host_what_signal_does(
    host: Host, begin: Callable[..., Unit]
) -> None:
    begin("paused", "exec sleep 600")
    command = host.signal_command("paused", signal.SIGCONT)
    if command is None:
        assert isinstance(host, LocalHost)
        return
    eventually(lambda: host.status("paused").pid is not None)
    pid = str(host.status("paused").pid)

    def state() -> str:
        return host.run(["ps", "-o", "state=", "-p", pid]).stdout.strip()[:1]

    host.signal("paused", signal.SIGSTOP)
    eventually(lambda: state() == "T")
    host.run(command.argv, input=command.input)
    eventually(lambda: state() != "T")


@units
def test_root_is_root_or_a_clear_refusal(host: Host) -> None:
    """Over SSH by sudo; on this machine only if testbed runs as root."""
    if isinstance(host, LocalHost) and os.geteuid() != 0:
        with pytest.raises(HostFault, match="this needs root"):
            host.run(["id", "-u"], root=True)
        return
    said = host.run(["sh", "-c", 'id -u; echo "$WORD"'], root=True, env={"WORD": "a b"}).stdout
    assert said.splitlines() == ["0", "a b"]


def test_a_login_that_may_not_become_root_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with LocalHost(tmp_path) as host:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        with pytest.raises(HostFault, match="fix: run testbed as root"):
            host.run(["true"], root=True)


def test_a_dialogue_is_one_answer_for_each_question(host: Host) -> None:
    script = 'while read -r line; do echo "$line!"; done; : >ended'
    with host.dialogue(["sh", "-c", script]) as line:
        assert [line.ask(str(n)) for n in range(20)] == [f"{n}!" for n in range(20)]
    with (
        host.dialogue(["sh", "-c", "read -r line; exit 3"]) as line,
        pytest.raises(OutcomeUnknown),
    ):
        line.ask("anybody there?", timeout_s=5)
    with host.dialogue(["sleep", "60"]) as line, pytest.raises(OutcomeUnknown, match="answer"):
        line.ask("hello", timeout_s=0.3)
    with (
        host.dialogue(["sh", "-c", "printf half; exec sleep 60"]) as line,
        pytest.raises(OutcomeUnknown, match="answer"),
    ):
        line.ask("and the other half?", timeout_s=0.3)


@units
def test_a_paused_unit_can_be_stopped(host: Host, begin: Callable[..., Unit]) -> None:
    begin("paused", "exec sleep 600")
    eventually(lambda: host.status("paused").pid is not None)
    host.signal("paused", signal.SIGSTOP)
    host.stop("paused", timeout_s=0.5)
    assert host.status("paused").state is UnitState.INACTIVE


@units
def test_stop_ends_a_stubborn_unit_and_its_children(host: Host, begin: Callable[..., Unit]) -> None:
    begin("mule", "trap '' TERM; sleep 7777 & while :; do sleep 0.1; done")
    eventually(lambda: "sleep 7777" in host.run(["ps", "axww", "-o", "args"]).stdout)
    host.stop("mule", timeout_s=0.5)
    eventually(lambda: "sleep 7777" not in host.run(["ps", "axww", "-o", "args"]).stdout)


@everywhere
def test_one_host_serves_many_threads(host: Host) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(lambda n: host.run(["echo", str(n)]).stdout, range(24))
        assert list(answers) == [f"{n}\n" for n in range(24)]


ORCHESTRATOR = """
import sys, threading
from pathlib import Path
from testbed.emulate.lab import EmulatedLab
from testbed.hosts.local import LocalHost
from testbed.hosts.port import Unit

host = LocalHost(Path(sys.argv[1]))
host.start(Unit("family", ("sh", "-c", "sleep 601 & echo $! $$ >pids; wait")))
threading.Thread(target=host.run, args=(["sh", "-c", "echo $$ >run; sleep 602"],)).start()
threading.Thread(target=lambda: list(host.follow("nothing"))).start()
print("ready", flush=True)
threading.Event().wait()
"""


def test_kill_minus_nine_of_the_orchestrator_leaves_no_child(tmp_path: Path) -> None:
    """Grandchildren, running commands and followed files included."""
    process = subprocess.Popen(
        [sys.executable, "-c", ORCHESTRATOR, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    files = [tmp_path / "pids", tmp_path / "run"]
    eventually(lambda: all(file.exists() and file.read_text() for file in files))
    assert all(_alive(int(pid)) for file in files for pid in file.read_text().split())
    process.kill()
    process.wait()
    process.stdout.close()
    eventually(lambda: str(tmp_path) not in _command_lines())
    for file in files:
        for pid in file.read_text().split():
            eventually(lambda pid=pid: not _alive(int(pid)))  # type: ignore[misc]


def test_a_unit_that_dies_at_once_is_given_up_as_failed(tmp_path: Path) -> None:
    with LocalHost(tmp_path) as host:
        host.start(Unit("hopeless", ("no-such-program",)))
        eventually(lambda: host.status("hopeless").state is UnitState.FAILED)
        assert host.status("hopeless").exit_code == 127


def test_how_a_local_unit_ended_is_known_as_soon_as_it_has_ended(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    once = Unit("once", ("sh", "-c", "read -r line <go; exit 7"), restart=False)
    unit = SupervisedUnit(once, tmp_path, tmp_path / "log")
    lock = unit._lock
    seen: list[tuple[int | None, UnitState]] = []

    class Watched:
        """All that others can ever see, since they look under this lock."""

        def __enter__(self) -> None:
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            seen.append((unit._exit_code, unit._state))
            lock.release()

    unit._lock = Watched()  # type: ignore[assignment]
    (tmp_path / "go").write_text("\n")
    unit._thread.join()
    assert seen == [(7, UnitState.FAILED)]


def test_a_local_unit_sees_no_secret_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "secret")
    with LocalHost(tmp_path) as host:
        assert "TOKEN" not in host.run(["env"]).stdout


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _command_lines() -> str:
    assert shutil.which("ps"), shlex.join(["apt-get", "install", "procps"])
    return subprocess.run(
        ["ps", "axww", "-o", "args"], capture_output=True, text=True, check=True
    ).stdout


def test_a_units_log_is_bounded_and_what_is_dropped_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.hosts.supervise.LOG_BYTES_MAX", 1000)
    with LocalHost(tmp_path) as host:
        host.start(Unit("talker", ("sh", "-c", "while :; do seq 100; done")))
        log = Path(str(host.log_path("talker")))
        notice = re.compile(rb"[1-9]\d* bytes of older output were dropped\n")

        def is_noted() -> bool:
            with suppress(FileNotFoundError):  # it is renamed, and begun again
                return notice.match(log.read_bytes()) is not None
            return False

        eventually(is_noted)
        host.stop("talker")
        pieces = [path.stat().st_size for path in log.parent.glob("talker.log*")]
    assert len(pieces) <= 2
    assert max(pieces) < 200_000, "the limit, and one piece that was read at once"
