"""The right board is flashed, wholly, and proves it; a real MicroPython over a serial line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import serial

from inventory.entries import Board, CommandPower, Firmware, HostEntry, Match, UhubctlPower
from inventory.load import load_lab, packaged
from nodes.board.control import command
from nodes.board.flash import new_key, prepare
from testbed import cli
from testbed.boards import list_ports
from testbed.boards.flash import flash
from testbed.boards.micropython import BoardPlace
from testbed.boards.ports import SerialPort, matching
from testbed.boards.power import is_on, power_of
from testbed.discovery import Discovered, suggestion
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.local import LocalHost
from tests.testbed.hosts_support import eventually


@dataclass(frozen=True)
class PluggedBoard:
    """A board that ran our firmware already, under another key."""

    place: BoardPlace
    files: Path


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[PluggedBoard]:
    files = tmp_path / "device"
    files.mkdir()
    prepare(files, "th01", new_key(), repl_window_ms=800)
    link = tmp_path / "port"
    argv = [sys.executable, "-m", "nodes.board", "--dir", str(files), "--link", str(link)]
    argv.append("--exit-on-stdin-eof")
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"]
    device = str(link.readlink())
    board = Board(host="pi01", match=Match(device=device), firmware=Firmware(board="unix"))
    with LocalHost(tmp_path / "pi01", name="pi01") as host:

        def reset() -> None:
            command(files / "control.sock", "reset")

        yield PluggedBoard(BoardPlace("th01", board, host, sys.executable, reset), files)
    process.communicate()


def test_flashing_gives_a_board_our_firmware_and_a_new_key(plugged: PluggedBoard) -> None:
    """Every file arrives, main.py included; the host keeps the only other copy of the key."""
    old = (plugged.files / "key.bin").read_bytes()
    (plugged.files / "gateway" / "serial" / "frames.py").write_text("# spoilt\n")
    steps: list[str] = []
    done = flash(plugged.place, steps.append)
    assert done.greeting.startswith("m2m-board/1 th01 boot=")
    host = plugged.place.host
    key = host.get("th01/host.key")
    assert key == (plugged.files / "key.bin").read_bytes() != old
    assert host.run(["stat", "-c", "%a", "th01/host.key"]).stdout == "600\n"
    assert json.loads(host.get("th01/flashed.json")) == done.flashed
    assert "spoilt" not in (plugged.files / "gateway" / "serial" / "frames.py").read_text()
    assert host.run(["ls", "th01"]).stdout.split() == ["flashed.json", "host.key"]
    assert "copying firmware and key" in steps


def test_a_flash_that_fails_leaves_the_old_key_and_no_other(plugged: PluggedBoard) -> None:
    """The board still works with what it had; no half-made key lies about."""
    place, host = plugged.place, plugged.place.host
    host.put(b"old key", "th01/host.key", 0o600)
    gone = place.board.model_copy(update={"match": Match(device="/dev/gone")})
    with pytest.raises(LabFault, match="th01"):
        flash(replace(place, board=gone), lambda _: None)
    assert host.get("th01/host.key") == b"old key"
    assert "image" not in host.run(["ls", "th01"]).stdout


def test_a_board_counts_as_flashed_until_it_is_changed_and_again_when_it_was_proved(
    plugged: PluggedBoard,
) -> None:
    """Ctrl-C after copying: the board has a key that the host does not, and doctor must say so."""
    place, host = plugged.place, plugged.place.host
    flash(place, lambda _: None)
    for step, still in (("interrupting", True), ("restarting", False)):

        def interrupt(now: str, step: str = step) -> None:
            if now == step:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            flash(place, interrupt)
        assert ("flashed.json" in host.run(["ls", "th01"]).stdout.split()) is still
    flash(place, lambda _: None)
    assert "flashed.json" in host.run(["ls", "th01"]).stdout.split()


def test_frames_that_meet_a_board_at_its_start_do_not_interrupt_it(plugged: PluggedBoard) -> None:
    """A host that waits for a board sends at once, and 0x03 is a byte of its frames too."""
    assert plugged.place.board.match is not None
    frame = b"\x00\x05\x03\x03\x0d\x03\x09nonce\x00"
    with serial.Serial(plugged.place.board.match.device, timeout=0.05, exclusive=True) as port:
        assert plugged.place.reset is not None
        plugged.place.reset()
        heard = bytearray()

        def greeted() -> bool:
            port.write(frame)
            heard.extend(port.read(256))
            return b"m2m-board/1 th01 " in heard

        eventually(greeted)
    assert b"KeyboardInterrupt" not in heard


def test_two_boards_whose_ports_were_exchanged_are_not_flashed(plugged: PluggedBoard) -> None:
    """The board at th02's port says that it is th01: it is left as it is, unless told otherwise."""
    before = {path: path.read_bytes() for path in plugged.files.rglob("*.*") if path.is_file()}
    swapped = replace(plugged.place, name="th02", others=frozenset({"th01"}))
    with pytest.raises(LabFault, match=r"is th01; it was left as it is\n.*exchange the cables"):
        flash(swapped, lambda _: None)
    for path, content in before.items():
        if path.suffix in (".py", ".bin") or path.name == "config.json":
            assert path.read_bytes() == content
    done = flash(replace(swapped, others=frozenset()), lambda _: None)
    assert done.greeting.startswith("m2m-board/1 th02 ")


def test_a_board_that_was_exchanged_while_it_was_flashed_is_noticed(plugged: PluggedBoard) -> None:
    """What answers afterwards must be what was flashed, by name and firmware; the old key stays."""
    place, host = plugged.place, plugged.place.host
    host.put(b"old key", "th01/host.key", 0o600)

    def exchange(step: str) -> None:
        if step == "restarting":
            config = plugged.files / "config.json"
            config.write_text(config.read_text().replace('"th01"', '"th09"'))

    with pytest.raises(LabFault, match=r"calls itself th09\n.*swapped"):
        flash(place, exchange)
    assert host.get("th01/host.key") == b"old key"


@pytest.mark.parametrize("limit", ["", " ", ","])
def test_a_limit_that_names_no_board_flashes_none(
    limit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`flash --limit "$BOARDS"` with an empty variable would else give every board a new key."""
    assert cli.main(["flash", "-i", str(packaged("first-lab")), "--limit", limit]) == 2
    assert "names no board; there are: th01, th02" in capsys.readouterr().err


PORTS = [
    SerialPort("/dev/serial/by-id/a", "/dev/ttyACM0", "E1", "1-1.2:1.0"),
    SerialPort("/dev/serial/by-id/b", "/dev/ttyACM1", "E2", "1-1.3:1.0"),
]


@pytest.mark.parametrize(
    ("match", "found"),
    [
        (Match(usb_serial="E2"), ["/dev/ttyACM1"]),
        (Match(usb_path="1-1.2:1.0"), ["/dev/ttyACM0"]),
        (Match(device="/dev/ttyACM1"), ["/dev/ttyACM1"]),
        (Match(device="/dev/serial/by-id/a"), ["/dev/ttyACM0"]),
        (Match(usb_serial="E"), []),
        (Match(usb_serial="e2"), []),
    ],
)
def test_boards_are_distinguished_by_identity(match: Match, found: list[str]) -> None:
    board = Board(host="pi01", match=match, firmware=Firmware(board="rp2040"))
    assert [port.device for port in matching(board, PORTS)] == found
    assert [port.device for port in matching(board, PORTS[::-1])] == found, "in any order"


def serial_tree(top: Path, serials: list[str | None], shared_link: bool) -> None:
    """What the kernel and udev show of USB serial boards at 1-1.1, 1-1.2 ... of one hub."""
    for kind in ("by-id", "by-path"):
        (top / "dev/serial" / kind).mkdir(parents=True)
    for n, number in enumerate(serials, 1):
        device = top / f"dev/ttyUSB{n}"
        device.touch()
        usb = top / f"sys/devices/1-1.{n}"
        interface = usb / f"1-1.{n}:1.0" / device.name
        interface.mkdir(parents=True)
        (usb / "idVendor").write_text("1a86\n")
        if number is not None:
            (usb / "serial").write_text(f"{number}\n")
        tty = top / "sys/class/tty" / device.name
        tty.mkdir(parents=True)
        (tty / "device").symlink_to(interface)
        for bus in ("usb", "usbv2"):  # udev of Debian 13 makes two of each
            (top / f"dev/serial/by-path/hub-{bus}-0:1.{n}:1.0").symlink_to(device)
        link = (
            top / "dev/serial/by-id" / ("usb-CH340-if00" if shared_link else f"usb-{number}-if00")
        )
        link.unlink(missing_ok=True)
        link.symlink_to(device)


@pytest.mark.parametrize(
    ("serials", "shared_link", "names"),
    [
        (["E1", "E2"], False, ["by-id/usb-E1-if00", "by-id/usb-E2-if00"]),
        ([None, None], True, ["by-path/hub-usb-0:1.1:1.0", "by-path/hub-usb-0:1.2:1.0"]),
        (["0001", "0001"], True, ["by-path/hub-usb-0:1.1:1.0", "by-path/hub-usb-0:1.2:1.0"]),
    ],
)
def test_a_port_is_opened_by_a_name_that_follows_the_board_or_its_place(
    tmp_path: Path, serials: list[str | None], shared_link: bool, names: list[str]
) -> None:
    """All boards with equal serials, or with none, share one link of udev: the last one has it."""
    serial_tree(tmp_path, serials, shared_link)
    found = list_ports.ports(tmp_path / "dev", tmp_path / "sys/class")
    assert [port["path"] for port in found] == [f"{tmp_path}/dev/serial/{name}" for name in names]
    assert [port["usb_path"] for port in found] == ["1-1.1:1.0", "1-1.2:1.0"]
    assert [port["usb_serial"] for port in found] == serials


def test_discover_prints_a_match_that_finds_one_board() -> None:
    """Two bridges with serial 0001, the two lines of an FT2232H, a CH340 without a serial."""
    by_path = "/dev/serial/by-path/hub-usb-0"
    ports = [
        SerialPort(f"{by_path}:1.2:1.0", "/dev/ttyUSB0", "0001", "1-1.2:1.0"),
        SerialPort(f"{by_path}:1.3:1.0", "/dev/ttyUSB1", "0001", "1-1.3:1.0"),
        SerialPort(f"{by_path}:1.4:1.0", "/dev/ttyUSB2", "FT5XYZ", "1-1.4:1.0"),
        SerialPort(f"{by_path}:1.4:1.1", "/dev/ttyUSB3", "FT5XYZ", "1-1.4:1.1"),
        SerialPort(f"{by_path}:1.5:1.0", "/dev/ttyUSB4", None, "1-1.5:1.0"),
        SerialPort("/dev/serial/by-id/usb-pico", "/dev/ttyACM0", "E1", "1-1.6:1.0"),
    ]
    lab = load_lab(packaged("first-lab"))
    lines = suggestion(lab, {"pi02": Discovered("a", tuple(ports))}).splitlines()
    matches = [line.partition("match: {")[2].partition("}")[0] for line in lines if "match" in line]
    for printed, port in zip(matches, ports, strict=True):
        key, _, value = printed.partition(": ")
        match = Match.model_validate({key: value.strip('"')})
        board = Board(host="pi02", match=match, firmware=Firmware(board="esp32"))
        assert matching(board, ports) == [port]
    assert matches[-1] == 'usb_serial: "E1"'


@pytest.fixture
def switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Programs that write down how they were called."""
    log = tmp_path / "log"
    for name in ("uhubctl", "switch"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >>{log}\n[ "$1" != broken ]\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return log


def test_power_goes_through_the_driver_that_the_inventory_names(switch: Path) -> None:
    lab = load_lab()

    def powered(power: UhubctlPower | CommandPower | None) -> None:
        hosts = {**lab.hosts, "r1": HostEntry(addr="10.0.0.1", roles=("replica",), power=power)}
        one = power_of(lab.model_copy(update={"hosts": hosts}), "r1", switch)
        one.off()
        one.on()

    powered(UhubctlPower(driver="uhubctl", port="1-1.4.2"))
    powered(CommandPower(driver="command", off=("switch", "0 $x"), on=("switch", "1")))
    assert switch.read_text().splitlines() == [
        "uhubctl -l 1-1.4 -p 2 -a off",
        "uhubctl -l 1-1.4 -p 2 -a on",
        "switch 0 $x",
        "switch 1",
    ]
    with pytest.raises(LabFault, match="exit code 1"):
        powered(CommandPower(driver="command", off=("switch", "broken"), on=("switch",)))
    with pytest.raises(LabFault, match="no program absent"):
        powered(CommandPower(driver="command", off=("absent",), on=("switch",)))
    with pytest.raises(ConfigurationError, match="no power switch"):
        powered(None)


@pytest.mark.parametrize(
    ("printed", "powered"),
    [
        ("  Port 2: 0103 power enable connect [2109:3431]", True),
        ("  Port 2: 0000 off", False),
        ("no compatible devices", None),
    ],
)
def test_whether_a_host_has_power_is_what_its_hub_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, printed: str, powered: bool | None
) -> None:
    power = UhubctlPower(driver="uhubctl", port="1-1.2")
    lab = load_lab()
    hosts = {**lab.hosts, "r1": HostEntry(addr="10.0.0.1", roles=("replica",), power=power)}
    lab = lab.model_copy(update={"hosts": hosts})
    monkeypatch.setenv("PATH", str(tmp_path))
    assert is_on(lab, "r1", tmp_path) is None, "no uhubctl here: it is not known"
    program = tmp_path / "uhubctl"
    program.write_text(f"#!/bin/sh\necho 'Current status for hub 1-1'\necho '{printed}'\n")
    program.chmod(0o755)
    assert is_on(lab, "r1", tmp_path) is powered


def test_a_power_switch_that_speaks_another_encoding_is_quoted_all_the_same() -> None:
    lab = load_lab()
    switch = CommandPower(
        driver="command", off=("sh", "-c", "printf 'kein Ger\\344t'; exit 3"), on=("true",)
    )
    name = next(iter(lab.hosts))
    hosts = {**lab.hosts, name: lab.hosts[name].model_copy(update={"power": switch})}
    power = power_of(lab.model_copy(update={"hosts": hosts}), name, Path("lab.yaml"))
    with pytest.raises(LabFault, match="exit code 3: kein Ger"):
        power.off()


def test_a_power_cycle_that_is_interrupted_leaves_no_host_dark(tmp_path: Path) -> None:
    """Ctrl-C while the host is without power: it gets it back before the command ends."""
    inventory, is_off, is_on = tmp_path / "lab.yaml", tmp_path / "off", tmp_path / "on"
    power = f"{{driver: command, off: [touch, {is_off}], on: [touch, {is_on}]}}"
    inventory.write_text(
        "schema: testbed.inventory/1\nlab: loop\nchain: {f: 0}\n"
        f"hosts: {{pi01: {{addr: 127.0.0.1, roles: [replica], power: {power}}}}}\n"
    )
    argv = [sys.executable, "-m", "testbed.cli", "power", "cycle", "pi01", "-i", str(inventory)]
    with subprocess.Popen(argv, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) as running:
        eventually(is_off.exists)
        running.send_signal(signal.SIGINT)
        assert running.wait() == 130
    assert is_on.exists()
