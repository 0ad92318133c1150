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
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.broker import mosquitto as broker_mosquitto
from inventory.load import load_lab
from testbed.campaign.hosts import opened_hosts
from testbed.hosts.port import HostFault
from testbed.provision.deployment import Deployment
from testbed.standing.running_lab import RUNNING_FILE, RunningLab, read_running

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


class User:
    """Somebody with a shell, in a directory of his own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        # Benches and their sockets are found here, and paths of sockets must be short.
        self.env = os.environ | {"PATH": programs, "TMPDIR": str(home)}

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-euc", script],
            cwd=self.home,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )

    def as_device(self, script: str) -> subprocess.CompletedProcess[str]:
        return self.run(f". walker/state/tools/env.sh\n{script}")

    @property
    def running(self) -> RunningLab:
        (file,) = self.home.glob(f"m2m-*/{RUNNING_FILE}")
        return read_running(file)

    def directory(self, node: str) -> Path:
        return Path(str(self.running.nodes[node].directory))


@pytest.fixture
def user() -> Iterator[User]:
    """With a lab that is up."""
    home = Path(tempfile.mkdtemp(prefix="walk-"))
    user = User(home)
    (home / "lab.yaml").write_text(LAB)
    with (home / "up.log").open("w") as log:
        up = subprocess.Popen(
            ["testbed", "up", "-i", "lab.yaml"], cwd=home, env=user.env, stdout=log, stderr=log
        )
    try:
        until(lambda: "the lab is up" in log_of(home, up), "the lab is up")
        yield user
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(DEADLINE_S)
        shutil.rmtree(home)


def log_of(home: Path, up: subprocess.Popen[bytes]) -> str:
    log = (home / "up.log").read_text()
    assert up.poll() is None, log
    return log


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.05)


def commands() -> tuple[str, str]:
    """Taking part, and revoking, as the README has it."""
    blocks: list[str] = re.findall(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)
    taking_part = next(block for block in blocks if "device admit walker" in block)
    revoking = next(block for block in blocks if "device revoke walker" in block)
    return taking_part, revoking


@pytest.mark.soak
def test_the_tools_take_part_as_a_device_until_it_is_revoked(user: User) -> None:
    taking_part, revoking = commands()
    done = user.run(taking_part)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "walker: admitted" in done.stdout
    assert re.search(r"^a head of \d+ bytes$", done.stdout, re.M), done.stdout
    assert re.search(r"^an answer of \d+ bytes$", done.stdout, re.M), done.stdout

    # Nothing of others: neither to read, nor to be.
    wild = user.as_device("mosquitto_sub -d -W 5 -t 'm2m/1/#'")
    assert "denied" in wild.stdout + wild.stderr
    usurped = user.as_device(f"mosquitto_pub -i {'a' * 64} -t $NET/req/$NODE -m x")
    assert usurped.returncode == NOT_AUTHORISED, usurped
    huge = user.as_device(
        "head -c 10485760 /dev/zero > huge; mosquitto_pub -t $NET/req/$NODE -f huge"
    )
    assert huge.returncode not in (0, NOT_AUTHORISED), huge

    # The broker is killed: who was admitted still is, without being listed again. What is asked
    # before the relay is back is lost, and the tools may wait for ever when the broker dies.
    ready = user.directory("gw1-broker") / "ready.json"
    killed = json.loads(ready.read_bytes())["pid"]
    os.kill(killed, signal.SIGKILL)
    ask = taking_part[taking_part.index("mosquitto_sub -c -E") :]
    briefly = re.sub("^mosquitto", "timeout 5 mosquitto", ask, flags=re.MULTILINE)
    until(lambda: user.as_device(briefly).returncode == 0, "all are back")
    assert json.loads(ready.read_bytes())["pid"] != killed

    revoked = user.run(revoking)
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    publish = next(line for line in ask.splitlines() if line.startswith("mosquitto_pub"))
    until(lambda: user.as_device(publish).returncode != 0, "refused")
    until(
        lambda: user.as_device(publish).returncode not in (0, NOT_AUTHORISED),
        "refused in the TLS handshake already, once Mosquitto has started again",
    )
    carriers = user.directory("gw1-broker") / "carriers"
    until(lambda: len(list(carriers.iterdir())) == 1, "only env1's certificate is listed")


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
