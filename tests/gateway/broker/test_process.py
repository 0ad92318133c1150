"""The broker as a process: how it starts, what it says, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.broker.security import write_security
from gateway.mqtt.topics import Role
from nodes.gateway.broker import main
from tests.gateway.broker.brokers import NET, BrokerProcess, user, why_not

KINDS = ["embedded", "mosquitto"]


def run(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodes.gateway.broker", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["SIGTERM", "stdin"])
def test_it_ends_cleanly_when_asked_to(tmp_path: Path, kind: str, how: str) -> None:
    if why := why_not(kind):
        pytest.skip(why)
    broker = BrokerProcess(tmp_path, kind, [user(Role.DEVICE, "a")])
    asyncio.run(broker.start())
    assert broker.process is not None
    assert broker.process.stdin is not None
    if how == "stdin":
        broker.process.stdin.close()
    else:
        broker.process.send_signal(signal.SIGTERM)
    assert broker.process.wait(timeout=60) == 0
    assert not (tmp_path / "ready.json").exists()
    events = [json.loads(line)["event"] for line in broker.log().splitlines()]
    assert "ready" in events
    assert events[-1] == "ended"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", broker.port), timeout=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_taken_port_is_said_with_code_3(tmp_path: Path, kind: str) -> None:
    if why := why_not(kind):
        pytest.skip(why)
    write_security(tmp_path / "security.json", NET, [])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = tmp_path / "broker.json"
        config.write_text(
            json.dumps(
                {
                    "kind": kind,
                    "security_file": "security.json",
                    "ready_file": "ready.json",
                    "listen": {"port": port},
                }
            )
        )
        ended = run(config)
    assert ended.returncode == 3
    assert f"port taken: 127.0.0.1:{port}" in ended.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "broker.json"),
        ('{"ready_file": "r"}', "security_file"),
        ('{"security_file": "s", "ready_file": "r", "listn": {}}', "listn"),
        ('{"security_file": "s", "ready_file": "r", "kind": "other"}', "$.kind"),
        ('{"security_file": "s", "ready_file": "r", "listen": {"port": 70000}}', "70000"),
        ('{"security_file": "absent.json", "ready_file": "r"}', "absent.json"),
    ],
)
def test_a_wrong_configuration_is_said_with_code_2(
    tmp_path: Path, content: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "broker.json"
    config.write_text(content)
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(config)])
    assert ended.value.code == 2
    printed = capfd.readouterr()
    assert said in printed.err
    assert "Traceback" not in printed.err + printed.out


PATIENT_FOR_A_MOMENT = """
from gateway.broker import mosquitto as broker_mosquitto
from nodes.gateway.broker import main
broker_mosquitto.start_deadline_s = 0.1
main()
"""


@pytest.mark.parametrize("asked_to_end", [False, True])
def test_a_mosquitto_that_does_not_listen_is_one_clear_line(
    tmp_path: Path, asked_to_end: bool
) -> None:
    """If it is asked to end before it listens, it ends."""
    if why := why_not("mosquitto"):
        pytest.skip(why)
    fake = tmp_path / "bin" / "mosquitto"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\n[ "$1" = -h ] || exec sleep 600\n')
    fake.chmod(0o755)
    write_security(tmp_path / "security.json", NET, [])
    config = {"kind": "mosquitto", "security_file": "security.json", "ready_file": "ready.json"}
    (tmp_path / "broker.json").write_text(json.dumps({**config, "listen": {"port": 0}}))
    program = ["-m", "nodes.gateway.broker"] if asked_to_end else ["-c", PATIENT_FOR_A_MOMENT]
    words = ["--config", str(tmp_path / "broker.json")]
    words += ["--exit-on-stdin-eof"] * asked_to_end
    ended = subprocess.run(
        [sys.executable, *program, *words],
        input="",
        env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if asked_to_end:
        assert ended.returncode == 0, ended.stderr
    else:
        assert ended.returncode == 3
        assert ended.stderr.count("\n") == 1
        assert "mosquitto does not listen after 0.1 s" in ended.stderr
    assert not (tmp_path / "ready.json").exists()
