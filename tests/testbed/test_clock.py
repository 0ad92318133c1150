"""Every host's clock comes with a bound that holds, whatever the way there is like."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from inventory.load import load_lab
from testbed.care.clock import ClockReading, read_clock, require_near
from testbed.care.conditions import open_facts
from testbed.errors import LabFault
from testbed.hosts.local import LocalHost
from testbed.hosts.port import Dialogue, OutcomeUnknown


class FarClock(Dialogue):
    """A clock that is `ahead_ms` ahead, with a slow way there and a fast way back (or not)."""

    def __init__(self, ahead_ms: float, there_ms: float, back_ms: float) -> None:
        self._ahead_ns = int(ahead_ms * 1e6)
        self._there_s, self._back_s = there_ms / 1000, back_ms / 1000
        self._pause = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None: ...

    def close(self) -> None: ...

    def ask(self, line: str, *, timeout_s: float = 1) -> str:
        del line, timeout_s
        self._pause.wait(self._there_s)
        answer = f"{time.time_ns() + self._ahead_ns} {time.monotonic_ns()}"
        self._pause.wait(self._back_s)
        return answer


@pytest.mark.parametrize(
    ("ahead_ms", "there_ms", "back_ms"),
    [(0, 0, 0), (250, 2, 2), (-3_600_000, 20, 1), (7.5, 1, 20), (-0.5, 0, 5)],
)
def test_the_true_offset_lies_within_the_bound(
    ahead_ms: float, there_ms: float, back_ms: float
) -> None:
    """Also when both ways differ, which no exchange can show."""
    reading = read_clock(FarClock(ahead_ms, there_ms, back_ms), samples=4)
    assert abs(reading.offset_ms - ahead_ms) <= reading.bound_ms
    assert reading.bound_ms >= (there_ms + back_ms) / 2


def test_the_quickest_answer_counts() -> None:
    """One slow answer must not widen the bound."""

    class Uneven(FarClock):
        def ask(self, line: str, *, timeout_s: float = 1) -> str:
            self._back_s = 0.2 - self._back_s
            return super().ask(line, timeout_s=timeout_s)

    assert read_clock(Uneven(0, 0, 0), samples=4).bound_ms < 100


def test_a_strange_answer_is_a_clear_error() -> None:
    class Strange(FarClock):
        def ask(self, line: str, *, timeout_s: float = 1) -> str:
            return "soon"

    with pytest.raises(LabFault, match="soon"):
        read_clock(Strange(0, 0, 0))


def test_a_run_is_refused_whose_replicas_clocks_are_certainly_too_far_apart() -> None:
    lab = load_lab()
    limit_ms = lab.chain.precision_ms
    near = {name: ClockReading(n * limit_ms / 4, 0.1, 0) for n, name in enumerate(lab.replicas())}
    require_near(lab, near)
    unsure = {**near, "r1": ClockReading(-limit_ms, limit_ms, 0)}
    require_near(lab, unsure)
    with pytest.raises(LabFault, match=r"the clock of r1 is .*chain\.precision(.|\n)*set-ntp"):
        require_near(lab, {**near, "r1": ClockReading(-limit_ms, 0.1, 0)})


def test_a_real_dialogue_gives_this_machines_own_time(tmp_path: Path) -> None:
    with LocalHost(tmp_path) as host, open_facts(host, sys.executable) as line:
        reading = read_clock(line)
    assert abs(reading.offset_ms) <= reading.bound_ms


def test_a_dialogue_whose_command_ended_is_no_answer(tmp_path: Path) -> None:
    with (
        LocalHost(tmp_path) as host,
        host.dialogue(["true"]) as line,
        pytest.raises(OutcomeUnknown),
    ):
        line.ask("hello", timeout_s=5)
