"""Runs a mutant on seeds, in a process of its own that has imported none of our modules."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypeVar

from tests.testbed.mutants.loader import apply
from tests.testbed.mutants.table import Mutant, Result

__all__ = ["in_fresh_process", "run_in_own_process", "run_mutant"]

P = ParamSpec("P")
R = TypeVar("R")

# Processes are forked from a server that has imported what the modules under test build on.
_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        "__main__",
        "asyncio",
        "cbor2",
        "cryptography.hazmat.primitives.asymmetric.ec",
        "cryptography.x509",
        "msgspec",
        "sqlite3",
        "uuid",
    ]
)


def in_fresh_process(call: Callable[P, R], *arguments: P.args, **named: P.kwargs) -> R:
    """What the call returns. Raises what it raises, BrokenProcessPool if the process dies."""
    with ProcessPoolExecutor(1, mp_context=_FORKED) as pool:
        return pool.submit(call, *arguments, **named).result()


def run_mutant(mutant: Mutant, seeds: range, *, patched: bool = True) -> Result:
    """In this process, which must be fresh if `patched`."""
    if patched:
        apply(mutant)
    # Imported late: the modules under test must see the patch.
    from testbed.simulate.draw import Options, draw  # noqa: PLC0415
    from testbed.simulate.world import run  # noqa: PLC0415

    options = Options(
        replicas=mutant.replicas,
        faults=mutant.faults,
        byzantine=mutant.byzantine,
        strategy=mutant.strategy,
    )
    started = time.monotonic()
    for count, seed in enumerate(seeds, 1):
        finding = run(draw(options, seed)).finding
        if finding is not None:
            elapsed_s = round(time.monotonic() - started, 1)
            return Result(mutant.name, seed, count, finding.property, finding.message, elapsed_s)
    elapsed_s = round(time.monotonic() - started, 1)
    return Result(mutant.name, None, len(seeds), "", "", elapsed_s)


def run_in_own_process(mutant: Mutant, seeds: range, *, patched: bool = True) -> Result:
    result = in_fresh_process(run_mutant, mutant, seeds, patched=patched)
    kind = "mutant" if patched else "clean"
    sys.stderr.write(f"{kind} {result.mutant}: {result.property or 'nothing'} ({result.seeds})\n")
    return result
