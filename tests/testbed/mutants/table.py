"""The mutants: one wrong line each, and what must notice it.

A mutant's seeds are `first` to `first + budget - 1` of its profile; one of `killed_by` must break
on one of them, and nothing may break on the same seeds without the mutant.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["MUTANTS", "Mutant", "Result"]


class Mutant(NamedTuple):
    name: str
    module: str
    old: str
    new: str
    faults: str = "all"
    byzantine: tuple[tuple[str, int], ...] = ()
    replicas: int = 4
    budget: int = 200
    first: int = 0


class Result(NamedTuple):
    """`seed` is None if the mutant survived; `seeds` counts those that were run."""

    mutant: str
    seed: int | None
    seeds: int
    property: str
    message: str
    elapsed_s: float


MUTANTS: tuple[Mutant, ...] = ()
