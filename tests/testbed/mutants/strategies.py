"""Which exploration strategy finds which mutant, and after how many schedules.

One process tries one mutant under one strategy: several tries, each with seeds of its own. A try
that finds nothing ends at the limit. With `--out` each cell is written when it is known, and a
second run goes on where the first one stopped.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import median

from tests.testbed.mutants.loader import apply
from tests.testbed.mutants.runner import in_fresh_process
from tests.testbed.mutants.table import Mutant

__all__ = ["cell", "fill", "markdown"]

# mutant -> strategy -> schedules that each try needed; None: more than the limit
Cells = dict[str, dict[str, list[int | None]]]


def cell(mutant: Mutant, strategy: str, tries: int, limit: int) -> list[int | None]:
    """In this process, which must be fresh."""
    apply(mutant)
    # Imported late: the modules under test must see the patch.
    from testbed.simulate.draw import Options, draw  # noqa: PLC0415
    from testbed.simulate.world import run  # noqa: PLC0415

    options = Options(
        replicas=mutant.replicas,
        faults=mutant.faults,
        byzantine=mutant.byzantine,
        strategy=strategy,
    )

    def needed(seeds: range) -> int | None:
        for count, seed in enumerate(seeds, 1):
            if run(draw(options, seed)).finding is not None:
                return count
        return None

    return [needed(range(at * limit, (at + 1) * limit)) for at in range(tries)]


def fill(chosen: list[Mutant], tries: int, limit: int, out: Path | None) -> Cells:
    """All cells; those that `out` has are not run again. Raises ValueError if `out` is of other
    tries or another limit."""
    from testbed.simulate.strategies import STRATEGIES  # noqa: PLC0415 - late, as above

    cells: Cells = {}
    if out is not None and out.exists():
        kept = json.loads(out.read_text())
        if (kept["tries"], kept["limit"]) != (tries, limit):
            raise ValueError(
                f"{out} has {kept['tries']} tries of {kept['limit']}: ask for the same, "
                "or name another file"
            )
        cells = kept["cells"]
    for mutant in chosen:
        row = cells.setdefault(mutant.name, {})
        for strategy in STRATEGIES:
            if strategy not in row:
                row[strategy] = in_fresh_process(cell, mutant, strategy, tries, limit)
                sys.stderr.write(f"{mutant.name} {strategy}: {row[strategy]}\n")
                if out is not None:
                    whole = {"tries": tries, "limit": limit, "cells": cells}
                    aside = out.with_suffix(".new")
                    aside.write_text(json.dumps(whole, indent=1) + "\n")
                    aside.replace(out)
    return cells


def markdown(chosen: list[Mutant], cells: Cells, limit: int) -> str:
    """The median of the tries. Where half of them find nothing: more than the limit, and how many
    did find it. What no try finds, the mutant's own profile kills at the seed named last."""
    strategies = list(dict.fromkeys(name for mutant in chosen for name in cells[mutant.name]))
    lines = [
        "| mutant | profile | " + " | ".join(strategies) + " |",
        "|---|---|" + "---|" * len(strategies),
    ]
    for mutant in chosen:
        row = cells[mutant.name]
        shown = [_shown(row[strategy], limit) for strategy in strategies]
        if not any(count is not None for found in row.values() for count in found):
            shown[0] += f"; seed {mutant.known}"
        lines.append(f"| {mutant.name} | {mutant.faults} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def _shown(found: list[int | None], limit: int) -> str:
    middle = median(math.inf if count is None else count for count in found)
    killed = sum(count is not None for count in found)
    return f"{middle:g}" if middle < math.inf else f"> {limit} ({killed})"
