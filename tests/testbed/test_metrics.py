"""Metrics for Prometheus: only if the inventory says so. Those of a running lab: `test_api`."""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

import msgspec
import pytest

from gateway.broker.port import BrokerConfigError, read_config
from inventory.load import load_lab, packaged
from nodes.config import Address
from nodes.exits import Trouble
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.metrics import serving_metrics
from nodes.metrics_server import AT_ONCE_MAX
from nodes.provider.config import ProviderConfig
from testbed import cli
from testbed.provision.configs import CONFIG, LabNetwork
from testbed.provision.layout import layout, sockets
from testbed.provision.targets import metrics_targets
from testbed.systems.baseline import BASELINE
from tests.testbed.hosts_support import free_ports


def test_without_the_option_nothing_listens(capsys: pytest.CaptureFixture[str]) -> None:
    assert metrics_targets(load_lab()) == []
    assert cli.main(["inventory", "prometheus"]) == 2
    assert "add   metrics: {port: 9100}" in capsys.readouterr().err


def test_the_command_prints_where_to_ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lab.yaml"
    text = packaged("loopback").read_text()
    path.write_text(text + "metrics: {port: 9100, listen: 0.0.0.0}\n")
    assert cli.main(["inventory", "prometheus", "-i", str(path)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows[0][2:] == ["broker", "http://127.0.0.1:9100/metrics"]
    assert rows[1] == ["r1", "r1", "replica", "http://127.0.0.1:9101/metrics"]
    assert cli.main(["inventory", "prometheus", "-i", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ports = [each["targets"][0] for each in found]
    assert sorted(int(each.rpartition(":")[2]) for each in ports) == list(
        range(9100, 9100 + len(ports))
    )
    assert ports[0].startswith("127.0.0.1:"), "where it is reached, not where it listens"
    assert {each["labels"]["host"] for each in found} >= {"r1", "gw1", "phones"}


def test_an_ipv6_address_stands_in_brackets_before_its_port(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(packaged("loopback").read_text() + 'metrics: {port: 9100, listen: "::1"}\n')
    assert metrics_targets(load_lab(path))[0].address == "[::1]:9100"


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "0:0:0:0:0:0:0:0", "::ffff:0.0.0.0"])
def test_where_a_process_listens_on_all_addresses_it_is_asked_at_its_own(
    tmp_path: Path, listen: str
) -> None:
    path = tmp_path / "lab.yaml"
    text = packaged("loopback").read_text()
    path.write_text(f'{text}metrics: {{port: 9100, listen: "{listen}"}}\n')
    assert metrics_targets(load_lab(path))[0].address == "127.0.0.1:9100"


def test_every_process_of_the_baseline_has_a_port_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(packaged("loopback").read_text() + "metrics: {port: 9100}\n")
    command = ["inventory", "prometheus", "-i", str(path), "--json", "--system", "baseline"]
    assert cli.main(command) == 0
    listed = {
        each["targets"][0]: each["labels"]["role"] for each in json.loads(capsys.readouterr().out)
    }
    lab = BASELINE.lab(load_lab(path))
    nodes = layout(lab)
    keys = {node.name: keygen(tmp_path / node.name) for node in nodes}
    material = BASELINE.material(lab, nodes, keys, {})
    names = [name for node in nodes for name in sockets(node, lab)]
    ports = {name: 20_000 + place for place, name in enumerate(names)}
    network = LabNetwork(nodes, lab, material, ports)
    configured = {}
    for node in nodes:
        for file in BASELINE.files(node, network):
            if file.name == CONFIG:
                at = json.loads(file.data)["metrics"]
                configured[f"{at['host']}:{at['port']}"] = node.role
    assert configured == listed
    assert sorted({*listed.values()}) == ["broker", "environment", "gateway", "mobile", "replica"]


def test_a_provider_reports_its_metrics(tmp_path: Path) -> None:
    """The whole process, with a config as it is deployed."""
    keygen(tmp_path)
    (tmp_path / "tokens.json").write_text('{"keys": {}}')
    (tmp_path / "tokens.json").chmod(0o600)
    port = free_ports(1)
    config = ProviderConfig(
        name="cloud",
        key=KEY_FILE,
        certificate=CERTIFICATE_FILE,
        clients=(),
        listen=Address("127.0.0.1", 0),
        passwords="tokens.json",
        store="store.sqlite",
        escrow="escrow.sqlite",
        metrics=Address("127.0.0.1", port),
    )
    (tmp_path / "config.json").write_bytes(msgspec.json.encode(config))
    argv = [sys.executable, "-m", "nodes.provider.process", "--config"]
    with subprocess.Popen(
        [*argv, str(tmp_path / "config.json"), "--exit-on-stdin-eof"], stdin=subprocess.PIPE
    ) as process:
        text = answered(f"http://127.0.0.1:{port}/metrics")
        assert 'testbed_height{process="cloud"} 0.0' in text
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_port_that_is_taken_ends_the_process_with_a_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        metrics = serving_metrics(Address("127.0.0.1", port), "r1")
        with pytest.raises(Trouble, match=f"127.0.0.1:{port}: .* state another one"), metrics:
            pass


def test_an_address_of_another_machine_ends_the_process_with_a_clear_line() -> None:
    """So does a name that nobody knows: the port is not to blame."""
    metrics = serving_metrics(Address("192.0.2.1", 9100), "r1")
    with pytest.raises(Trouble, match=r"192\.0\.2\.1:9100: .* address; state an address"), metrics:
        pass


def test_many_idle_connections_take_few_threads_and_fill_no_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that only the bound closes connections.
    monkeypatch.setattr("nodes.metrics_server._Handler.timeout", 60.0)
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = ("127.0.0.1", port)
    with serving_metrics(Address(*address), "r1"), ExitStack() as idle:
        lines = [
            idle.enter_context(socket.create_connection(address, 5)) for _ in range(AT_ONCE_MAX + 4)
        ]
        refused, _, _ = select.select(lines, [], [], 5)
        while len(refused) < 4:
            refused, _, _ = select.select(lines, [], [], 5)
            assert refused
        assert threading.active_count() <= before + 1 + AT_ONCE_MAX
        for line in lines:  # it answers again when they are gone, even rudely
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        idle.close()
        assert 'testbed_cpu_seconds_total{process="r1"}' in answered(f"http://127.0.0.1:{port}/")
    assert capfd.readouterr().err == ""


def answered(url: str) -> str:
    while True:  # places get free one by one
        with suppress(OSError), urlopen(url, timeout=5) as answer:
            text: str = answer.read().decode()
            return text


def test_mosquitto_is_not_asked_for_metrics(tmp_path: Path) -> None:
    path = tmp_path / "broker.json"
    metrics = {"host": "127.0.0.1", "port": 9100}
    config = {"security_file": "s", "ready_file": "r", "kind": "mosquitto", "metrics": metrics}
    path.write_text(json.dumps(config))
    with pytest.raises(BrokerConfigError, match=r"broker\.json: metrics needs kind embedded"):
        read_config(path)
    lab = tmp_path / "lab.yaml"
    lab.write_text(
        packaged("loopback").read_text() + "broker: {kind: mosquitto}\nmetrics: {port: 9100}\n"
    )
    roles = [each.labels["role"] for each in metrics_targets(load_lab(lab))]
    assert "broker" not in roles
    assert "gateway" in roles
