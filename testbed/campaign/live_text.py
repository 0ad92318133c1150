"""A snapshot of a run as lines of text that fit a terminal of any size.

If there is no room, the table of devices shrinks to one line, then the table of replicas. Widths
are fixed, so that nothing jumps. Control characters in texts of a lab are spelt out
(`testbed.terminal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.text import Text

from testbed.campaign.live import DeviceNow, Live, ReplicaNow
from testbed.terminal import printable

__all__ = ["live_lines"]

BAR_MAX: Final = 40
HEADER: Final = 5  # lines above the tables, at the fewest
GOOD: Final = ("admitted", "connected", "sponsored")


def live_lines(live: Live, width: int, height: int) -> list[Text]:
    """At most `height` lines of at most `width` characters."""
    top = _top(live)
    replicas, devices = _replicas(live), _devices(live.devices)
    bottom = [Text(live.step, "dim")] if live.step else []
    room = height - len(top) - len(bottom)
    if len(replicas) + len(devices) > room:
        devices = [_devices_in_short(live.devices)]
    if len(replicas) + len(devices) > room:
        replicas = [_replicas_in_short(live)]
    lines = [*top, *replicas, *devices, *bottom]
    if len(lines) > height:  # the head has the most important lines
        lines = lines[:height]
    for line in lines:
        line.plain = " ".join(printable(line.plain).split("\n"))
        line.truncate(width, overflow="ellipsis")
    return lines


def _top(live: Live) -> list[Text]:
    if not live.total_s:  # during set-up `step` says all
        return []
    title = Text(live.campaign, "bold")
    if live.which:
        title.append(f"  {live.which}", "default")
    lines = [title, _clock(live)]
    struck = Text("; ".join(live.struck) or "no fault in force", "bold red" if live.struck else "")
    if live.next:
        struck.append(f"; next: {live.next}", "default")
    lines.append(struck)
    lines += [Text(f"attack {each}", "magenta") for each in live.attacks]
    lines.append(
        Text(
            f"view {live.view:<2} height {live.height:<6}{live.blocks_per_s:6.1f} blocks/s"
            f"{live.answers_per_s:7.1f} answers/s  p50 {_ms(live.p50_ms)} p99 {_ms(live.p99_ms)} ms"
        )
    )
    if live.late or live.denied:
        lines.append(Text(f"late {live.late:<6} denied {live.denied}", "yellow"))
    return lines


def _clock(live: Live) -> Text:
    share = live.elapsed_s / live.total_s if live.total_s else 0.0
    full = round(BAR_MAX * min(1.0, share))
    clock = Text(f"phase {live.phase:<12.12} ")
    clock.append("━" * full, "cyan")
    clock.append("─" * (BAR_MAX - full), "dim")
    clock.append(f" {live.elapsed_s:3.0f} / {live.total_s:.0f} s", "default")
    return clock


def _replicas(live: Live) -> list[Text]:
    if not live.replicas:
        return []
    lines = [Text(f"{'replica':<14} {'view':>5} {'height':>8} {'behind':>7}  last", "dim")]
    return lines + [_replica(each, live.height) for each in live.replicas]


def _replica(each: ReplicaNow, tip: int) -> Text:
    behind = tip - each.height
    line = Text(f"{each.name:<14.14} {each.view:>5} {each.height:>8} ")
    line.append(f"{f'-{behind}' if behind else '':>7}", "yellow")
    line.append(f"  {each.phase:<12.12}", "default")
    line.append(" primary" if each.primary else "", "cyan")
    return line


def _replicas_in_short(live: Live) -> Text:
    words = [f"{each.name}{'*' if each.primary else ''} {each.height}" for each in live.replicas]
    return Text(f"replicas (* primary, heights): {', '.join(words)}")


def _devices(devices: Sequence[DeviceNow]) -> list[Text]:
    if not devices:
        return []
    lines = [Text(f"{'device':<22} {'state':<12} {'data':>6} {'last ms':>9}", "dim")]
    for each in devices:
        line = Text(f"{each.name:<22.22} ")
        line.append(f"{each.state:<12.12}", "green" if each.state in GOOD else "yellow")
        last = "" if each.last_ms is None else f"{each.last_ms:.1f}"
        # Readings of a board count for the device that reads it.
        data = str(each.data) if each.owner else ""
        line.append(f" {data:>6} {last:>9}", "default")
        lines.append(line)
    return lines


def _devices_in_short(devices: Sequence[DeviceNow]) -> Text:
    states: dict[str, int] = {}
    for each in devices:
        states[each.state] = states.get(each.state, 0) + 1
    words = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    return Text(f"devices: {words}; {sum(each.data for each in devices)} data" if devices else "")


def _ms(value: float | None) -> str:
    return f"{value:6.1f}" if value is not None else f"{'–':>6}"
