"""A failing schedule becomes as short as its cause, and still fails."""

from __future__ import annotations

import msgspec

from testbed.simulate.draw import Options, draw
from testbed.simulate.scenario import EventKind, Scenario
from testbed.simulate.shrink import shrink


def _needs(scenario: Scenario) -> bool:
    """Stands for a bug: a crash of replica 2 longer than 100 ms while the link 0 -> 1 is cut."""
    crash = any(
        e.kind is EventKind.CRASH and 2 in e.nodes and e.duration_us > 100_000
        for e in scenario.events
    )
    cut = any(e.kind is EventKind.BLOCK and (0, 1) in e.links for e in scenario.events)
    return crash and cut


def _failing() -> Scenario:
    scenarios = (draw(Options(faults="all"), seed) for seed in range(2000))
    return next(s for s in scenarios if _needs(s) and len(s.events) > 15 and s.traitors)


def test_only_the_cause_is_left() -> None:
    found = shrink(_failing(), _needs)
    assert _needs(found)
    assert len(found.events) == 2
    (crash,) = (e for e in found.events if e.kind is EventKind.CRASH)
    (cut,) = (e for e in found.events if e.kind is EventKind.BLOCK)
    assert 100_000 < crash.duration_us <= 200_000
    assert cut.links == ((0, 1),)
    assert all(traitor.tricks == () for traitor in found.traitors)


def test_a_spent_budget_returns_the_best_so_far() -> None:
    failing = _failing()
    runs = 0

    def counted(scenario: Scenario) -> bool:
        nonlocal runs
        runs += 1
        return _needs(scenario)

    found = shrink(failing, counted, runs_max=5)
    assert runs == 5
    assert _needs(found)


def test_a_scenario_survives_its_json() -> None:
    scenario = _failing()
    assert Scenario.decode(scenario.encode()) == scenario
    assert msgspec.json.decode(scenario.encode())["seed"] == scenario.seed
