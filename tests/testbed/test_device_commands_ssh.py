"""A device on another host is ordered over SSH, as one of this machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.emulate.lab import EmulatedLab
from tests.testbed.emulate_support import emulated, host
from tests.testbed.hosts_support import eventually
from tests.testbed.operator_support import Operator

pytestmark = pytest.mark.lab


def inventory_of(lab: EmulatedLab) -> str:
    """Everything but one mobile device is on this machine, at its address on the data network."""
    (machine,) = lab.plan.machines
    here = f"connection: local, addr: {lab.plan.own_data_addr}"
    return f"""\
schema: testbed.inventory/1
lab: mixed
broker: {{kind: embedded}}
defaults: {{ssh: {{user: pi, key: ./id_ed25519, known_hosts: ./known_hosts}}}}
hosts:
  r1: {{{here}, roles: [replica]}}
  r2: {{{here}, roles: [replica]}}
  r3: {{{here}, roles: [replica]}}
  r4: {{{here}, roles: [replica]}}
  gw1: {{{here}, roles: [gateway, broker]}}
  env1: {{{here}, roles: [environment]}}
  pi01: {{addr: {machine.addr}, data_addr: {machine.data_addr}, roles: [mobile]}}
"""


@pytest.mark.soak
def test_a_device_over_ssh_renews_and_revokes_itself_when_asked_to(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    with emulated(tmp_path / "lab", hosts=1) as lab, host(lab, "pi01") as inside:
        inventory = lab.out / "mixed.yaml"
        inventory.write_text(inventory_of(lab))
        operator.does("provision", "-i", str(inventory))
        with operator.lab(inventory) as up:
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
            inside.run(["test", "-e", "pi01/state/key-2.pem"])  # it stays where it is used
            ordered = ["test", "-e", "pi01/state/order.json"]
            eventually(lambda: inside.run(ordered, check=False).exit_code != 0)  # it was answered
            operator.does("down")
