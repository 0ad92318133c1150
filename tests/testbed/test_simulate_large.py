"""A view change of many replicas: its NEW-VIEW fits into a frame, and every one enters."""

from __future__ import annotations

import msgspec
import pytest

from testbed.simulate.draw import Options, draw
from testbed.simulate.scenario import Event, EventKind
from testbed.simulate.world import run


def _view_change(replicas: int) -> None:
    """The first primary dies for good, with a request on its way."""
    scenario = draw(Options(replicas=replicas, faults="none"), 1)
    ask = Event(at_us=1_000, kind=EventKind.REQUEST, nodes=(0,), detail="data")
    crash = Event(at_us=100_000, kind=EventKind.CRASH, nodes=(0,), detail="lost")
    again = Event(at_us=200_000, kind=EventKind.REQUEST, nodes=(0,), amount=1, detail="data")
    scenario = msgspec.structs.replace(
        scenario,
        events=(ask, crash, again),
        survivors=tuple(range(1, replicas)),
        heal_us=300_000,
        skews_us=(0,) * replicas,
        turn_us=5_000,
    )
    outcome = run(scenario)
    assert outcome.finding is None, outcome.finding
    assert outcome.views >= 1


def test_thirty_one_replicas_change_the_view() -> None:
    _view_change(31)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("replicas", [64, 100])
def test_a_hundred_replicas_change_the_view(replicas: int) -> None:
    _view_change(replicas)
