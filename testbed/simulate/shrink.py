"""Makes a failing scenario shorter, so that it still breaks the same property.

Delta debugging (Zeller & Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", TSE
2002): first over events, then traitors' tricks, then durations, then the links of each event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from testbed.simulate.scenario import Event, Scenario, Traitor

__all__ = ["shrink"]

_T = TypeVar("_T")
RUNS_MAX = 400
_DURATION_US_MIN = 20_000
_PATIENCE_US_MIN = 15_000_000


class _BudgetSpent(Exception):
    pass


def shrink(
    scenario: Scenario, fails: Callable[[Scenario], bool], runs_max: int = RUNS_MAX
) -> Scenario:
    """The shortest scenario found in `runs_max` runs for which `fails` is still true."""
    search = _Search(scenario, fails, runs_max)
    try:
        search.patience()
        before = None
        while before != search.best:  # after a later pass an earlier one may succeed again
            before = search.best
            search.events()
            search.tricks()
            search.durations()
            search.links()
    except _BudgetSpent:
        pass
    return search.best


class _Search:
    def __init__(
        self, scenario: Scenario, fails: Callable[[Scenario], bool], runs_max: int
    ) -> None:
        self.best = scenario
        self._fails = fails
        self._runs_left = runs_max

    def _try(self, candidate: Scenario) -> bool:
        if candidate == self.best:
            return False
        if not self._runs_left:
            raise _BudgetSpent
        self._runs_left -= 1
        if not self._fails(candidate):
            return False
        self.best = candidate
        return True

    def _replace(self, index: int, event: Event) -> Scenario:
        events = self.best.events
        return msgspec.structs.replace(
            self.best, events=(*events[:index], event, *events[index + 1 :])
        )

    def patience(self) -> None:
        """Shortens the wait for what never comes, which makes every later run cheaper."""
        patience_us = min(self.best.patience_us, _PATIENCE_US_MIN)
        self._try(msgspec.structs.replace(self.best, patience_us=patience_us))

    def events(self) -> None:
        _minimal(
            self.best.events,
            lambda events: self._try(msgspec.structs.replace(self.best, events=tuple(events))),
        )

    def tricks(self) -> None:
        """Tries fewer tricks for each. A Byzantine replica without tricks is honest, but not
        checked."""
        for index, traitor in enumerate(self.best.traitors):
            _minimal(traitor.tricks, partial(self._try_tricks, index))

    def _try_tricks(self, index: int, tricks: Sequence[str]) -> bool:
        traitors = list(self.best.traitors)
        traitors[index] = Traitor(traitors[index].replica, tuple(tricks))
        return self._try(msgspec.structs.replace(self.best, traitors=tuple(traitors)))

    def durations(self) -> None:
        for index in range(len(self.best.events)):
            while (duration_us := self.best.events[index].duration_us) > _DURATION_US_MIN:
                event = msgspec.structs.replace(
                    self.best.events[index], duration_us=duration_us // 2
                )
                if not self._try(self._replace(index, event)):
                    break

    def links(self) -> None:
        for index, event in enumerate(self.best.events):
            _minimal(event.links, partial(self._try_links, index))

    def _try_links(self, index: int, links: Sequence[tuple[int, int]]) -> bool:
        event = msgspec.structs.replace(self.best.events[index], links=tuple(links))
        return self._try(self._replace(index, event))


def _minimal(items: Sequence[_T], accepted: Callable[[Sequence[_T]], bool]) -> None:
    """Removes chunks, halves first and single items last, while `accepted` agrees."""
    chunk = len(items)
    while chunk >= 1 and items:
        start = 0
        while start < len(items):
            fewer = (*items[:start], *items[start + chunk :])
            if accepted(fewer):
                items = fewer
            else:
                start += chunk
        chunk = chunk // 2
