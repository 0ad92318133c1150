"""Does one piece of work on many hosts at once, and shows the progress of each.

Every host is tried. The caller handles failures. Elsewhere: the work itself
(`testbed.provision`, `testbed.doctor`, `testbed.care.restore`, `testbed.care.lease`), the table and
the command that tries again (`testbed.commands.fleet`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from testbed.errors import ConfigurationError, LabFault, TestbedError

if TYPE_CHECKING:  # slow to import, and most commands show no table
    from rich.live import Live
    from rich.table import Table

__all__ = ["FleetTable", "HostOutcome", "Step", "at_once", "exit_code", "for_each", "problems"]

HOSTS_AT_ONCE_MAX = 32
_REFRESH_PER_S = 8

Step = Callable[[str], None]
"""Called by the work with a few words when a step of it begins."""

T = TypeVar("T")
S = TypeVar("S")
H = TypeVar("H")


@dataclass(frozen=True, slots=True)
class HostOutcome(Generic[T]):
    """The result for one host. `error` is None if it went well; otherwise `value` is None.

    `steps_s`: the steps that the work reported, in order, and how long each took.
    """

    host: str
    value: T | None
    error: TestbedError | None
    took_s: float
    steps_s: tuple[tuple[str, float], ...]

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def problem(self) -> str:
        """What failed, in words; empty if nothing did."""
        return "" if self.error is None else str(self.error)


@dataclass
class _Row:
    began_s: float
    steps: list[tuple[str, float]] = field(default_factory=list)
    ended_s: float | None = None
    result: str = ""


class FleetTable:
    """A live table on a terminal, one line per finished host elsewhere; nothing if `quiet`."""

    def __init__(self, title: str, *, quiet: bool = False) -> None:
        from rich.console import Console  # noqa: PLC0415 - see above
        from rich.live import Live  # noqa: PLC0415

        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._title = title
        self._rows: dict[str, _Row] = {}
        self._lock = threading.Lock()
        self._live: Live | None = None
        if self._console.is_terminal and not quiet:
            self._live = Live(
                get_renderable=self._table,
                console=self._console,
                refresh_per_second=_REFRESH_PER_S,
                transient=True,
            )

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, host: str) -> None:
        with self._lock:
            self._rows[host] = _Row(time.monotonic())

    def step(self, host: str, what: str) -> None:
        with self._lock:
            self._rows[host].steps.append((what, time.monotonic()))

    def end(self, host: str, result: str) -> tuple[float, tuple[tuple[str, float], ...]]:
        """Note the end of a host. Returns the seconds in all and of each step."""
        with self._lock:
            row = self._rows[host]
            row.ended_s, row.result = time.monotonic(), result
            times = [*(at for _, at in row.steps), row.ended_s]
            steps = tuple(
                (what, round(end - begin, 3))
                for (what, _), (begin, end) in zip(row.steps, pairwise(times), strict=True)
            )
            took_s = row.ended_s - row.began_s
        if self._live is None:
            self._console.print(f"{host}: {result} ({took_s:.1f} s)", markup=False, soft_wrap=True)
        return took_s, steps

    def _table(self) -> Table:
        from rich.table import Table  # noqa: PLC0415

        table = Table("host", "", "s", title=self._title, title_justify="left")
        with self._lock:
            for host, row in self._rows.items():
                now_s = row.ended_s or time.monotonic()
                step = row.steps[-1][0] if row.steps else "connecting"
                table.add_row(host, row.result or f"{step} ...", f"{now_s - row.began_s:.1f}")
        return table


def for_each(
    hosts: Mapping[str, H],
    work: Callable[[H, Step], T],
    progress: FleetTable | None = None,
    describe: Callable[[T], str] = lambda _: "ok",
) -> list[HostOutcome[T]]:
    """Runs `work(host, step)` on every host in parallel. Errors of the world become outcomes.

    Returns in the order of `hosts`. An error that is our bug is raised. Without `progress` nothing
    is shown.
    """
    shown = progress or FleetTable("", quiet=True)

    def one(name: str) -> HostOutcome[T]:
        shown.begin(name)
        value: T | None = None
        problem: TestbedError | None = None
        try:
            value = work(hosts[name], lambda what: shown.step(name, what))
        except TestbedError as error:
            problem = error
        said = "FAILED" if value is None else describe(value)
        took_s, steps = shown.end(name, said)
        return HostOutcome(name, value, problem, took_s, steps)

    if not hosts:
        return []
    with shown:
        return at_once(one, hosts)


def at_once(work: Callable[[S], T], items: Iterable[S]) -> list[T]:
    """Runs `work` on every item in parallel. Returns its results in the order of the items.

    All are tried. A single failure is raised as it is, several as one error that names each. Ctrl-C
    does not wait for work that has begun; other work does not begin any more.
    """
    todo = list(items)
    if not todo:
        return []
    pool = ThreadPoolExecutor(HOSTS_AT_ONCE_MAX, "fleet")
    try:
        futures = [pool.submit(work, item) for item in todo]
        wait(futures)
    finally:
        # Interrupted: do not wait for hosts. Closing their connections ends the work.
        pool.shutdown(wait=False, cancel_futures=True)
    faults = [error for future in futures if (error := future.exception()) is not None]
    ours = [fault for fault in faults if not isinstance(fault, TestbedError)]
    if ours or len(faults) == 1:
        raise (ours or faults)[0]
    if faults:
        kind = LabFault if any(isinstance(f, LabFault) for f in faults) else ConfigurationError
        raise kind("\n".join(map(str, faults)))
    return [future.result() for future in futures]


def problems(outcomes: Sequence[HostOutcome[T]]) -> list[str]:
    """What failed. Hosts with the same failure share one entry."""
    alike: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome.ok:
            said = outcome.problem.replace(f"{outcome.host}: ", "").replace(outcome.host, "HOST")
            alike.setdefault(said, []).append(outcome.host)
    alone = {outcome.host: outcome.problem for outcome in outcomes}
    return [
        f"{', '.join(hosts)}: {said}" if len(hosts) > 1 else _named(hosts[0], alone[hosts[0]])
        for said, hosts in alike.items()
    ]


def _named(host: str, problem: str) -> str:
    return problem if problem.startswith(f"{host}: ") else f"{host}: {problem}"


def exit_code(outcomes: Sequence[HostOutcome[T]]) -> int:
    """0: all went well. 3: none did. 4: some did."""
    failed = sum(not outcome.ok for outcome in outcomes)
    if failed == 0:
        return 0
    return 3 if failed == len(outcomes) else 4
