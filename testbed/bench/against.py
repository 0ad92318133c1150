"""`testbed bench against`: compares this checkout with another checkout of the project, on one
machine in one run.

The speed of a machine changes from minute to minute, so only ratios of neighbouring turns mean
something. Both checkouts run their own `testbed bench consensus` in turns: theirs, ours, ours,
theirs. A pair is two neighbouring turns. The bench uses only options and fields that have existed
from the beginning.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Literal

import msgspec

from testbed.bench.child import running
from testbed.bench.stage import Say
from testbed.bench.table import GOALS
from testbed.errors import ConfigurationError, LabFault
from testbed.report.pairing import Estimate, known, paired_ratio

__all__ = [
    "ALONE_GOALS",
    "RSS_GOAL_MB",
    "BenchPlan",
    "BenchResult",
    "FigureComparison",
    "measure",
    "program_of",
]

# The goal for one request alone, by store, as a share of the time that it took at e739c78.
ALONE_GOALS = {"sqlite": 0.68, "memory": 0.80}
RSS_GOAL_MB = 60

Side = Literal["theirs", "ours"]


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pair is one turn of each checkout. A turn is one network with one request at a time, and
    then another network under load."""

    directory: str  # the other checkout
    store: str = "sqlite"
    replicas: int = 4
    in_flight: int = 1000
    payload_bytes: int = 512
    pairs: int = 9
    alone_requests: int = 500
    turn_requests: int = 5000


class FigureComparison(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of all turns. `ratio` is ours over theirs."""

    figure: str
    theirs: list[float]
    ours: list[float]
    ratio: Estimate
    goal: str


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "testbed.bench.against/1"
    plan: BenchPlan
    compared: list[FigureComparison]


class _Latency(msgspec.Struct):
    p50: float


class _Printed(msgspec.Struct):
    """The fields that are read from the output of `bench consensus --json`."""

    latency_ms: _Latency
    alone_ms: _Latency
    cpu_us_per_request: float
    ratio: float
    cpu_ratio: float
    rss_mb_end: list[float]


class _Turn(msgspec.Struct):
    alone: _Printed
    loaded: _Printed


def program_of(directory: Path) -> Path:
    """The `testbed` of a checkout. Raises ConfigurationError."""
    program = directory.absolute() / ".venv" / "bin" / "testbed"
    if not program.is_file():
        raise ConfigurationError(
            f"{directory}: no .venv/bin/testbed in it; name a checkout of this project, and run "
            "`make setup` there first"
        )
    return program


def measure(plan: BenchPlan, say: Say) -> BenchResult:
    """Raises ConfigurationError, LabFault."""
    programs: dict[Side, list[str]] = {
        "theirs": [str(program_of(Path(plan.directory)))],
        "ours": [str(Path(sys.executable).with_name("testbed"))],
    }
    turns: dict[Side, list[_Turn]] = {"theirs": [], "ours": []}
    order: list[Side] = ["theirs", "ours"]
    for pair in range(plan.pairs):
        for side in order:
            say(f"pair {pair + 1} of {plan.pairs}: {side}")
            turns[side].append(_turn(programs[side], plan))
        order.reverse()
        one, other = (turns[side][-1] for side in ("theirs", "ours"))
        say(
            f"  alone {one.alone.latency_ms.p50:.2f} and {other.alone.latency_ms.p50:.2f} ms, "
            f"loaded {one.loaded.ratio:.2f} and {other.loaded.ratio:.2f} of the limit"
        )
    return BenchResult(plan=plan, compared=_compared(plan, turns["theirs"], turns["ours"]))


def _turn(program: list[str], plan: BenchPlan) -> _Turn:
    common = [
        *program,
        *("bench", "consensus", "--json"),
        *("--replicas", str(plan.replicas)),
        *("--payload", str(plan.payload_bytes)),
        *("--store", plan.store),
    ]
    return _Turn(
        _run([*common, "--in-flight", "1", "--requests", str(plan.alone_requests)]),
        _run([*common, "--in-flight", str(plan.in_flight), "--requests", str(plan.turn_requests)]),
    )


def _run(command: Sequence[str]) -> _Printed:
    """Runs in an empty directory, because Python would import a checkout in the current
    directory."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
    ):
        environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
        with running(command, cwd=directory, env=environment, stdout=out, stderr=errors) as process:
            code = process.wait()
        if code:
            lines = (_text(errors) + _text(out)).splitlines() or ["no message"]
            raise LabFault(f"{' '.join(command)}: exit code {code}: {lines[-1]}")
        try:
            return msgspec.json.decode(_text(out), type=_Printed)
        except msgspec.DecodeError as error:
            raise LabFault(
                f"{' '.join(command)}: not what bench consensus prints: {error}"
            ) from error


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _compared(plan: BenchPlan, theirs: list[_Turn], ours: list[_Turn]) -> list[FigureComparison]:
    load = f"{plan.in_flight:,} in flight"
    figures: list[tuple[str, Callable[[_Turn], float], str]] = [
        (
            "one request alone: p50, ms",
            lambda turn: turn.alone.latency_ms.p50,
            f"ratio {ALONE_GOALS[plan.store]:.2f}",
        ),
        (
            "one request alone: CPU us per replica",
            lambda turn: turn.alone.cpu_us_per_request,
            "",
        ),
        (
            f"{load}: one request alone before, p50, ms",
            lambda turn: turn.loaded.alone_ms.p50,
            "",
        ),
        (
            f"{load}: ratio to the limit",
            lambda turn: turn.loaded.ratio,
            f"ours {GOALS[plan.store]:.2f}",
        ),
        (f"{load}: the same in CPU time", lambda turn: turn.loaded.cpu_ratio, ""),
        (
            f"{load}: CPU us per request and replica",
            lambda turn: turn.loaded.cpu_us_per_request,
            "",
        ),
        (
            f"{load}: RSS MB, largest",
            lambda turn: max(turn.loaded.rss_mb_end),
            f"ours {RSS_GOAL_MB}",
        ),
    ]
    of_goals = (plan.replicas, plan.in_flight) == (4, 1000)
    return [
        FigureComparison(
            figure=figure,
            theirs=[value(turn) for turn in theirs],
            ours=[value(turn) for turn in ours],
            ratio=paired_ratio(*([known(value(turn)) for turn in side] for side in (theirs, ours))),
            goal=goal if of_goals else "",
        )
        for figure, value, goal in figures
    ]
