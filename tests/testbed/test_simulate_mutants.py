"""The mutants prove the harness: each wrong line is noticed, the clean build on the same seeds not.

`make mutants` searches from seed 0 on and prints the whole table; here each mutant is a test, which
begins with the seed that the table has.
"""

from __future__ import annotations

import pytest

from tests.testbed.mutants.__main__ import run_in_own_process, run_mutant
from tests.testbed.mutants.loader import StaleMutantError, fits, mutated
from tests.testbed.mutants.table import MUTANTS, Mutant

by_name = pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])


@by_name
def test_a_mutant_still_fits_the_source(mutant: Mutant) -> None:
    """A refactoring that moves the line breaks here, loudly."""
    fits(mutant)


@pytest.mark.timeout(900)
@by_name
def test_a_mutant_is_killed_and_the_clean_build_is_not(mutant: Mutant) -> None:
    result = run_in_own_process(mutant, range(mutant.known, mutant.known + 1))
    if result.seed is None:  # the core has changed since
        result = run_in_own_process(mutant, range(mutant.budget))
    assert result.seed is not None, f"{mutant.name} survived {result.seeds} seeds"
    same = range(result.seed, result.seed + 1)
    assert run_mutant(mutant, same, patched=False).seed is None


def test_a_stale_mutant_is_refused() -> None:
    mutant = MUTANTS[0]
    with pytest.raises(StaleMutantError, match="occurs 0 times"):
        mutated(mutant, "nothing of the kind")
    with pytest.raises(StaleMutantError, match="occurs 2 times"):
        mutated(mutant, mutant.old * 2)


def test_there_are_enough_and_their_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 15
