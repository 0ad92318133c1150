"""An inventory's entries become the right kind of host, and jump hosts are shared."""

from __future__ import annotations

import getpass
from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import OpenHosts
from testbed.hosts.ssh import SshHost
from tests.testbed.hosts_support import SshServer, ssh_server_missing

INVENTORY = """\
schema: testbed.inventory/1
lab: mixed
chain: {{f: 0}}
defaults:
  ssh: {{user: {user}, key: {key}, known_hosts: ./known, jump: gate}}
  net: {{mgmt: eth0, data: eth1}}
hosts:
  gate: {{addr: 127.0.0.1, ssh: {{port: {near}}}}}
  pi01: {{addr: localhost, ssh: {{port: {far}}}, roles: [replica]}}
  here: {{connection: local, roles: [replica]}}
"""


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_a_lab_of_local_and_remote_hosts_behind_a_jump_host(tmp_path: Path) -> None:
    with SshServer(tmp_path / "near") as near, SshServer(tmp_path / "far") as far:
        near.key.rename(tmp_path / "key")
        (far.home / "authorized_keys").write_text((near.home / "client_key.pub").read_text())
        known = near.known_hosts.read_text()
        known += far.known_hosts.read_text().replace("127.0.0.1", "localhost")
        (tmp_path / "known").write_text(known)
        text = INVENTORY.format(user=getpass.getuser(), key="./key", near=near.port, far=far.port)
        (tmp_path / "lab.yaml").write_text(text)
        with OpenHosts(load_lab(tmp_path / "lab.yaml"), tmp_path / "local") as hosts:
            assert list(hosts) == ["gate", "pi01", "here"]
            assert isinstance(hosts["here"], LocalHost)
            assert isinstance(hosts["pi01"], SshHost)
            for name, host in hosts.items():
                assert host.run(["echo", name]).stdout == f"{name}\n"
        assert (near.home / "log").read_text().count("Accepted publickey") == 1
