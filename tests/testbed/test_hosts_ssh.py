"""What only an SSH connection can suffer: strangers, silence, drops, detours."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from inventory.load import load_lab
from testbed.hosts.files import CHUNK_BYTES, chunks
from testbed.hosts.host_keys import fingerprint, trust
from testbed.hosts.port import (
    SLOWNESS_MAX,
    Dialogue,
    HostFault,
    HostKeyRefused,
    OutcomeUnknown,
    TransferFailed,
    Unit,
    UnitState,
    UnitStatus,
    Unreachable,
)
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_follow import close_channel, execute
from testbed.provision.configs import READY
from testbed.provision.deployment import Deployment
from tests.testbed.hosts_support import SshServer, eventually, free_port, ssh_server_missing

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path / "sshd") as running:
        yield running


def fingerprint_of(public: Path) -> str:
    """By OpenSSH itself."""
    argv = ["ssh-keygen", "-lf", str(public)]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return shown.split()[1]


def dropping(server: SshServer, when: Callable[[], bool]) -> threading.Thread:
    """Cuts every connection once the condition holds."""

    def cut() -> None:
        eventually(when)
        server.drop_connections()

    thread = threading.Thread(target=cut)
    thread.start()
    return thread


def test_an_unknown_machine_gets_nothing_and_its_fingerprint_is_shown(
    server: SshServer, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    with (
        server.host(root=tmp_path / "r", known_hosts=empty) as host,
        pytest.raises(HostKeyRefused) as caught,
    ):
        host.run(["true"])
    assert caught.value.fingerprint == fingerprint_of(server.home / "host_key.pub")
    for part in (caught.value.fingerprint, "testbed inventory trust pi01", str(empty)):
        assert part in str(caught.value)
    assert not empty.exists(), "no key is ever accepted by itself"
    assert "Accepted" not in (server.home / "log").read_text()


def test_a_changed_host_key_is_refused_with_both_fingerprints(
    server: SshServer, tmp_path: Path
) -> None:
    other = fingerprint_of(server.home / "client_key.pub")
    words = server.known_hosts.read_text().split()[0]
    words += " " + (server.home / "client_key.pub").read_text()
    server.known_hosts.write_text(words)
    with server.host(root=tmp_path / "r") as host, pytest.raises(HostKeyRefused) as caught:
        host.run(["true"])
    for part in ("CHANGED", other, fingerprint_of(server.home / "host_key.pub"), "trust pi01"):
        assert part in str(caught.value)


def test_trusting_a_machine_replaces_its_key_and_keeps_the_others(
    server: SshServer, tmp_path: Path
) -> None:
    known_hosts = tmp_path / "known_hosts"
    stale = server.known_hosts.read_text().split()[0]
    stale += " " + (server.home / "client_key.pub").read_text()
    known_hosts.write_text("# my lab\nother ssh-ed25519 AAAA\n" + stale)
    with server.host(root=tmp_path / "r") as host:
        shown = host.offered_key()
    key = shown.key
    assert (shown.addr, shown.port) == ("127.0.0.1", server.port)
    assert fingerprint(key) == fingerprint_of(server.home / "host_key.pub")
    trust(known_hosts, "127.0.0.1", server.port, key)
    assert known_hosts.read_text() == (
        "# my lab\nother ssh-ed25519 AAAA\n" + server.known_hosts.read_text()
    )


def test_trusting_a_machine_replaces_what_was_hashed_and_keeps_other_names(tmp_path: Path) -> None:
    """As Debian's ssh writes known_hosts: the old key would else be found before the new one."""
    old, new = (paramiko.ECDSAKey.generate() for _ in range(2))
    hashed = paramiko.HostKeys.hash_host("[127.0.0.1]:2222")
    stale = f"{old.get_name()} {old.get_base64()}"
    known_hosts = tmp_path / "known_hosts"
    known_hosts.write_text(f"{hashed} {stale}\n[127.0.0.1]:2222,pi01 {stale}\n")
    trust(known_hosts, "127.0.0.1", 2222, new)
    known = paramiko.HostKeys(str(known_hosts))
    assert known.check("[127.0.0.1]:2222", new)
    assert known.check("pi01", old), "the line's other name was not asked about"


def test_trusting_a_machine_keeps_the_file_what_it_was(tmp_path: Path) -> None:
    """Linked from elsewhere, for its owner's eyes only, with a comment of another time."""
    real, linked = tmp_path / "dotfiles", tmp_path / "known_hosts"
    real.write_bytes(b"# B\xfcro\n")
    real.chmod(0o600)
    linked.symlink_to(real)
    trust(linked, "10.0.0.9", 22, paramiko.ECDSAKey.generate())
    assert linked.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    assert real.read_bytes().startswith(b"# B\xfcro\n10.0.0.9 ecdsa")


def test_a_refused_login_says_how_to_bring_the_key_there(server: SshServer, tmp_path: Path) -> None:
    stranger = server.home / "host_key"
    with (
        server.host(root=tmp_path / "r", key=stranger) as host,
        pytest.raises(Unreachable, match="login refused") as caught,
    ):
        host.run(["true"])
    assert f"ssh-copy-id -i {stranger}" in str(caught.value)


def test_a_dead_machine_is_a_definite_failure(server: SshServer, tmp_path: Path) -> None:
    with (
        server.host(root=tmp_path / "r", port=free_port()) as host,
        pytest.raises(Unreachable, match="powered") as caught,
    ):
        host.run(["true"])
    assert "pi01" in str(caught.value)


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-tarpit\r\n"], ids=["banner", "key exchange"])
def test_the_timeout_covers_every_stage_of_connecting(
    server: SshServer, tmp_path: Path, greeting: bytes
) -> None:
    """A machine that accepts and then says nothing must not hold the run (Fabric's trap)."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answered: list[socket.socket] = []

        def accept() -> None:
            connection, _ = silent.accept()
            answered.append(connection)
            connection.sendall(greeting)

        threading.Thread(target=accept, daemon=True).start()
        port = silent.getsockname()[1]
        began = time.monotonic()
        with (
            server.host(root=tmp_path / "r", port=port, connect_timeout_s=0.4) as host,
            pytest.raises(Unreachable, match="in time"),
        ):
            host.run(["true"])
        assert time.monotonic() - began < 10, "the limit is far from paramiko's own 15 s"
        for connection in answered:
            connection.close()


def test_the_timeout_covers_the_way_through_a_jump_host(server: SshServer, tmp_path: Path) -> None:
    """Fabric opens the tunnel with paramiko's limit of an hour."""
    with socket.create_server(("127.0.0.1", 0)) as silent, server.host(root=tmp_path) as gate:
        port = silent.getsockname()[1]
        with (
            server.host(root=tmp_path / "r", jump=gate, port=port, connect_timeout_s=0.6) as host,
            pytest.raises(Unreachable, match="in time"),
        ):
            host.run(["true"])


def test_many_machines_through_one_jump_host_at_once(server: SshServer, tmp_path: Path) -> None:
    """One connection to the jump host carries all of them (Fabric's groups race here)."""
    with SshServer(tmp_path / "far") as far, server.host(root=tmp_path / "g", name="gw") as gate:
        hosts = [far.host(root=tmp_path / "r", name=f"pi{n:02}", jump=gate) for n in range(6)]
        with ThreadPoolExecutor(len(hosts)) as pool:
            answers = pool.map(lambda host: host.run(["echo", host.name]).stdout, hosts)
            assert list(answers) == [f"pi{n:02}\n" for n in range(6)]
        for host in hosts:
            host.close()
    assert (server.home / "log").read_text().count("Accepted publickey") == 1
    assert (far.home / "log").read_text().count("Accepted publickey") == len(hosts)


def test_a_jump_host_with_an_unknown_key_is_refused_too(server: SshServer, tmp_path: Path) -> None:
    with SshServer(tmp_path / "far") as far:
        gate = server.host(root=tmp_path / "g", name="gw", known_hosts=tmp_path / "empty")
        with pytest.raises(HostKeyRefused, match="trust gw"):
            far.host(root=tmp_path / "r", jump=gate).run(["true"])


def test_ssh_config_is_honoured(server: SshServer, tmp_path: Path) -> None:
    """An alias with address, port, user, key, known hosts and a jump host, all from the file."""
    with SshServer(tmp_path / "far") as far:
        both = server.known_hosts.read_text() + far.known_hosts.read_text()
        (tmp_path / "known").write_text(both)
        keys = f"IdentityFile {server.key}\n  IdentityFile {far.key}\n"
        common = f"  User {far.settings().user}\n  {keys}  UserKnownHostsFile {tmp_path}/known\n"
        config = tmp_path / "config"
        config.write_text(
            f"Host gate\n  HostName 127.0.0.1\n  Port {server.port}\n{common}"
            f"Host bench-pi\n  HostName 127.0.0.1\n  Port {far.port}\n  ProxyJump gate\n{common}"
        )
        nothing = replace(
            far.settings(), user=None, port=None, key=None, known_hosts=None, ssh_config=config
        )
        with SshHost("pi01", "bench-pi", nothing, root=str(tmp_path / "r")) as host:
            assert host.run(["echo", "there"]).stdout == "there\n"
    assert "Accepted publickey" in (server.home / "log").read_text()


@pytest.mark.parametrize(
    "text",
    [b"Match host=foo*\n  User nobody\n", b"Match final all\n  Compression no\n", b"# B\xfcro\n"],
    ids=["match host=", "match final", "latin-1"],
)
def test_what_openssh_accepts_in_ssh_config_is_accepted(
    server: SshServer, tmp_path: Path, text: bytes
) -> None:
    config = tmp_path / "config"
    config.write_bytes(text)
    with server.host(root=tmp_path / "r", ssh_config=config) as host:
        assert host.run(["true"]).exit_code == 0


def test_what_openssh_refuses_in_ssh_config_is_named_with_its_line(
    server: SshServer, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n  Colour green\n")
    with (
        server.host(root=tmp_path / "r", ssh_config=config) as host,
        pytest.raises(Unreachable, match=r"(?s)line 2: Bad configuration option.*fix: .*ssh -G"),
    ):
        host.run(["true"])


def test_a_way_through_a_command_of_ssh_config(server: SshServer, tmp_path: Path) -> None:
    """`ssh -G` leaves %h and %p of a ProxyCommand to us."""
    config = tmp_path / "config"
    relay = tmp_path / "relay.py"
    relay.write_text(RELAY)
    config.write_text(f"Host *\n  ProxyCommand {sys.executable} {relay} %h %p\n")
    with server.host(root=tmp_path / "r", ssh_config=config) as host:
        assert host.run(["echo", "through"]).stdout == "through\n"


RELAY = """
import os, socket, sys, threading
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
def back():
    while piece := there.recv(65536):
        os.write(1, piece)
    os._exit(0)
threading.Thread(target=back).start()
while piece := os.read(0, 65536):
    there.sendall(piece)
os._exit(0)
"""


def test_known_hosts_may_have_marks_and_lines_of_others(server: SshServer, tmp_path: Path) -> None:
    """A certificate authority's line and a damaged line about somebody else are no obstacle."""
    own = server.known_hosts.read_text()
    kind, key = own.split()[1:3]
    known = tmp_path / "known"
    known.write_text(f"@cert-authority *.example.net {kind} {key}\nother {kind} A\n{own}")
    with server.host(root=tmp_path / "r", known_hosts=known) as host:
        assert host.run(["true"]).exit_code == 0
    known.write_text(f"@cert-authority * {kind} {key}\n")
    with (
        server.host(root=tmp_path / "r", known_hosts=known) as host,
        pytest.raises(HostKeyRefused, match="unknown host key"),
    ):
        host.run(["true"])
    known.write_text(f"{own}@revoked * {kind} {key}\n")
    with (
        server.host(root=tmp_path / "r", known_hosts=known) as host,
        pytest.raises(HostKeyRefused, match="REVOKED"),
    ):
        host.run(["true"])
    known.write_text(own.replace(key, "A"))
    with (
        server.host(root=tmp_path / "r", known_hosts=known) as host,
        pytest.raises(Unreachable, match=rf"cannot read known hosts {known}.*\n.*that line"),
    ):
        host.run(["true"])


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent on this machine")
def test_a_key_with_a_passphrase_is_used_through_the_agent(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it is said how the agent gets it."""
    locked = tmp_path / "locked"
    shutil.copy(server.key, locked)
    keygen = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret words", "-f", str(locked)]
    subprocess.run(keygen, check=True, stdout=subprocess.DEVNULL)
    socket_path = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.DEVNULL)
    try:
        eventually(socket_path.exists)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
        with (
            server.host(root=tmp_path / "r", key=locked) as host,
            pytest.raises(Unreachable, match=rf"passphrase.*\n.*ssh-add {locked}"),
        ):
            host.run(["true"])
        # The very same key: the agent knows it by its public part.
        subprocess.run(["ssh-add", "-q", server.key], check=True)
        with server.host(root=tmp_path / "r", key=locked) as host:
            assert host.run(["true"]).exit_code == 0
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.parametrize(
    ("name", "says"),
    [("gone", "No such file.*\n.*in the inventory"), ("client_key.pub", "no private key")],
)
def test_a_key_that_is_none_is_named(
    server: SshServer, tmp_path: Path, name: str, says: str
) -> None:
    with (
        server.host(root=tmp_path / "r", key=server.home / name) as host,
        pytest.raises(Unreachable, match=says),
    ):
        host.run(["true"])


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


@pytest.mark.parametrize("command", ["echo no", "exec csh-is-missing"])
def test_an_answer_that_is_not_a_shells_is_recognised(
    server: SshServer, tmp_path: Path, command: str
) -> None:
    """A restricted login, or one that is no POSIX shell, is named at the first contact."""
    server.stop()
    config = server.home / "config"
    config.write_text(f"{config.read_text()}ForceCommand {command}\n")
    server.start()
    with server.host(root=tmp_path / "r") as host, pytest.raises(Unreachable, match="POSIX shell"):
        host.run(["true"])


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


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="this machine has systemd")
def test_a_machine_without_systemd_has_no_units_and_refuses_to_start_one(
    server: SshServer, tmp_path: Path
) -> None:
    """It is not left half supported: whoever wants a process kept running is told what to do."""
    with server.host(root=tmp_path / "r") as host:
        assert host.units() == ()
        assert host.status("one").state is UnitState.INACTIVE
        host.stop("one")
        with pytest.raises(HostFault, match=r"no systemd.*\n.*Raspberry Pi OS"):
            host.start(Unit("one", ("sleep", "600")))


class Mute(paramiko.ServerInterface):
    """Lets everybody in, opens channels, and never answers what is asked over one."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.over = threading.Event()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.common.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        self.asked.set()
        self.over.wait()
        return False


@contextmanager
def muted(server: SshServer, mute: Mute) -> Iterator[int]:
    """The port of such a machine; its host key is the real server's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(
                paramiko.Ed25519Key.from_private_key_file(str(server.home / "host_key"))
            )
            transport.start_server(event=threading.Event(), server=mute)

        threading.Thread(target=serve, daemon=True).start()
        port = listener.getsockname()[1]
        (server.home / "muted").write_text(
            server.known_hosts.read_text().replace(str(server.port), str(port))
        )
        try:
            yield port
        finally:
            mute.over.set()


def test_a_machine_that_takes_a_command_and_says_nothing_is_given_up(
    server: SshServer, tmp_path: Path
) -> None:
    """A host whose disk hangs does so: its sshd lives, and cannot start anything."""
    mute = Mute()
    outcome: list[BaseException] = []

    def ask(host: SshHost) -> None:
        try:
            host._link._connection([], time.monotonic() + 60, "connect")
            host._commands.run("true", "say", time.monotonic() + 3, None, bytes)
        except BaseException as error:
            outcome.append(error)

    known = server.home / "muted"
    with (
        muted(server, mute) as port,
        server.host(root=tmp_path / "r", port=port, known_hosts=known) as host,
    ):
        asking = threading.Thread(target=ask, args=(host,), daemon=True)
        asking.start()
        assert mute.asked.wait(60)
        asking.join(60)
        given_up = list(outcome)
    assert [type(error) for error in given_up] == [OutcomeUnknown]
    assert "deadline" in str(given_up[0])


def test_a_machine_that_is_slow_to_let_us_in_has_not_refused_the_login(
    server: SshServer, tmp_path: Path
) -> None:
    """Its owner must not be told to bring the key there."""

    class Pondering(Mute):
        def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
            self.over.wait()
            return paramiko.common.AUTH_FAILED

    known = server.home / "muted"
    with (
        muted(server, Pondering()) as port,
        server.host(root=tmp_path / "r", port=port, known_hosts=known, connect_timeout_s=2) as host,
        pytest.raises(Unreachable, match="in time"),
    ):
        host.run(["true"])


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
