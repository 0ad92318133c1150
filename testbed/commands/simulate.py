"""`testbed simulate`: attacks the consensus with seeded scenarios, replays and shrinks failures.

The simulator is in `testbed.simulate`; this module parses, shows progress and prints.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from testbed.commands.options import JsonOption, columns, print_json
from testbed.errors import ConfigurationError
from testbed.manifest import git_state
from testbed.simulate.draw import PROFILES, Options, draw
from testbed.simulate.outcome import Outcome, SweepSummary
from testbed.simulate.scenario import Scenario
from testbed.simulate.shrink import shrink
from testbed.simulate.strategies import STRATEGIES
from testbed.simulate.sweep import open_executor, sweep
from testbed.simulate.traitors import TRICKS
from testbed.simulate.transcript import Transcript
from testbed.simulate.world import run

__all__ = ["simulate"]

_ROOT = Path(__file__).resolve().parents[2]
_EXIT_FINDING = 1
_EXIT_INTERRUPTED = 130
_HEARTBEAT_S = 60.0  # between lines if stderr is no terminal
_FAILURES_MAX = 10  # a sweep stops after so many failures


def simulate(  # noqa: PLR0917 - one parameter per option
    replicas: Annotated[int, typer.Option(help="Replicas, at least 4.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds to run.")] = 1000,
    first: Annotated[int, typer.Option("--from", min=0, help="The first seed.")] = 0,
    faults: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "all",
    strategy: Annotated[
        str, typer.Option(help=f"How links are disturbed: {', '.join(STRATEGIES)}.")
    ] = "random",
    byzantine: Annotated[
        list[str] | None,
        typer.Option(help=f"TRICK[+TRICK]:COUNT, repeatable. Tricks: {', '.join(TRICKS)}."),
    ] = None,
    es256: Annotated[
        bool, typer.Option("--es256", help="Sign with ES256 as the product does: slower.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to spread the seeds over.")
    ] = None,
    as_json: JsonOption = False,
    scenario: Annotated[
        Path | None, typer.Option(help="Replay this scenario file instead of drawing seeds.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the shortest failing scenario to this file.")
    ] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Test the simulator: run the mutants, print a table.")
    ] = False,
) -> None:
    """Attack the consensus in a deterministic simulation and check every property at every step."""
    if mutants:
        raise typer.Exit(_run_mutants(as_json))
    if scenario is not None:
        raise typer.Exit(_replay(_read(scenario), as_json=as_json))
    options = Options(
        replicas=replicas,
        faults=faults,
        strategy=strategy,
        byzantine=_tricks(byzantine or []),
        es256=es256,
    )
    options.check()
    if save is not None and (save.is_dir() or not save.absolute().parent.is_dir()):
        raise ConfigurationError(f"--save {save}: no file can be written there; choose another")
    jobs = jobs or os.cpu_count() or 1
    started = time.monotonic()
    with open_executor(jobs, cluster) as executor, _progress(seeds, quiet=as_json) as advance:
        summary = sweep(
            options, range(first, first + seeds), executor, advance, failures_max=_FAILURES_MAX
        )
    elapsed_s = time.monotonic() - started
    if as_json:
        print_json(summary.as_json(elapsed_s))
    else:
        _print_summary(summary, elapsed_s)
    if summary.resume_at is not None:
        left = first + seeds - summary.resume_at
        sys.stderr.write(f"interrupted; go on with --from {summary.resume_at} --seeds {left}\n")
    if summary.failures:
        failure = min(summary.failures, key=lambda outcome: outcome.seed)
        _explain(options, failure, save, Console(stderr=as_json))
        raise typer.Exit(_EXIT_FINDING)
    if summary.resume_at is not None:
        raise typer.Exit(_EXIT_INTERRUPTED)


def _tricks(arguments: list[str]) -> tuple[tuple[str, int], ...]:
    parsed = []
    for argument in arguments:
        trick, colon, count = argument.partition(":")
        if colon and not count.isdecimal():
            raise ConfigurationError(f"--byzantine {argument}: wanted TRICK:COUNT, as silent:1")
        parsed.append((trick, int(count) if colon else 1))
    return tuple(parsed)


@contextmanager
def _progress(total: int, *, quiet: bool) -> Iterator[Callable[[SweepSummary], None]]:
    """A bar on a terminal, otherwise a line now and then. Failures are printed at once."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Heartbeat(total)
        return
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("seeds", total=total)
        yield lambda summary: progress.update(task, completed=summary.seeds)


class _Heartbeat:
    """Prints a line now and then. It is called with the sums so far."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started_s = self._told_s = time.monotonic()
        self._failures = 0

    def __call__(self, summary: SweepSummary) -> None:
        for failure in summary.failures[self._failures :]:
            sys.stderr.write(f"seed {failure.seed}: {failure.finding}\n")
        self._failures = len(summary.failures)
        now_s = time.monotonic()
        if now_s - self._told_s < _HEARTBEAT_S:
            return
        self._told_s = now_s
        rate = summary.seeds / (now_s - self._started_s)
        left_min = (self._total - summary.seeds) / rate / 60
        sys.stderr.write(
            f"{summary.seeds} of {self._total} seeds, {rate:.1f} per s, "
            f"{self._failures} broken, about {left_min:.0f} min left\n"
        )
        sys.stderr.flush()


def _print_summary(summary: SweepSummary, elapsed_s: float) -> None:
    figures = summary.as_json(elapsed_s)
    faults = ", ".join(f"{kind} {count}" for kind, count in sorted(summary.faults.items()))
    accused = ", ".join(f"{reason} {n}" for reason, n in sorted(summary.accusations.items()))
    rows = [
        ("seeds run", f"{summary.seeds} ({figures['seeds_per_s']} per s)"),
        ("simulated", f"{figures['simulated_hours']} hours, {summary.steps} steps"),
        ("requests executed", f"{summary.requests} in {summary.blocks} blocks"),
        ("views changed", summary.view_changes),
        ("faults injected", faults or "none"),
        ("accusations", f"{accused or 'none'} (evidence judged again)"),
        ("protocol states", f"{len(summary.states)}, last after {summary.new_state_at} seeds"),
        ("properties broken", len(summary.failures)),
    ]
    typer.echo(columns(rows))
    console = Console()
    for failure in sorted(summary.failures, key=lambda outcome: outcome.seed):
        console.print(f"seed {failure.seed}: {failure.finding}", style="red", markup=False)


def _explain(options: Options, failure: Outcome, save: Path | None, console: Console) -> None:
    """Prints seed, commit and replay command, then the shortest scenario with the same failure and
    its transcript."""
    more = "".join(f" --byzantine {trick}:{count}" for trick, count in options.byzantine)
    more += " --es256" if options.es256 else ""
    more += f" --strategy {options.strategy}" if options.strategy != "random" else ""
    console.print(
        f"seed {failure.seed} at commit {_commit()}\n"
        f"replay: testbed simulate --replicas {options.replicas} --faults {options.faults}"
        f"{more} --from {failure.seed} --seeds 1 --jobs 1\n"
        "shrinking ...",
        markup=False,
        soft_wrap=True,
    )
    assert failure.finding is not None
    broken = failure.finding.property

    def fails(candidate: Scenario) -> bool:
        finding = run(candidate).finding
        return finding is not None and finding.property == broken

    shortest = shrink(draw(options, failure.seed), fails)
    if save is not None:
        save.write_bytes(shortest.encode())
        console.print(f"replay the shortest: testbed simulate --scenario {save}", markup=False)
    _tell(shortest, console)


def _tell(scenario: Scenario, console: Console) -> Outcome:
    transcript = Transcript(scenario)
    outcome = run(scenario, transcript)
    console.print(transcript.text(), markup=False, highlight=False, soft_wrap=True)
    console.print(str(outcome.finding or "every property held"), markup=False)
    return outcome


def _replay(scenario: Scenario, *, as_json: bool) -> int:
    if not as_json:
        return _EXIT_FINDING if _tell(scenario, Console()).finding else 0
    started = time.monotonic()
    summary = SweepSummary()
    summary.add(run(scenario))
    print_json(summary.as_json(time.monotonic() - started))
    return _EXIT_FINDING if summary.failures else 0


def _read(path: Path) -> Scenario:
    try:
        return Scenario.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: not a scenario file: {error}") from error


def _commit() -> str:
    state = git_state()
    if state["commit"] is None:
        return "unknown (not a git checkout)"
    return f"{state['commit']}{'-dirty' if state['dirty'] else ''}"


def _run_mutants(as_json: bool) -> int:
    """The mutants are beside the tests and are not shipped, so this works only in a checkout."""
    if not (_ROOT / "tests" / "testbed" / "mutants").is_dir():
        raise ConfigurationError("--mutants needs a checkout: the mutants are beside the tests")
    command = [sys.executable, "-m", "tests.testbed.mutants", *(["--json"] if as_json else [])]
    return subprocess.run(command, cwd=_ROOT, check=False).returncode
