"""Many seeds over many cores, through the standard `concurrent.futures.Executor` alone.

A process pool on this machine, or a Dask cluster's executor (`Client(...).get_executor()`): this
module cannot tell them apart.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager

from testbed.errors import ConfigurationError
from testbed.simulate.draw import Options, draw
from testbed.simulate.outcome import Outcome, Summary
from testbed.simulate.world import run

__all__ = ["open_executor", "sweep"]

SEEDS_PER_TASK = 4
TASKS_WAITING_MAX = 64
_GC_OBJECTS = 50_000  # new ones between two looks for garbage; Python's own is 700


def run_seeds(options: Options, seeds: tuple[int, ...]) -> list[Outcome]:
    """What one worker does."""
    return [run(draw(options, seed)) for seed in seeds]


def sweep(
    options: Options,
    seeds: Iterable[int],
    executor: Executor,
    advance: Callable[[int], None] = lambda seeds: None,
    failures_max: int | None = None,
) -> Summary:
    """Runs every seed; stops early once `failures_max` runs failed. `advance` counts seeds done."""
    options.check()
    summary = Summary()
    tasks = _tasks(seeds)
    waiting: set[Future[list[Outcome]]] = set()
    try:
        while True:
            for task in itertools.islice(tasks, TASKS_WAITING_MAX - len(waiting)):
                waiting.add(executor.submit(run_seeds, options, task))
            if not waiting:
                return summary
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                outcomes = future.result()
                for outcome in outcomes:
                    summary.add(outcome)
                advance(len(outcomes))
            if failures_max is not None and len(summary.failures) >= failures_max:
                return summary
    finally:
        for future in waiting:
            future.cancel()


def _tasks(seeds: Iterable[int]) -> Iterator[tuple[int, ...]]:
    numbers = iter(seeds)
    while task := tuple(itertools.islice(numbers, SEEDS_PER_TASK)):
        yield task


def _prepare_worker() -> None:
    """Ctrl-C reaches the whole process group: a worker that is interrupted while it holds the
    pool's queue would leave the parent waiting for ever."""
    # A run keeps most of what it makes until it ends: looking for garbage seldom is enough.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def open_executor(jobs: int, cluster: str | None = None) -> Iterator[Executor]:
    """A pool of `jobs` processes here, or the cluster whose scheduler listens at `cluster`."""
    if cluster is None:
        with ProcessPoolExecutor(jobs, initializer=_prepare_worker) as pool:
            yield pool
        return
    try:
        # An optional extra, found by name so that it need not be there for the type checker.
        client_type = importlib.import_module("distributed").Client
    except ImportError as error:
        raise ConfigurationError(
            "--cluster needs Dask's distributed: install the extra m2m-testbed[cluster]"
        ) from error
    try:
        client = client_type(cluster, timeout="10s")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no Dask scheduler at {cluster}: {error}") from error
    with client, client.get_executor() as executor:
        yield executor
