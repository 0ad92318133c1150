"""A cut is seen to take effect, whatever a replica logged around it."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from testbed.campaign.watch import NodeView, Watch
from testbed.faults.heard import SILENT_S, Heard
from testbed.provision.layout import Node

SOURCE, TARGET = Node("r1", "replica", "r1", 0), Node("r2", "replica", "r2", 1)


class World:
    """A log of `r2`, and the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        self._view = NodeView("r2", "replica")
        self.heard = Heard(
            cast("Watch", SimpleNamespace(nodes={"r2": self._view})), [(SOURCE, TARGET)]
        )

    def logs(self, **from_: int) -> None:
        """`r2` says how many frames came: `r1=3`."""
        numbers = {str(int(name[1:]) - 1): count for name, count in from_.items()}
        event: dict[str, Any] = {"event": "counters", "heard": numbers}
        self._view.events.append(event)
        self._view.counts["counters"] += 1

    def after(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.heard.nothing()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_others_are_heard_and_the_source_is_not(world: World) -> None:
    world.logs(r1=5, r3=5)
    assert not world.after(1)
    world.logs(r1=5, r3=9)
    assert world.after(1)
    world.logs(r1=6, r3=12)
    assert not world.after(1)


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_nobody_is_heard_after_some_last_frames(world: World, lines: int) -> None:
    """A replica that hears nobody logs nothing. Its last lines may tell of frames that came before
    the cut, or while it was made: two such lines once hid the silence after them."""
    for number in range(lines):
        world.logs(r1=number)
        assert not world.after(1)
    assert not world.after(SILENT_S - 1)
    assert world.after(1.1)
