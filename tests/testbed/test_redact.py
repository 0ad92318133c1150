"""A bundle is for others to read: nothing in it that a stranger could misuse."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from inventory.load import load_lab
from testbed.campaign.book import Inputs, begin, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.care.host_watch import HostWatch
from testbed.hosts.ssh import SshHost
from testbed.hosts.ssh_link import SshSettings
from testbed.redact import redacted_argv, redacted_inventory

LAB = """
# the switch's password is hunter2-comment
schema: testbed.inventory/1
lab: first
defaults:
  ssh: {user: secret-user, key: ~/.ssh/secret-key, known_hosts: ./secret-hosts, jump: gate}
  net: {mgmt: eth0, data: eth0, filters: per-peer}
chain: {view_timeout: 2s}
hosts:
  gate: {addr: secret-gate.example.org, ssh: {port: 22022}}
  pi01:
    addr: 198.51.100.11
    hw_serial: "10000000a1b2c3d1"
    roles: [replica, gateway, broker]
    caps: [nft]
    power: {driver: command, off: [curl, "http://hub/off?token=secret-token"], on: [secret-on]}
  pi02:
    addr: 198.51.100.12
    roles: [replica, mobile]
    ssh: {user: secret-other}
    meter: {driver: shelly, addr: 198.51.100.112}
  pi03: {addr: 198.51.100.13, roles: [replica], power: {driver: uhubctl, port: "1-1.2"}}
  pi04: {addr: 198.51.100.14, data_addr: 198.51.100.114, roles: [replica, environment]}
  pi05: {addr: 198.51.100.15, roles: [replica], state: quarantined, reason: undervoltage}
boards:
  th01: {host: pi04, match: {usb_serial: "E6605481DB484636"}, firmware: {board: rp2040}}
"""
SECRETS = (b"secret", b"hunter2", b"198.51.100", b"22022", b"curl")


def every_byte(bundle: Path) -> bytes:
    """All contents and all names of a bundle."""
    files = [path for path in bundle.rglob("*") if path.is_file()]
    return b"\0".join(path.read_bytes() + str(path.relative_to(bundle)).encode() for path in files)


def test_no_secret_of_the_inventory_is_anywhere_in_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not in what every run keeps for itself, nor in the command line."""
    home = tmp_path / "home" / "secret-person"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    inventory = home / "lab.yaml"
    inventory.write_text(LAB)
    monkeypatch.setattr("sys.argv", ["testbed", "run", "quick-start", "-i", str(inventory)])
    lab = load_lab(inventory)
    campaign = find_campaign("quick-start")
    text = campaign.read_text() + "trials: {count: 2, order: ABBA}\n"
    (tmp_path / "c.yaml").write_text(text)
    schedule = expand(load_campaign(tmp_path / "c.yaml"), lab)
    inputs = Inputs(lab, schedule, text.encode(), inventory_file=str(inventory))
    bundle = new_bundle(inputs, tmp_path / "out")
    for entry in bundle.manifest.runs:
        begin(bundle, entry)
    content = every_byte(tmp_path / "out")
    assert b"undervoltage" in content, "what was left out, and why, is said"
    assert not [secret for secret in SECRETS if secret in content]
    assert bundle.manifest.inventory_file == "~/lab.yaml"


def test_what_a_watch_says_of_a_host_out_of_reach_holds_no_login(tmp_path: Path) -> None:
    """It stands in the clock readings of a run, and in the reason why the run does not count."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        port = nobody.getsockname()[1]
        hosts = tmp_path / "secret-hosts"
        hosts.write_text("")
        settings = SshSettings(user="secret-user", port=port, known_hosts=hosts)
        written: list[dict[str, Any]] = []
        with SshHost("pi01", "127.0.0.1", settings, root="/tmp/none") as host:
            watch = HostWatch(
                {"pi01": host}, {"pi01": "python3"}, lambda _, **fields: written.append(fields), {}
            )
            watch.start()
            watch.stop()
    problems = {line["problem"] for line in written}
    assert all("cannot connect" in each for each in problems)
    assert not [s for s in ("secret", "127.0.0.1", str(port)) for each in problems if s in each]


def test_what_is_left_is_an_inventory_with_the_same_schedule(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(LAB)
    lab = load_lab(tmp_path / "lab.yaml")
    (tmp_path / "shown.yaml").write_bytes(redacted_inventory(lab))
    again = load_lab(tmp_path / "shown.yaml")
    campaign = load_campaign(find_campaign("quick-start"))
    assert expand(campaign, again).schedule_hash == expand(campaign, lab).schedule_hash
    assert redacted_inventory(again) == redacted_inventory(lab)
    assert again.hosts["pi01"].hw_serial == lab.hosts["pi01"].hw_serial
    assert again.boards == lab.boards
    assert again.chain.view_timeout_ms == 2000


def test_a_command_line_keeps_its_words_and_loses_the_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    typed = ["testbed", "run", "x", "--out=/home/alice/results", "-i", "/srv/lab.yaml"]
    assert redacted_argv(typed) == (*typed[:3], "--out=~/results", *typed[4:])
