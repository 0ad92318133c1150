"""The power that hosts take: a real meter's protocol, one that does not exist, what is shown."""

from __future__ import annotations

import math
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inventory.load import load_lab, packaged
from inventory.model import Lab
from testbed.care.energy import EnergySample, meters_of
from testbed.care.host_watch import HostWatch
from testbed.checks.conditions import ClockLine, ConditionLine, EnergyLine
from testbed.checks.evidence import Evidence
from testbed.errors import LabFault
from testbed.report.machines import machines_of, machines_tables
from tests.testbed.bundles import START_NS, Story, write_lines
from tests.testbed.test_conditions import FINE, LIMITS
from tests.testbed.test_page import undrawn

SECOND_NS = 1_000_000_000
ANSWER = b"""{"id": 1, "source": "init", "output": true, "apower": 8.9, "voltage": 237.5,
 "aenergy": {"total": 6.532, "by_minute": [45.199, 47.141, 88.397], "minute_ts": 1626935779},
 "temperature": {"tC": 23.5, "tF": 74.4}}"""


@contextmanager
def plug(answer: bytes, status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as such a plug does: its address, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def a_lab(tmp_path: Path, meter: str) -> Lab:
    path = tmp_path / "lab.yaml"
    text = packaged("loopback").read_text()
    path.write_text(text.replace("r1: {", f"r1: {{meter: {meter}, "))
    return load_lab(path)


def meter_at(tmp_path: Path, address: str) -> Callable[[], EnergySample]:
    """Of r1. An inventory has a plug's address without a port: all listen at 80."""
    lab = a_lab(tmp_path, "{driver: shelly, addr: 10.0.0.31, channel: 1}")
    assert lab.hosts["r1"].meter is not None
    meter = lab.hosts["r1"].meter.model_copy(update={"addr": address})
    host = lab.hosts["r1"].model_copy(update={"meter": meter})
    return meters_of(lab.model_copy(update={"hosts": {**lab.hosts, "r1": host}}))["r1"]


def test_a_plug_is_asked_over_http(tmp_path: Path) -> None:
    with plug(ANSWER) as (address, asked):
        assert meter_at(tmp_path, address)() == EnergySample(watts=8.9, total_wh=6.532)
    assert asked == ["/rpc/Switch.GetStatus?id=1"]


@pytest.mark.parametrize("address", ["10.0.0.31", "fd00::31", "plug.lan"])
def test_a_plug_is_asked_at_port_80_of_its_address(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def connect(connection: HTTPConnection) -> None:
        asked.append((connection.host, connection.port))
        raise ConnectionRefusedError

    monkeypatch.setattr(HTTPConnection, "connect", connect)
    with pytest.raises(LabFault, match="r1: its meter"):
        meter_at(tmp_path, address)()
    assert asked == [(address, 80)]


@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        (b"<html>", 200, "malformed"),
        (b"{}", 200, "apower"),
        (ANSWER, 401, "401"),
        (b'{"apower": -5e300}', 200, "apower"),
        (b" " * 70_000 + ANSWER, 200, "truncated"),
    ],
)
def test_a_plug_that_says_something_else_is_reported_without_its_address(
    tmp_path: Path, answer: bytes, status: int, says: str
) -> None:
    with plug(answer, status) as (address, _):
        read = meter_at(tmp_path, address)
        with pytest.raises(LabFault, match=f"r1: its meter: .*{says}") as found:
            read()
    assert "127.0.0.1" not in str(found.value)


@contextmanager
def raw_plug(*parts: bytes) -> Iterator[str]:
    """Its address. It sends `parts` as they are, then holds the line until the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as lines:

        def serve() -> None:
            line = lines.enter_context(listener.accept()[0])
            line.recv(4096)
            for part in parts:
                line.sendall(part)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    "answer",
    [b"no HTTP\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: %s\r\n\r\n" % (b"a" * 70_000)],
    ids=["no status line", "endless header"],
)
def test_a_plug_that_speaks_no_http_is_a_fault_of_the_lab(tmp_path: Path, answer: bytes) -> None:
    with raw_plug(answer) as address, pytest.raises(LabFault, match="r1: its meter: "):
        meter_at(tmp_path, address)()


def test_a_plug_sends_nobody_elsewhere(tmp_path: Path) -> None:
    with plug(ANSWER) as (elsewhere, asked):
        moved = f"HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/\r\n\r\n"
        with raw_plug(moved.encode()) as address, pytest.raises(LabFault, match="302"):
            meter_at(tmp_path, address)()
    assert not asked


def test_a_plug_that_dribbles_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dribbled: list[int] = []
    monkeypatch.setattr("testbed.care.energy._ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            with listener.accept()[0] as line, suppress(OSError):
                line.recv(4096)
                line.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while len(dribbled) < 200 and not select.select([line], [], [], 0.02)[0]:
                    line.sendall(b"a")  # until it hangs up: then there is something to read
                    dribbled.append(1)

        thread = threading.Thread(target=dribble)
        thread.start()
        with pytest.raises(LabFault, match="r1: its meter: "):
            meter_at(tmp_path, f"127.0.0.1:{listener.getsockname()[1]}")()
        thread.join()
    assert len(dribbled) < 200


def test_a_plug_that_is_gone_is_written_down_and_stops_nothing(tmp_path: Path) -> None:
    with plug(ANSWER) as (address, _):
        pass
    written: list[dict[str, Any]] = []
    lab = a_lab(tmp_path, "{driver: emulated, watts: 2.5}")
    watch = HostWatch(
        {},
        {},
        lambda file, **fields: written.append({"file": file, **fields}),
        {},
        meters={"r2": meter_at(tmp_path, address), **meters_of(lab)},
    )
    watch.start()
    watch.stop()
    assert [each for each in written if each["host"] == "r1"] == [
        {"file": "energy", "host": "r1", "watts": 2.5, "total_wh": None}
    ] * 2
    assert all("its meter" in each["problem"] for each in written if each["host"] == "r2")


def test_energy_is_the_power_over_the_time_between_readings(tmp_path: Path) -> None:
    run = Story(tmp_path).run
    found = [
        EnergyLine(t=START_NS + at_s * SECOND_NS, host="pi01", watts=watts)
        for at_s, watts in ((0, 2.0), (10, 4.0), (30, 4.0))
    ]
    found.append(EnergyLine(t=START_NS, host="pi02", problem="timed out"))
    write_lines(run.raw / "energy.jsonl", [msgspec.to_builtins(line) for line in found])
    first, second = machines_of(Evidence(run)).energy
    assert (first.joules, first.most_w, first.readings) == (10 * 3.0 + 20 * 4.0, 4.0, 3)
    assert first.mean_w == pytest.approx(110 / 30, abs=0.001)
    assert (second.joules, second.readings, second.problems) == (None, 0, 1)
    assert "<h2>Energy</h2>" in undrawn(run)


def test_the_page_shows_how_each_host_was(tmp_path: Path) -> None:
    run = Story(tmp_path).run
    assert "Hosts during the run" not in undrawn(run)
    looks, clocks = [], []
    for place, (heat, bits) in enumerate(((50.0, 0), (81.5, 0x40004))):
        t = START_NS + place * SECOND_NS
        seen = msgspec.structs.replace(FINE, temperature_c=heat, throttled=bits, cpu_khz=600_000)
        looks.append(ConditionLine(t=t, host="pi01", limits=LIMITS, seen=seen))
        silent = msgspec.structs.replace(FINE, temperature_c=None, throttled=None)
        looks.append(ConditionLine(t=t, host="pi02", limits=LIMITS, seen=silent))
        clocks.append(
            ClockLine(t=t, host="pi01", offset_ms=0.1, bound_ms=0.25, wall_minus_monotonic_ns=0)
        )
    for name, lines in (("conditions", looks), ("clock", clocks)):
        write_lines(run.raw / f"{name}.jsonl", [msgspec.to_builtins(line) for line in lines])
    page = undrawn(run).partition("Hosts during the run")[2].partition("</table>")[0]
    hot, quiet = page.partition("<td>pi01</td>")[2].split("<td>pi02</td>")
    for shown in ("81.5", "throttled", "600", "4000", "0.25"):
        assert shown in hot
    assert hot.count("not known") == 1, "only whether the voltage was too low"
    assert quiet.count("not known") == 2


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("fuzzed"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_a_stranger_says_of_power_is_left_out_or_finite(
    fuzzed: Story, data: st.DataObject
) -> None:
    good = msgspec.json.encode(EnergyLine(t=START_NS, host="r1", watts=1.5, total_wh=2.5)) + b"\n"
    at, cut = data.draw(st.integers(0, len(good))), data.draw(st.integers(0, 6))
    put = data.draw(
        st.binary(max_size=6)
        | st.sampled_from([b"NaN", b"1e999", b"-9", b"9" * 18, b"9" * 40, b"[" * 5000, b"e8"])
    )
    bad = good[:at] + put + good[at + cut :]
    (fuzzed.run.raw / "energy.jsonl").write_bytes(good + bad + good)
    found = machines_of(Evidence(fuzzed.run))
    machines_tables(found)
    for row in found.energy:
        shown = [row.mean_w, row.most_w, row.joules]
        assert all(value is None or math.isfinite(value) for value in shown)
