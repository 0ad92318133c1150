"""The results of a run and of a sweep."""

from __future__ import annotations

from collections import Counter

import msgspec

__all__ = ["Outcome", "SweepSummary", "Violation"]


class Violation(msgspec.Struct, frozen=True):
    """A property that did not hold: its name, the time and the message."""

    property: str
    at_us: int
    message: str

    def __str__(self) -> str:
        return f"{self.property} at {self.at_us / 1e6:.6f} s: {self.message}"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `trace` is a SHA-256 over everything that was delivered, in order."""

    seed: int
    finding: Violation | None
    trace: str
    simulated_us: int
    steps: int
    blocks: int
    requests: int
    views: int
    faults: dict[str, int]
    accusations: dict[str, int]
    states: tuple[str, ...]  # of the protocol (`coverage`)


class SweepSummary:
    """Sums over a sweep."""

    def __init__(self) -> None:
        self.seeds = 0
        self.simulated_us = 0
        self.steps = 0
        self.blocks = 0
        self.requests = 0
        self.view_changes = 0
        self.faults: Counter[str] = Counter()
        self.accusations: Counter[str] = Counter()
        self.states: set[str] = set()
        self.new_state_at = 0  # number of seeds run when the last new state came
        self.failures: list[Outcome] = []
        self.resume_at: int | None = None  # if interrupted: all seeds below this one were run

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.simulated_us += outcome.simulated_us
        self.steps += outcome.steps
        self.blocks += outcome.blocks
        self.requests += outcome.requests
        self.view_changes += outcome.views
        self.faults.update(outcome.faults)
        self.accusations.update(outcome.accusations)
        if not self.states.issuperset(outcome.states):
            self.states.update(outcome.states)
            self.new_state_at = self.seeds
        if outcome.finding is not None:
            self.failures.append(outcome)

    def as_json(self, elapsed_s: float) -> dict[str, object]:
        return {
            "seeds": self.seeds,
            "seeds_per_s": round(self.seeds / max(elapsed_s, 1e-9), 2),
            "elapsed_s": round(elapsed_s, 2),
            "simulated_hours": round(self.simulated_us / 3.6e9, 3),
            "steps": self.steps,
            "blocks": self.blocks,
            "requests": self.requests,
            "view_changes": self.view_changes,
            "faults": dict(sorted(self.faults.items())),
            "accusations": dict(sorted(self.accusations.items())),
            "states": sorted(self.states),
            "new_state_at": self.new_state_at,
            "resume_at": self.resume_at,
            "failures": [
                {"seed": outcome.seed, **msgspec.to_builtins(outcome.finding)}
                for outcome in sorted(self.failures, key=lambda o: o.seed)
            ],
        }
