"""Commands, dialogues and files over one SSH connection: sessions, deadlines, drops."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import paramiko
import pytest

from inventory.load import load_lab
from testbed.hosts.files import CHUNK_BYTES, chunks
from testbed.hosts.port import (
    SLOWNESS_MAX,
    Dialogue,
    OutcomeUnknown,
    TransferFailed,
    UnitState,
    UnitStatus,
    Unreachable,
)
from testbed.hosts.ssh_channel import close_channel, execute
from testbed.provision.configs import READY
from testbed.provision.deployment import Deployment
from tests.testbed.hosts_support import SshServer, eventually, ssh_server_missing

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


def dropping(server: SshServer, when: Callable[[], bool]) -> threading.Thread:
    """Cuts every connection once the condition holds."""

    def cut() -> None:
        eventually(when)
        server.drop_connections()

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


def test_deadlines_are_as_long_as_the_host_is_slow(server: SshServer, tmp_path: Path) -> None:
    """Measured at the first contact, or said in the inventory; the message names what exists."""
    with server.host(root=tmp_path / "r") as host:
        assert 1 <= host.slowness <= SLOWNESS_MAX
    with server.host(root=tmp_path / "r", slowness=SLOWNESS_MAX) as slow:
        assert slow.slowness == SLOWNESS_MAX
        assert slow.run(["sleep", "1"], timeout_s=0.1).exit_code == 0
        with slow.dialogue(["sh", "-c", "read -r _; sleep 1; echo yes"]) as line:
            assert line.ask("", timeout_s=0.1) == "yes"
    with (
        server.host(root=tmp_path / "r", slowness=1) as fast,
        pytest.raises(OutcomeUnknown, match=r"slowness: in the inventory"),
    ):
        fast.run(["sleep", "600"], timeout_s=0.3)


def test_forty_threads_at_once_on_a_stock_server(server: SshServer, tmp_path: Path) -> None:
    """OpenSSH refuses the eleventh session, and Paramiko remembers a refusal in one place."""
    with server.host(root=tmp_path / "r") as host, ThreadPoolExecutor(40) as pool:
        answers = pool.map(lambda n: host.run(["sh", "-c", f"sleep 0.2; echo {n}"]), range(80))
        assert [answer.stdout for answer in answers] == [f"{n}\n" for n in range(80)]


def test_a_connection_that_drops_in_mid_command_leaves_the_outcome_unknown(
    server: SshServer, tmp_path: Path
) -> None:
    with server.host(root=tmp_path / "r") as host:
        host.run(["true"])
        cut = dropping(server, (tmp_path / "r/on").exists)
        with pytest.raises(OutcomeUnknown, match="connection lost"):
            host.run(["sh", "-c", ": >on; exec sleep 20"], timeout_s=25)
        cut.join()
        assert host.run(["echo", "again"]).stdout == "again\n", "the next call connects again"


def test_a_connection_that_dropped_while_idle_is_opened_again(
    server: SshServer, tmp_path: Path
) -> None:
    with server.host(root=tmp_path / "r") as host:
        host.run(["true"])
        server.drop_connections()
        assert host.run(["echo", "again"]).stdout == "again\n"


def test_a_connection_that_dropped_while_a_process_was_waited_for_is_opened_again(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly all the time of a start is such a wait."""
    lab = load_lab()
    with server.host(root=tmp_path / "r") as host, ThreadPoolExecutor() as pool:
        deployment = Deployment(lab, dict.fromkeys(lab.hosts, host), {}, print)
        node = deployment.with_role("replica")[0]
        ready = node.file(READY)
        monkeypatch.setattr(host, "status", lambda _: UnitStatus(UnitState.ACTIVE))
        waiting = pool.submit(deployment.wait_ready, node)
        look = ["pgrep", "-f", f"hosts/exists.sh {ready}"]
        dropping(server, lambda: subprocess.run(look, check=False).returncode == 0).join()
        host.put(b"", ready)
        waiting.result()


@pytest.fixture
def late_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent over a channel is held up, so that the other end may close it first."""
    send = paramiko.Transport._send_user_message  # type: ignore[attr-defined]

    def late(transport: paramiko.Transport, message: paramiko.Message) -> None:
        if message.asbytes()[:1] in (
            paramiko.common.cMSG_CHANNEL_DATA,
            paramiko.common.cMSG_CHANNEL_EOF,
        ):
            threading.Event().wait(0.2)
        send(transport, message)

    monkeypatch.setattr(paramiko.Transport, "_send_user_message", late)


@pytest.mark.usefixtures("late_sending")
@pytest.mark.parametrize("given", [None, b"", b"unread"], ids=["none", "empty", "unread"])
def test_a_command_that_ends_at_once_takes_nobody_with_it(
    server: SshServer, tmp_path: Path, given: bytes | None
) -> None:
    """OpenSSH ends the whole connection when something comes for a channel that is closed."""
    with server.host(root=tmp_path / "r") as host, host.dialogue(["cat"]) as other:
        assert other.ask("hello") == "hello"
        for _ in range(3):
            assert host.run(["true"], input=given).exit_code == 0
        assert other.ask("still there") == "still there"


@pytest.mark.usefixtures("late_sending")
def test_a_dialogue_that_ended_takes_nobody_with_it(server: SshServer, tmp_path: Path) -> None:
    with server.host(root=tmp_path / "r") as host, host.dialogue(["cat"]) as other:
        assert other.ask("hello") == "hello"
        with host.dialogue(["head", "-n", "1"]) as short:
            assert short.ask("first") == "first"
            with pytest.raises(OutcomeUnknown, match="ended"):
                short.ask("second")
        assert other.ask("still there") == "still there"


def test_a_command_that_does_not_read_its_input_is_no_lost_connection(
    server: SshServer, tmp_path: Path
) -> None:
    with server.host(root=tmp_path / "r") as host:
        result = host.run(["false"], input=bytes(8 * 1024 * 1024), check=False)
    assert result.exit_code == 1


def test_a_thread_that_lost_its_connection_leaves_the_next_one_alone(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_channel = paramiko.Transport.open_channel
    talks: list[Dialogue] = []

    def slowly(transport: paramiko.Transport, *args: object, **more: object) -> paramiko.Channel:
        """Its connection breaks, and before it has noticed, another thread has a new one."""
        monkeypatch.setattr(paramiko.Transport, "open_channel", open_channel)
        server.drop_connections()
        eventually(lambda: not transport.is_active())
        talks.append(host.dialogue(["cat"]))
        return open_channel(transport, *args, **more)  # type: ignore[arg-type]

    with server.host(root=tmp_path / "r") as host:
        host.run(["true"])
        monkeypatch.setattr(paramiko.Transport, "open_channel", slowly)
        host.run(["true"])
        with talks[0] as other:
            assert other.ask("still there") == "still there"


def test_more_sessions_than_a_server_gives_one_connection(
    server: SshServer, tmp_path: Path
) -> None:
    """OpenSSH gives ten, and a machine may have more nodes whose events are followed."""
    with server.host(root=tmp_path / "r") as host, ExitStack() as open_:
        talks = [open_.enter_context(host.dialogue(["cat"])) for _ in range(25)]
        for number, talk in enumerate(talks):
            assert talk.ask(str(number)) == str(number)
        assert host.run(["echo", "more"]).stdout == "more\n"
    logins = (server.home / "log").read_text().count("Accepted publickey")
    assert logins == 3


def test_a_machine_that_gives_no_session_at_all_says_so(server: SshServer, tmp_path: Path) -> None:
    server.stop()
    config = server.home / "config"
    config.write_text(config.read_text() + "MaxSessions 0\n")
    server.start()
    with (
        server.host(root=tmp_path / "r") as host,
        pytest.raises(Unreachable, match=r"(?s)refused.*MaxSessions"),
    ):
        host.run(["true"])


def test_a_file_may_say_nothing_for_longer_than_a_command_may_take(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So does the log of a spare that nobody has started yet."""
    with server.host(root=tmp_path / "r") as host:
        host.run(["true"])
        monkeypatch.setattr("testbed.hosts.ssh.COMMAND_TIMEOUT_S", 3.0)
        with host.follow("events") as lines:
            host.run(["sh", "-c", "(sleep 4; echo late >events) >/dev/null 2>&1 &"])
            assert next(lines) == "late"


def test_a_dropped_follow_says_so(server: SshServer, tmp_path: Path) -> None:
    with server.host(root=tmp_path / "r") as host:
        host.put(b"one\n", "events")
        with host.follow("events") as lines:
            assert next(lines) == "one"
            server.drop_connections()
            with pytest.raises(Unreachable, match="connection lost"):
                next(lines)


def test_a_dropped_upload_leaves_the_old_file_and_no_rest(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "r"
    big = bytes(4 * CHUNK_BYTES)
    with server.host(root=root) as host:
        host.put(b"old", "file")
        cut = dropping(server, lambda: any(root.glob("*.part.*")))

        def held_up(source: bytes) -> Iterator[bytes]:
            """It cannot have arrived before the connection is cut."""
            first, *rest = chunks(source)
            yield first
            cut.join()
            yield from rest

        monkeypatch.setattr("testbed.hosts.ssh.chunks", held_up)
        with pytest.raises(OutcomeUnknown):
            host.put(big, "file")
        cut.join()
        assert host.get("file") == b"old"
        eventually(lambda: not any(root.glob("*.part.*")))


def test_a_login_that_prints_and_exports_changes_no_answer(
    server: SshServer, tmp_path: Path
) -> None:
    """A greeting in .bashrc, also without a line's end; PYTHONPATH, as ROS has it; German."""
    greeting = tmp_path / "greeting"
    greeting.write_text(
        "head -c 200000 /dev/zero; echo; echo Hello; printf half\n"
        f"export PYTHONPATH={tmp_path} LC_ALL=de_DE.UTF-8\n"
        'exec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    server.stop()
    config = server.home / "config"
    config.write_text(config.read_text() + f"ForceCommand sh {greeting}\n")
    server.start()
    with server.host(root=tmp_path / "r") as host:
        assert host.run(["printf", "said"]).stdout == "said"
        assert host.run(["printenv", "PYTHONPATH"], check=False).exit_code == 1
        assert host.run(["printenv", "PYTHONPATH"], env={"PYTHONPATH": "/x"}).stdout == "/x\n"
        host.put(b"one\n", "file")
        assert host.get("file") == b"one\n"
        host.fetch("file", tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == b"one\n"
        with pytest.raises(TransferFailed, match="No such file"):
            host.get("missing")
        with host.follow("file") as lines:
            assert next(lines) == "one"
        with host.dialogue(["cat"]) as line:
            assert line.ask("word") == "word"


def test_a_command_that_goes_on_talking_is_not_waited_for_longer(
    server: SshServer, tmp_path: Path
) -> None:
    """Each line that came put the deadline off, and the machine's own limit looked like a failure
    of the command."""
    talk = "while :; do echo line; sleep 0.01; done"
    with (
        server.host(root=tmp_path / "r") as host,
        pytest.raises(OutcomeUnknown, match="deadline"),
    ):
        host.run(["sh", "-c", talk], timeout_s=0.5)


def test_a_command_that_begins_in_the_moment_of_its_deadline_is_no_lost_connection(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed_at_once(channel: paramiko.Channel, command: str, deadline_s: float) -> None:
        """Who watches over the deadline was on his way already."""
        execute(channel, command, deadline_s)
        eventually(lambda: time.monotonic() >= deadline_s)
        close_channel(channel)

    with server.host(root=tmp_path / "r") as host:
        host.run(["true"])
        monkeypatch.setattr("testbed.hosts.ssh_command.execute", closed_at_once)
        with pytest.raises(OutcomeUnknown, match="still running"):
            host.run(["sleep", "600"], timeout_s=3)
