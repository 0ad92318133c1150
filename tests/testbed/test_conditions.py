"""Hosts are watched while a run goes on, and a run on an unfit host does not count."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inventory.load import load_lab
from testbed.care.conditions import Conditions, HostLimits, limits_of
from testbed.care.host_watch import HostWatch
from testbed.checks.conditions import ClockLine, ConditionLine, unfit, unknown
from testbed.hosts.local import LocalHost
from tests.testbed.hosts_support import eventually

LIMITS = HostLimits(clock_error_ms_max=1.0, disk_free_mb_min=100)
FINE = Conditions(
    boot="a",
    wall_minus_monotonic_ns=10**18,
    temperature_c=50.0,
    throttled=0,
    disk_free_mb=4000,
    load=0.5,
)
SHARP = {"offset_ms": 0.1, "bound_ms": 0.2}


def looks(*changes: dict[str, Any], host: str = "pi01") -> list[ConditionLine]:
    return [
        ConditionLine(t=n, host=host, limits=LIMITS, seen=msgspec.structs.replace(FINE, **change))
        for n, change in enumerate(changes)
    ]


def clock(*readings: dict[str, Any], host: str = "pi01") -> list[ClockLine]:
    return [ClockLine(t=n, host=host, **reading) for n, reading in enumerate(readings)]


def test_a_host_that_was_well_all_the_time_is_fit() -> None:
    assert unfit(looks({}, {}, {}), clock(SHARP, SHARP)) == ()
    assert unknown(looks({}, {})) == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([{}, {"throttled": 0x1}], "undervoltage during the run"),
        ([{}, {"throttled": 0x50000}], "undervoltage, throttled during the run"),
        ([{}, {"throttled": 0x8}, {}], "soft temperature limit during the run"),
        ([{}, {"undervoltage": 1}, {"undervoltage": 0}], "undervoltage during the run"),
        ([{"throttle_count": 7}, {"throttle_count": 9}], "throttled 2 times"),
        (
            [{"throttle_count": 7}, {"throttle_count": 9}, {"boot": "b", "throttle_count": 0}],
            "throttled 2 times",
        ),
        ([{"throttled": 0x10000}, {"boot": "b", "throttled": 0x10000}], "undervoltage"),
        ([{}, {"disk_free_mb": 99}, {}], "only 99 MB"),
        ([{}, {"wall_minus_monotonic_ns": 10**18 + 2_000_000}], "set by +2.00 ms"),
    ],
)
def test_each_trouble_of_a_host_is_a_reason(changes: list[dict[str, Any]], says: str) -> None:
    (why,) = unfit(looks(*changes), clock(SHARP))
    assert why.startswith("pi01: ")
    assert says in why


@pytest.mark.parametrize(
    "changes",
    [
        [{"throttled": 0x50000}, {"throttled": 0x50000}],  # from before the run
        [{}, {"boot": "b", "wall_minus_monotonic_ns": 10**18 + 9**15}],  # it was restarted
        [{"throttle_count": 7}, {"boot": "b", "throttle_count": 9}],
        [{"temperature_c": 95.0}, {"temperature_c": 95.0}],
        [{"disk_free_mb": 100}],
    ],
)
def test_what_is_no_trouble_of_this_run_is_no_reason(changes: list[dict[str, Any]]) -> None:
    assert unfit(looks(*changes), clock(SHARP)) == ()


@pytest.mark.parametrize(
    ("readings", "says"),
    [
        ([SHARP, {"offset_ms": -3.0, "bound_ms": 0.5}], "-3.00 ms off"),
        ([{"offset_ms": 0.0, "bound_ms": 4.0}] * 3, "never known better than to 4.00 ms"),
        ([{"offset_ms": 0.0, "bound_ms": 4.0}, SHARP], ""),
        ([{"offset_ms": 4.5, "bound_ms": 4.0}, SHARP], ""),
        ([{"problem": "no answer"}], ""),
        ([], ""),
    ],
)
def test_a_clock_is_judged_by_what_is_certain(readings: list[dict[str, Any]], says: str) -> None:
    """Once known well it is known: a wide bound now and then is a busy network's."""
    found = unfit(looks({}, {}), clock(*readings))
    assert (says in found[0]) if says else found == ()


def test_what_a_campaign_disturbs_on_purpose_is_not_held_against_the_host() -> None:
    full, wrong = looks({}, {"disk_free_mb": 0}), clock({"offset_ms": 9e3, "bound_ms": 1})
    assert len(unfit(full, wrong)) == 2
    assert len(unfit(full, wrong, ["clock"])) == 1
    assert unfit(full, wrong, ["clock", "disk"]) == ()


def test_a_host_without_sensors_is_not_known_never_fine() -> None:
    blind = looks({"throttled": None, "temperature_c": None}, host="pi02")
    assert unfit(blind, []) == ()
    assert unknown([*blind, *looks({})]) == (
        "not known of pi02: whether they were throttled or short of voltage",
        "not known of pi02: how hot they were",
    )


def test_a_host_that_was_never_once_seen_is_not_fit() -> None:
    """Its clock may have been read, and be wrong: the limit stands beside its conditions."""
    strange = clock({"offset_ms": 500.0, "bound_ms": 0.2}, {"problem": "no answer"}, host="pi02")
    (found,) = unfit(looks({}), [*clock(SHARP), *strange])
    assert found == "pi02: it was never seen: no answer"
    own = clock(SHARP, {"problem": "busy"}, SHARP)
    assert unfit([], own) == (), "this machine's own is not watched"


class NotesWatch(LocalHost):
    """Writes down the process id of the last dialogue."""

    def dialogue(self, argv: Any) -> Any:
        script = 'echo $$ >watch.pid; exec "$@"'
        return super().dialogue(["sh", "-c", script, "watch", *argv])


def test_a_watch_writes_before_during_and_after_and_outlives_a_silent_host(tmp_path: Path) -> None:
    """Clock and conditions, over one process on the host, which may die."""
    written: list[dict[str, Any]] = []
    with NotesWatch(tmp_path, name="pi01") as host:
        watch = HostWatch(
            {"pi01": host},
            {"pi01": sys.executable},
            lambda file, **fields: written.append({"file": file, **fields}),
            {"pi01": LIMITS},
            every_s=0.05,
        )
        assert set(watch.start()) == {"pi01"}
        host.run(["sh", "-c", 'kill -KILL "$(cat watch.pid)"'])
        eventually(lambda: any("problem" in one for one in written))
        eventually(lambda: written[-1]["when"] == "during" and "seen" in written[-1])
        watch.stop()
    for file in ("clock", "conditions"):
        lines = [one for one in written if one["file"] == file]
        assert lines[0]["when"] == "before"
        assert lines[-1]["when"] == "after"
    looked = [
        msgspec.convert({"t": 0, **one}, ConditionLine)
        for one in written
        if one["file"] == "conditions"
    ]
    assert len({line.seen.boot for line in looked}) == 1
    assert all(line.seen.disk_free_mb > 0 for line in looked)
    step_ns = looked[-1].seen.wall_minus_monotonic_ns - looked[0].seen.wall_minus_monotonic_ns
    assert abs(step_ns) < 1_000_000, "nobody set the clock"


def test_a_strange_answer_is_written_down_and_asked_again(tmp_path: Path) -> None:
    """A host whose watch prints nonsense neither stops the run nor the watch."""
    written: list[dict[str, Any]] = []
    liar = tmp_path / "python"
    liar.write_text("#!/bin/sh\nwhile read -r line; do echo nonsense; done\n")
    liar.chmod(0o755)
    with LocalHost(tmp_path / "r", name="pi01") as host:
        watch = HostWatch(
            {"pi01": host},
            {"pi01": str(liar)},
            lambda file, **fields: written.append({"file": file, **fields}),
            {"pi01": LIMITS},
            every_s=0.05,
        )
        assert watch.start() == {}
        eventually(lambda: len(written) > 2)
        watch.stop()
    assert all("nonsense" in one["problem"] for one in written)


def test_only_hosts_over_ssh_are_watched() -> None:
    """On loopback all hosts are this one machine, and results are watermarked as such."""
    assert limits_of(load_lab()) == {}
