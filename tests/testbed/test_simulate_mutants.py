"""The mutants prove the harness: each wrong line is noticed, the clean build on the same seeds not.

`make mutants` does it for all and prints the table; here each mutant is a test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testbed.mutants.__main__ import row
from tests.testbed.mutants.loader import StaleMutantError, fits, mutated
from tests.testbed.mutants.runner import run_in_own_process, run_mutant
from tests.testbed.mutants.table import MUTANTS, Mutant

TABLE = (Path(__file__).parents[2] / "chain" / "README.md").read_text().splitlines()

SLOW = {  # they stop a network; its simulation then goes on until it has waited long enough
    "certificates-left-out-of-view-change",
    "checkpoint-proof-unchecked",
    "checkpoint-with-one-vote",
    "epoch-before-its-checkpoint-is-stable",
    "epoch-one-checkpoint-early",
    "no-joining-of-f+1",
    "orders-batches-that-nobody-has",
    "timer-never-doubled",
}
by_name = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


@by_name
def test_a_mutant_still_fits_the_source(mutant: Mutant) -> None:
    """A refactoring that moves the line breaks here, loudly."""
    fits(mutant)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(each, id=each.name, marks=pytest.mark.soak if each.name in SLOW else [])
        for each in MUTANTS
    ],
)
def test_a_mutant_is_killed_by_its_seed_and_the_clean_build_is_not(mutant: Mutant) -> None:
    """If the core has changed, `make mutants ARGS="--search --only NAME"` finds another seed."""
    seed = range(mutant.known, mutant.known + 1)
    result = run_in_own_process(mutant, seed)
    assert result.seed == mutant.known, f"seed {mutant.known} does not kill {mutant.name}"
    assert run_mutant(mutant, seed, patched=False).seed is None
    assert row(mutant, result) in TABLE


def test_a_stale_mutant_is_refused() -> None:
    mutant = MUTANTS[0]
    with pytest.raises(StaleMutantError, match="occurs 0 times"):
        mutated(mutant, "nothing of the kind")
    with pytest.raises(StaleMutantError, match="occurs 2 times"):
        mutated(mutant, mutant.old * 2)


def test_there_are_enough_and_their_names_differ() -> None:
    names = {mutant.name for mutant in MUTANTS}
    assert len(names) == len(MUTANTS) >= 15
    assert names > SLOW
