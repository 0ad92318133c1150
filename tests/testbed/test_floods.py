"""What a flood costs, what honest devices have meanwhile and which layer stops it, from files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from testbed.campaign.event import ScheduledEvent
from testbed.campaign.injection import Judgement
from testbed.checks.counted import Counted
from testbed.report.floods import draw_floods, floods_of
from tests.testbed.drawn import words

S = 10**9


def flood(name: str, how: str, *, kind: str = "device.flood") -> ScheduledEvent:
    return ScheduledEvent(
        id=name,
        fault=name,
        kind=kind,
        category="attack",
        layer="device",
        phase="attack",
        at_ms=0,
        for_ms=6000,
        targets={},
        params={"how": how},
    )


def judged(rate: float, refused: dict[str, int], **details: float) -> Judgement:
    sent = {"messages": 600.0, "bytes": 6000.0, "messages_per_s": rate, "goodput_per_s": 5.0}
    return Judgement(1, 1, 1, 0, refused, details=sent | details)


def test_a_flood_says_what_it_costs_and_who_stopped_it() -> None:
    events = [flood(name, "valid") for name in ("fast", "slow", "none")]
    events.append(flood("other", "x", kind="device.x"))
    found = floods_of(
        events,
        {
            "fast": judged(100.0, {"gateway:rate": 300, "broker:bad-login": 60}),
            "slow": judged(10.0, {}, p99_ms=70.0),
            "none": judged(10.0, {}, messages=0),
        },
    )
    assert [each.id for each in found] == ["slow", "fast"], "in the order of their rates"
    slow, fast = found
    assert (slow.honest_per_s, slow.honest_p99_ms, slow.sent_bytes_per_s) == (5.0, 70.0, 100.0)
    assert fast.honest_p99_ms is None, "no reading was due"
    assert fast.stopped == pytest.approx(
        {"broker": 0.1, "gateway": 0.5, "group": 0.0, "ledger": 0.0, "no layer": 0.4}
    )


@pytest.mark.parametrize("names", [("",), ("dos", "dos-no-limits")])
def test_floods_are_drawn_so_that_they_can_be_read(names: tuple[str, ...]) -> None:
    events = [flood("valid-20", "valid"), flood("invalid-1280", "invalid")]
    rates = {"valid-20": 9.0, "invalid-1280": 1234.0}
    floods = floods_of(
        events, {name: judged(rate, {}, p99_ms=70.0) for name, rate in rates.items()}
    )
    said = words(lambda: draw_floods(dict.fromkeys(names, floods), None))
    assert {"10", "100", "1000"} <= set(said)
    assert not [each for each in said if "$" in each], "no raw formula"


def write_log(path: Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn "counts"')


def test_sums_of_gateway_and_broker_say_what_was_refused_in_between(tmp_path: Path) -> None:
    write_log(
        tmp_path / "gateway.jsonl",
        {"event": "counts", "t": 1 * S, "accepted": 9, "refused:rate": 10},
        {"event": "counts", "t": 3 * S, "accepted": 20, "refused:rate": 25, "refused:busy": 1},
        {"event": "counts", "t": 9 * S, "refused:rate": 99},
    )
    write_log(
        tmp_path / "log" / "broker.log",
        {"event": "counts", "t_s": 2.5, "counts": {"logins": 7, "bad-login": 4}},
    )
    counted = Counted(tmp_path)
    assert counted.refused(2 * S, 4 * S) == {
        "gateway:rate": 15,
        "gateway:busy": 1,
        "broker:bad-login": 4,
    }
    assert counted.refused(3 * S, 4 * S) == {}
