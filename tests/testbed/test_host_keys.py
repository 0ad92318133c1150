"""Whom an SSH connection speaks with: a machine is known by its key, or gets nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import paramiko
import pytest

from testbed.hosts.host_keys import fingerprint, trust
from testbed.hosts.port import (
    HostKeyRefused,
    Unreachable,
)
from tests.testbed.hosts_support import SshServer, ssh_server_missing

pytestmark = pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())


def fingerprint_of(public: Path) -> str:
    """By OpenSSH itself."""
    argv = ["ssh-keygen", "-lf", str(public)]
    shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return shown.split()[1]


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


def test_a_jump_host_with_an_unknown_key_is_refused_too(server: SshServer, tmp_path: Path) -> None:
    with SshServer(tmp_path / "far") as far:
        gate = server.host(root=tmp_path / "g", name="gw", known_hosts=tmp_path / "empty")
        with pytest.raises(HostKeyRefused, match="trust gw"):
            far.host(root=tmp_path / "r", jump=gate).run(["true"])


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
