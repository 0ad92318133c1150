"""Many seeds over many cores, through the standard `concurrent.futures.Executor` alone.

The executor is a process pool on this machine, or that of a Dask cluster
(`Client(...).get_executor()`); this module treats them alike.
"""

from __future__ import annotations

import gc
import hashlib
import itertools
import platform
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from testbed.errors import ConfigurationError, LabFault
from testbed.simulate.draw import Options, draw
from testbed.simulate.outcome import Outcome, SweepSummary
from testbed.simulate.world import run

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["open_executor", "sweep"]

SEEDS_PER_TASK = 4
TASKS_WAITING_MAX = 64
_ADDRESS = re.compile(r"([a-z]+://)?[^/\s]+:[0-9]+")  # wait for a scheduler
_GC_OBJECTS = 50_000  # new objects between two garbage collections; Python's default is 700


def run_seeds(options: Options, seeds: tuple[int, ...]) -> list[Outcome]:
    """Runs some seeds. Each worker calls this."""
    return [run(draw(options, seed)) for seed in seeds]


def sweep(
    options: Options,
    seeds: Iterable[int],
    executor: Executor,
    advance: Callable[[SweepSummary], None] = lambda summary: None,
    failures_max: int | None = None,
) -> SweepSummary:
    """Runs every seed. Stops early when `failures_max` runs have failed, or at Ctrl-C; then all
    completed runs are kept (`SweepSummary.resume_at`). `advance` is called after each batch of
    seeds.

    Raises LabFault if a worker dies, naming the seeds that were being run.
    """
    options.check()
    summary = SweepSummary()
    tasks = _tasks(seeds)
    waiting: dict[Future[list[Outcome]], tuple[int, ...]] = {}
    try:
        while True:
            for task in itertools.islice(tasks, TASKS_WAITING_MAX - len(waiting)):
                with _naming(task, *waiting.values()):
                    waiting[executor.submit(run_seeds, options, task)] = task
            if not waiting:
                return summary
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                with _naming(*waiting.values()):
                    outcomes = future.result()
                for outcome in outcomes:
                    summary.add(outcome)
                del waiting[future]
                advance(summary)
            if failures_max is not None and len(summary.failures) >= failures_max:
                return summary
    except KeyboardInterrupt:
        summary.resume_at = min((task[0] for task in waiting.values()), default=None)
        return summary
    finally:
        for future in waiting:
            future.cancel()


@contextmanager
def _naming(*tasks: tuple[int, ...]) -> Iterator[None]:
    """Turns errors of the executor into a LabFault that names the seeds. (A run itself catches what
    the product raises.)"""
    try:
        yield
    except Exception as error:
        first, last = min(task[0] for task in tasks), max(task[-1] for task in tasks)
        raise LabFault(
            f"a worker died while it ran seeds {first} to {last} ({type(error).__name__}: {error});"
            f" go on with --from {first}, or find the seed with --jobs 1"
        ) from error


def _tasks(seeds: Iterable[int]) -> Iterator[tuple[int, ...]]:
    numbers = iter(seeds)
    while task := tuple(itertools.islice(numbers, SEEDS_PER_TASK)):
        yield task


def _prepare_worker() -> None:
    """Makes a worker ignore Ctrl-C, which reaches the whole process group. If a worker were
    interrupted while it holds the pool's queue, the parent would wait for ever."""
    # A run keeps most of its objects until it ends, so rare garbage collection is enough.
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def open_executor(
    jobs: int, cluster: str | None = None, connect_s: float = 10.0
) -> Iterator[Executor]:
    """A pool of `jobs` processes here, or the cluster whose scheduler listens at `cluster`.

    A scheduler that does not answer within `connect_s` raises ConfigurationError.
    """
    if cluster is None:
        with ProcessPoolExecutor(jobs, initializer=_prepare_worker) as pool:
            yield pool
        return
    if not _ADDRESS.fullmatch(cluster):
        raise ConfigurationError(f"--cluster {cluster}: not an address; use tcp://HOST:8786")
    try:
        # An optional extra, imported only if it is wanted.
        from distributed import Client  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "--cluster needs Dask's distributed: install the extra m2m-testbed[cluster]"
        ) from error
    try:
        client = Client(cluster, timeout=f"{connect_s}s", set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no Dask scheduler at {cluster}: {error}") from error
    with client:
        _check_workers(client, cluster)
        with client.get_executor(retries=0) as executor:  # type: ignore[no-untyped-call]
            yield executor


def _check_workers(client: Client, cluster: str) -> None:
    """Checks the workers' versions. Traces are comparable only within one version of the code and
    of Python."""
    ours = _version()
    try:
        found = client.run(_version)
    except Exception as error:  # anything from a worker, most likely that it has no testbed
        raise ConfigurationError(
            f"the workers of {cluster} cannot run this testbed: {error}; install it there"
        ) from error
    if not found:
        raise ConfigurationError(f"the Dask scheduler at {cluster} has no workers")
    for worker, theirs in sorted(found.items()):
        if theirs != ours:
            raise ConfigurationError(
                f"worker {worker} of the cluster runs {theirs}, this machine {ours}: "
                "install the same version there"
            )


def _version() -> str:
    """A version of all that decides how a seed, or a point of `testbed.model`, runs: Python,
    msgspec and every source file."""
    source = hashlib.sha256()
    root = Path(__file__).resolve().parents[2]
    for folder in ("chain", "nodes", "testbed/simulate", "testbed/model"):
        for path in sorted((root / folder).rglob("*.py")):
            source.update(path.read_bytes())
    return (
        f"Python {platform.python_version()}, msgspec {msgspec.__version__}, "
        f"source {source.hexdigest()[:12]}"
    )
