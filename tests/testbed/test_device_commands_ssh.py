"""A device on another host is ordered over SSH, as one of this machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.hosts_support import eventually, ssh_server_missing
from tests.testbed.lab_support import ssh_lab
from tests.testbed.operator_support import Operator

HERE = """\
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  env1: {connection: local, roles: [environment]}
"""


@pytest.mark.skipif(bool(ssh_server_missing()), reason=ssh_server_missing())
def test_a_device_over_ssh_renews_and_revokes_itself_when_told(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    # Right below: supervisord's socket has a path of at most 107 bytes.
    with ssh_lab(tmp_path, ("mobile",), more=HERE) as lab:
        operator.does("provision", "-i", str(lab.inventory))
        with operator.lab(lab.inventory) as up:
            assert up["admitted"] == ["env1", "pi01"]
            before = operator.does("device", "show", "pi01")
            renewed = operator.does("device", "renew", "pi01")
            assert renewed["node"] == before["node"]
            assert renewed["not_after"] > before["not_after"]
            rolled = operator.does("device", "renew", "pi01", "--rollover")
            assert rolled["node"] != before["node"]
            gone = operator.does("device", "revoke", "pi01", "--by-device")
            assert gone["state"] == "revoked"
            shown = operator.does("device", "show", "pi01")
            assert [e["op"] for e in shown["records"]][-1] == "revoke"
            keys = lab.homes["pi01"] / "testbed" / "pi01" / "state"
            assert (keys / "key-2.pem").exists(), "the key is made and stays where it is used"
            eventually(lambda: not (keys / "order.json").exists())  # it heard the chain's answer
            operator.does("down")
