"""A user, a lab with Mosquitto, and Mosquitto's own tools: the commands of gateway/README.md,
run as they stand there, from enrolment to revocation; with the broker killed in between."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.broker import mosquitto as broker_mosquitto
from inventory.load import load_lab
from testbed.campaign.hosts import opened_hosts
from testbed.hosts.port import HostFault
from testbed.provision.deployment import Deployment
from tests.testbed.hosts_support import eventually
from tests.testbed.operator_support import Operator

pytestmark = [
    pytest.mark.skipif(
        broker_mosquitto.missing() is not None or shutil.which("mosquitto_pub") is None,
        reason="mosquitto and mosquitto-clients are not here",
    ),
]

README = Path(__file__).parents[2] / "gateway" / "README.md"
DEADLINE_S = 60.0  # generous: other tests share the machine
LAB = """
schema: testbed.inventory/1
lab: walk
broker: {kind: mosquitto}
hosts:
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  env1: {connection: local, roles: [environment]}
"""
NOT_AUTHORISED = 5


@pytest.fixture
def operator() -> Iterator[Operator]:
    """With a lab that is up. Benches and their sockets are in a folder of a short name."""
    with tempfile.TemporaryDirectory(prefix="walk-") as home:
        operator = Operator(Path(home))
        inventory = operator.home / "lab.yaml"
        inventory.write_text(LAB)
        with operator.lab(inventory):
            yield operator
            operator.does("down")


def shell(operator: Operator, script: str) -> subprocess.CompletedProcess[str]:
    """As the operator types it, in the folder of the inventory."""
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-euc", script],
        cwd=operator.home,
        env=operator.environment | {"PATH": programs},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def as_device(operator: Operator, script: str) -> subprocess.CompletedProcess[str]:
    return shell(operator, f". walker/state/tools/env.sh\n{script}")


def commands() -> tuple[str, str]:
    """Taking part, and revoking, as the README has it."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    taking_part = next(block for block in blocks if "device admit walker" in block)
    revoking = next(block for block in blocks if "device revoke walker" in block)
    return taking_part, revoking


@pytest.mark.soak
def test_the_tools_take_part_as_a_device_until_it_is_revoked(operator: Operator) -> None:
    taking_part, revoking = commands()
    done = shell(operator, taking_part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "walker: admitted" in done.stdout
    assert re.search(r"^a head of \d+ bytes$", done.stdout, re.M), done.stdout
    assert re.search(r"^an answer of \d+ bytes$", done.stdout, re.M), done.stdout

    # Nothing of others: neither to read, nor to be.
    wild = as_device(operator, "mosquitto_sub -d -W 5 -t 'm2m/1/#'")
    assert "denied" in wild.stdout + wild.stderr
    usurped = as_device(operator, f"mosquitto_pub -i {'a' * 64} -t $NET/req/$NODE -m x")
    assert usurped.returncode == NOT_AUTHORISED, usurped
    huge = as_device(
        operator, "head -c 10485760 /dev/zero > huge; mosquitto_pub -t $NET/req/$NODE -f huge"
    )
    assert huge.returncode not in (0, NOT_AUTHORISED), huge

    # The broker is killed: who was admitted still is, without being listed again. What is asked
    # before the relay is back is lost, and the tools may wait for ever when the broker dies.
    ready = Path(operator.directory("gw1-broker")) / "ready.json"
    killed = json.loads(ready.read_bytes())["pid"]
    os.kill(killed, signal.SIGKILL)
    ask = taking_part[taking_part.index("mosquitto_sub -c -E") :]
    briefly = re.sub("^mosquitto", "timeout 5 mosquitto", ask, flags=re.MULTILINE)
    eventually(lambda: as_device(operator, briefly).returncode == 0)
    assert json.loads(ready.read_bytes())["pid"] != killed

    revoked = shell(operator, revoking)
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    publish = next(line for line in ask.splitlines() if line.startswith("mosquitto_pub"))
    eventually(lambda: as_device(operator, publish).returncode != 0)
    # In the TLS handshake already, once Mosquitto has started again.
    eventually(lambda: as_device(operator, publish).returncode not in (0, NOT_AUTHORISED))
    carriers = Path(operator.directory("gw1-broker")) / "carriers"
    eventually(lambda: len(list(carriers.iterdir())) == 1)  # env1's


def test_a_host_without_mosquitto_is_named_with_the_way_out(tmp_path: Path) -> None:
    """Before anything is started there. Its Python is ours with the plugin out of sight."""
    (tmp_path / "lab.yaml").write_text(LAB)
    python = tmp_path / "python"
    hidden = "import sys, gateway.broker.mosquitto as m; m._plugin_path = lambda: None; "
    script = f"{hidden}from nodes.gateway.broker import main; main(sys.argv[1:])"
    python.write_text(f"#!/bin/sh\nshift 2\nexec {sys.executable} -c '{script}' \"$@\"\n")
    python.chmod(0o755)
    lab = load_lab(tmp_path / "lab.yaml")
    with (
        opened_hosts(lab) as (hosts, pythons),
        Deployment(lab, hosts, {**pythons, "gw1": str(python)}, progress=print) as deployment,
        pytest.raises(HostFault, match="gw1: look for the broker") as fault,
    ):
        deployment.set_up()
    assert "sudo apt-get install mosquitto" in str(fault.value)
    assert "broker: {kind: embedded}" in str(fault.value)
