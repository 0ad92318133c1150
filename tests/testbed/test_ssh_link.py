"""The way to a machine over SSH: detours, logins, silence, and what waits at its end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from testbed.hosts.port import (
    HostFault,
    OutcomeUnknown,
    Unit,
    UnitState,
    Unreachable,
)
from testbed.hosts.ssh import SshHost
from tests.testbed.hosts_support import SshServer, eventually, free_port, ssh_server_missing

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())

RELAY = Path(__file__).with_name("proxy_command.py")


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
    config.write_text(f"Host *\n  ProxyCommand {sys.executable} {RELAY} %h %p\n")
    with server.host(root=tmp_path / "r", ssh_config=config) as host:
        assert host.run(["echo", "through"]).stdout == "through\n"


def test_a_refused_login_says_how_to_bring_the_key_there(server: SshServer, tmp_path: Path) -> None:
    stranger = server.home / "host_key"
    with (
        server.host(root=tmp_path / "r", key=stranger) as host,
        pytest.raises(Unreachable, match="login refused") as caught,
    ):
        host.run(["true"])
    assert f"ssh-copy-id -i {stranger}" in str(caught.value)


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
