"""What a person sees while a run goes on: a live table on a terminal, single lines elsewhere.

Reads the watch and the runner; decides nothing. With `--json` nothing but the result is printed,
so progress goes to stderr in one line each.
"""

from __future__ import annotations

import sys
import threading
import time
from statistics import median
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from testbed.campaign.progress import Source
from testbed.campaign.schedule import Schedule
from testbed.campaign.watch import NodeView, Watch
from testbed.manifest import RunEntry
from testbed.terminal import printable, unguarded

__all__ = ["LiveScreen", "QuietScreen", "make_screen"]

REFRESH_PER_S = 5


class Headway:
    """Which run of how many this is, and how long all of them will still take, estimated from the
    mean of those before, with set-up."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._ends_s = 0.0
        self._which = ""
        self._about = ""

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        now_s = time.monotonic()
        if number == 0:
            self._began_s = now_s
        each_s = (now_s - self._began_s) / number if number else run_ms / 1000
        self._ends_s = now_s + each_s * (count - number)
        self._about = "about" if number else "at least"
        self._which = ""
        if count > 1:
            self._which = f"run {number + 1} of {count} ({entry.arm}, trial {entry.trial})"

    @property
    def title(self) -> str:
        """Of the run that goes on; empty if it is the only one."""
        left = _duration(max(0.0, self._ends_s - time.monotonic()))
        return f"{self._which}, {self._about} {left} left" if self._which else ""


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


class QuietScreen:
    """One line per step and per phase, for logs and pipes."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._headway = Headway()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        self._headway.begin(entry, number, count, run_ms)
        if title := self._headway.title:
            self.say(title)

    def hide(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def show(self, watch: Watch, runner: Source, schedule: Schedule) -> None:
        def follow() -> None:
            phase = ""
            while not self._done.wait(1 / REFRESH_PER_S):
                if runner.phase != phase:
                    phase = runner.phase
                    admitted = sum(view.state == "admitted" for view in watch.devices)
                    self.say(
                        f"phase {phase}: view {watch.current_view()}, height {watch.tip()}, "
                        f"{admitted} of {len(watch.devices)} devices admitted"
                    )

        self._done.clear()
        self._thread = threading.Thread(target=follow, name="screen", daemon=True)
        self._thread.start()


class LiveScreen:
    """A table of the whole network that is redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._headway = Headway()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hide()

    def say(self, text: str) -> None:
        self._console.print(printable(text), highlight=False, markup=False, style="dim")

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        self._headway.begin(entry, number, count, run_ms)
        if title := self._headway.title:
            self._console.rule(title, align="left")

    def hide(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def show(self, watch: Watch, runner: Source, schedule: Schedule) -> None:
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(None), TimeElapsedColumn(), expand=True
        )
        task = bar.add_task("", total=schedule.run_ms)

        def draw() -> RenderableType:
            title = self._headway.title
            of = f"{title}, " if title else ""
            now = f"{of}phase [b]{runner.phase}[/]"
            bar.update(task, completed=runner.elapsed_ms, description=now)
            return Group(replica_table(watch), device_table(watch), bar)

        self._live = Live(
            console=self._console,
            get_renderable=draw,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
        )
        self._live.start()


def replica_table(watch: Watch) -> Table:
    """One row per replica: view, height, what it does."""
    table = Table(title="replicas", expand=True, title_justify="left")
    for name in ("replica", "view", "height", "last phase", "blocks"):
        table.add_column(name, justify="right" if name in ("view", "height", "blocks") else "left")
    primary, tip = watch.primary().name, watch.tip()
    for seen in watch.replicas:
        behind = f" [yellow](-{tip - seen.height})[/]" if seen.height < tip else ""
        mark = " [cyan]primary[/]" if seen.name == primary else ""
        table.add_row(
            seen.name + mark,
            str(seen.view),
            f"{seen.height}{behind}",
            seen.phase,
            str(seen.counts["block"]),
        )
    return table


def device_table(watch: Watch) -> Table:
    """One row per device: state and latency so far. Boards stand below their sponsors."""
    table = Table(title="devices", expand=True, title_justify="left")
    for name in ("device", "state", "data", "last ms", "median ms"):
        table.add_column(name, justify="left" if name in ("device", "state") else "right")
    for seen in watch.devices:
        table.add_row(seen.name, _state(seen.state), str(seen.counts["data"]), *_latency(seen))
    for board, state in watch.boards.items():
        table.add_row(f"{board} [dim](board)[/]", _state(state), "", "", "")
    return table


def _state(state: str) -> str:
    good = state in ("admitted", "connected", "sponsored")
    return f"[green]{state}[/]" if good else f"[yellow]{state}[/]"


def _latency(seen: NodeView) -> tuple[str, str]:
    if not seen.latencies_ms:
        return "", ""
    values = list(seen.latencies_ms)
    return f"{values[-1]:.1f}", f"{median(values):.1f}"


def make_screen(as_json: bool) -> QuietScreen | LiveScreen:
    """The live view if a person looks on, else single lines."""
    console = Console(file=unguarded(sys.stdout))
    if as_json or not sys.stdout.isatty():
        return QuietScreen()
    return LiveScreen(console)
