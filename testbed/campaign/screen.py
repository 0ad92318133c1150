"""The display of a campaign that runs: a live view on a terminal, single lines elsewhere.

It shows the snapshots of `live` and decides nothing. With `--json` only the result is printed, so
progress goes to stderr, one line per step. The live view has the whole terminal until the verdict,
and then restores it: only the lines of `note` stay in the scrollback.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live as RichLive
from rich.text import Text

from testbed.campaign.live import Live
from testbed.campaign.live_text import live_lines
from testbed.manifest import RunEntry
from testbed.terminal import printable, unguarded

__all__ = ["LiveScreen", "QuietScreen", "in_place", "make_screen"]

REFRESH_PER_S = 5


class Headway:
    """Which run of how many this is, and how long all of them will still take. The estimate is the
    mean of the runs before, with their set-up."""

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
        """The title of the current run; empty if it is the only one."""
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

    def note(self, text: str) -> None:
        self.say(text)

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        self._headway.begin(entry, number, count, run_ms)
        if title := self._headway.title:
            self.say(title)

    def hide(self) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def show(self, look: Callable[[], Live]) -> None:
        def follow() -> None:
            phase = ""
            while not self._done.wait(1 / REFRESH_PER_S):
                live = look()
                if live.phase != phase:
                    phase = live.phase
                    owners = [each for each in live.devices if each.owner]
                    admitted = sum(each.state == "admitted" for each in owners)
                    self.say(
                        f"phase {phase}: view {live.view}, height {live.height}, "
                        f"{admitted} of {len(owners)} devices admitted"
                    )

        self._done.clear()
        self._thread = threading.Thread(target=follow, name="screen", daemon=True)
        self._thread.start()


class LiveScreen:
    """The whole terminal, until the campaign is over."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._headway = Headway()
        self._step = ""
        self._lines: list[str] = []
        self._look: Callable[[], Live] = lambda: Live(campaign="")
        self._live = in_place(console, self._now)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        for text in self._lines:
            self._console.print(printable(text), highlight=False, markup=False, style="dim")

    def say(self, text: str) -> None:
        self._step = text

    def note(self, text: str) -> None:
        self._step = text
        self._lines.append(text)

    def begin(self, entry: RunEntry, number: int, count: int, run_ms: int) -> None:
        self._headway.begin(entry, number, count, run_ms)

    def hide(self) -> None:
        """The last state of the run stays on the screen."""

    def show(self, look: Callable[[], Live]) -> None:
        self._look = look
        self._step = ""

    def _now(self) -> Live:
        return msgspec.structs.replace(self._look(), which=self._headway.title, step=self._step)


def in_place(console: Console, now: Callable[[], Live]) -> RichLive:
    """Draws the newest result of `now` on the alternate screen, so the scrollback does not
    change."""

    def draw() -> RenderableType:
        lines = live_lines(now(), console.width, console.height)
        return Group(*(lines or [Text("")]))

    return RichLive(
        console=console,
        get_renderable=draw,
        refresh_per_second=REFRESH_PER_S,
        screen=True,
        vertical_overflow="crop",
    )


def make_screen(as_json: bool) -> QuietScreen | LiveScreen:
    """The live view if stdout is a terminal, otherwise single lines."""
    console = Console(file=unguarded(sys.stdout))
    if as_json or not sys.stdout.isatty():
        return QuietScreen()
    return LiveScreen(console)
