"""`python -m tests.testbed.mutants`: runs every mutant in its own process, prints the table.

Each runs the seed that `table` says kills it; with `--search` all of its budget from 0 on, until a
property breaks. It is an error if none does, or if another seed is the first. The clean build runs
on the same seeds, and nothing may break.

`--strategies` prints which exploration strategy finds which mutant, and after how many schedules
(`strategies`). With `--out` it can be stopped and goes on later.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.testbed.mutants import strategies
from tests.testbed.mutants.loader import fits
from tests.testbed.mutants.runner import run_in_own_process
from tests.testbed.mutants.table import MUTANTS, Mutant, Result

__all__ = ["main", "row"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.testbed.mutants", description=__doc__)
    parser.add_argument("--strategies", action="store_true", help="mutant against strategy")
    parser.add_argument("--tries", type=int, default=20, help="with --strategies")
    parser.add_argument("--limit", type=int, default=100, help="schedules of one try")
    parser.add_argument("--out", type=Path, help="with --strategies: JSON file to go on from")
    parser.add_argument("--search", action="store_true", help="every seed of the budgets, from 0")
    parser.add_argument("--only", nargs="*", help="names of mutants to run")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--markdown", action="store_true", help="print it as Markdown")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if arguments.strategies:
        chosen = [m for m in MUTANTS if not arguments.only or m.name in arguments.only]
        cells = strategies.fill(chosen, arguments.tries, arguments.limit, arguments.out)
        sys.stdout.write(strategies.markdown(chosen, cells, arguments.limit))
        return 0
    form = "json" if arguments.json else "markdown" if arguments.markdown else "table"
    chosen = [m for m in MUTANTS if not arguments.only or m.name in arguments.only]
    first = [0 if arguments.search else mutant.known for mutant in chosen]
    stop = [mutant.budget if arguments.search else mutant.known + 1 for mutant in chosen]
    return _run_all(chosen, [*map(range, first, stop)], arguments.jobs, form)


def _run_all(chosen: list[Mutant], seeds: list[range], jobs: int, form: str) -> int:
    for mutant in chosen:
        fits(mutant)
    with ThreadPoolExecutor(jobs) as pool:  # each thread waits for one process
        results = list(pool.map(run_in_own_process, chosen, seeds))
        same = [each[: result.seeds] for each, result in zip(seeds, results, strict=True)]
        clean = list(pool.map(partial(run_in_own_process, patched=False), chosen, same))
    if form == "json":
        rows = [
            {**result._asdict(), "budget": mutant.budget, "clean_finding": unpatched.property}
            for mutant, result, unpatched in zip(chosen, results, clean, strict=True)
        ]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    elif form == "markdown":
        sys.stdout.write(
            "| mutant | module | killed by | at seed | budget |\n|---|---|---|---|---|\n"
        )
        sys.stdout.writelines(f"{row(*each)}\n" for each in zip(chosen, results, strict=True))
    else:
        _print_table(chosen, results, clean)
    wrong = [
        f"{mutant.name}: {'no seed' if result.seed is None else f'seed {result.seed}'} kills it, "
        f"tests/testbed/mutants/table.py says {mutant.known}"
        for mutant, result in zip(chosen, results, strict=True)
        if result.seed != mutant.known
    ]
    wrong += [
        f"{result.mutant}: the clean build breaks a property on its seeds"
        for result in clean
        if result.seed is not None
    ]
    sys.stderr.writelines(f"{each}\n" for each in wrong)
    return 1 if wrong else 0


def row(mutant: Mutant, result: Result) -> str:
    """As it stands in chain/README.md."""
    killed = f"{result.property or 'SURVIVED'} | {result.seed}"
    return f"| {mutant.name} | `{mutant.module}` | {killed} | {mutant.budget} |"


def _print_table(chosen: list[Mutant], results: list[Result], clean: list[Result]) -> None:
    # Imported late: a process that runs one mutant prints no table.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(title="mutants")
    for column in ("mutant", "module", "killed by", "at seed", "after", "budget", "s", "clean"):
        table.add_column(column)
    for mutant, result, unpatched in zip(chosen, results, clean, strict=True):
        table.add_row(
            mutant.name,
            mutant.module,
            result.property or "SURVIVED",
            str(result.seed),
            str(result.seeds),
            str(mutant.budget),
            str(result.elapsed_s),
            unpatched.property or "nothing",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
