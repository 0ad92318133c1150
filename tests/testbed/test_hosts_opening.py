"""Inventory entries become hosts; those behind one jump host share one connection to it."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed.errors import ConfigurationError
from testbed.hosts.opening import limited, ssh_hosts
from tests.testbed.hosts_support import SshServer, ssh_server_missing

INVENTORY = """\
schema: testbed.inventory/1
lab: mixed
chain: {{f: 0}}
defaults:
  ssh: {{user: {user}, key: ./key, known_hosts: ./known, jump: gate}}
  net: {{mgmt: eth0, data: eth1}}
hosts:
  gate: {{addr: 127.0.0.1, ssh: {{port: {near}}}}}
  pi01: {{addr: localhost, ssh: {{port: {far}}}, roles: [replica]}}
  pi02: {{addr: ip6-localhost, roles: [replica], state: quarantined, reason: "undervoltage"}}
  here: {{connection: local, roles: [replica]}}
"""


def write_lab(directory: Path, near: int, far: int) -> Path:
    path = directory / "lab.yaml"
    path.write_text(INVENTORY.format(user=getpass.getuser(), near=near, far=far))
    return path


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_hosts_behind_a_jump_host_of_the_same_lab(tmp_path: Path) -> None:
    """Key and known_hosts are found relative to the file; nothing connects twice."""
    with SshServer(tmp_path / "near") as near, SshServer(tmp_path / "far") as far:
        near.key.rename(tmp_path / "key")
        (far.home / "authorized_keys").write_text((near.home / "client_key.pub").read_text())
        known = near.known_hosts.read_text()
        known += far.known_hosts.read_text().replace("127.0.0.1", "localhost")
        (tmp_path / "known").write_text(known)
        lab = load_lab(write_lab(tmp_path, near.port, far.port))
        with ssh_hosts(lab, limited(lab, None)) as hosts:
            assert list(hosts) == ["gate", "pi01"]
            for name, host in hosts.items():
                assert host.run(["echo", name]).stdout == f"{name}\n"
        assert (near.home / "log").read_text().count("Accepted publickey") == 1


@pytest.mark.parametrize(
    ("limit", "why"),
    [("pi09", "no host"), ("here", "this machine itself"), ("gate, pi02", "undervoltage")],
)
def test_a_limit_names_hosts_that_can_be_reached(tmp_path: Path, limit: str, why: str) -> None:
    lab = load_lab(write_lab(tmp_path, 22, 23))
    with pytest.raises(ConfigurationError, match=why):
        limited(lab, limit)


@pytest.mark.parametrize("limit", ["", " ", ","])
def test_a_limit_that_names_nobody_is_not_a_success(tmp_path: Path, limit: str) -> None:
    """`restore --limit "$HOSTS"` with an empty variable would else do nothing and exit with 0."""
    lab = load_lab(write_lab(tmp_path, 22, 2222))
    with pytest.raises(ConfigurationError, match="names no host"):
        limited(lab, limit)
