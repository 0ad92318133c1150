"""How honest devices are served while somebody floods the network, what the flood costs the
attacker, and how much of it each layer stopped: for one run, or for two results side by side.

The judge of `device.flood` makes the numbers; the summary has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.campaign.event import ScheduledEvent
from testbed.campaign.injection import Judgement
from testbed.errors import ConfigurationError
from testbed.report.compare import JudgedBundle
from testbed.report.style import (
    COLOURS,
    LINES,
    WATERMARK,
    WIDTH_IN,
    figure,
    log_axis,
    rendered,
    styled,
)
from testbed.report.summary import AttackResult

__all__ = ["FloodResult", "draw_beside", "draw_floods", "floods_of"]

KIND = "device.flood"
LAYERS = ("broker", "gateway", "group", "ledger")
PASSED = "no layer"
MARKERS = "osv^D"
NAME_IN = 0.05  # of a character of a row's name


class FloodResult(msgspec.Struct, frozen=True, kw_only=True):
    """One flood: `sent_per_s` messages of the attacker; honest answers per second and honest p99
    meanwhile (None if no reading was due). `stopped`: by layer, as a share of the attacker's
    messages."""

    id: str
    how: str
    sent_per_s: float
    sent_bytes_per_s: float
    honest_per_s: float
    honest_p99_ms: float | None
    stopped: Mapping[str, float]


def floods_of(
    events: Iterable[ScheduledEvent], judged: Mapping[str, Judgement | AttackResult]
) -> list[FloodResult]:
    """The floods of a run, by kind and rate. `judged` by the id of the attack."""
    hows = {each.fault: str(each.params["how"]) for each in events if each.kind == KIND}
    found = []
    for attack, how in hows.items():
        details = judged[attack].details if attack in judged else {}
        per_s, messages = details.get("messages_per_s"), details.get("messages")
        if not per_s or not messages:
            continue
        layers: Counter[str] = Counter()
        for what, count in judged[attack].refused.items():
            layers[what.partition(":")[0]] += count
        sent = max(messages, layers.total())  # one message may be refused twice
        stopped = {layer: layers[layer] / sent for layer in LAYERS}
        found.append(
            FloodResult(
                id=attack,
                how=how,
                sent_per_s=per_s,
                sent_bytes_per_s=details.get("bytes", 0.0) / messages * per_s,
                honest_per_s=details.get("goodput_per_s", 0.0),
                honest_p99_ms=details.get("p99_ms"),
                stopped=stopped | {PASSED: 1.0 - sum(stopped.values())},
            )
        )
    return sorted(found, key=lambda each: (each.how, each.sent_per_s))


def draw_beside(results: Sequence[JudgedBundle], kind: str) -> bytes:
    """The floods of several results, named after their campaigns. `kind` is "svg" or "pdf". Raises
    ConfigurationError."""
    floods = {
        each.manifest.campaign: floods_of(each.schedule.trials[0].events, each.attacks)
        for each in results
    }
    if not all(floods.values()):
        raise ConfigurationError("a result without floods: run a campaign with device.flood")
    loopback = any(each.manifest.stage == "loopback" for each in results)
    with styled():
        return rendered(draw_floods(floods, WATERMARK if loopback else None), kind)


def draw_floods(results: Mapping[str, Sequence[FloodResult]], mark: str | None) -> Figure:
    """`results` by name: one, or two side by side."""
    rows = sum(map(len, results.values()))
    made = figure(4.2 + 0.14 * rows, mark)
    made.subplots_adjust(hspace=0.45, wspace=0.35, top=1 - 0.6 / (4.2 + 0.14 * rows))
    grid = made.add_gridspec(2, 3, height_ratios=(2.2, 0.6 + 0.14 * rows))
    goodput = made.add_subplot(grid[0, 0])
    p99, cost = (made.add_subplot(grid[0, column], sharex=goodput) for column in (1, 2))
    for number, (name, floods) in enumerate(results.items()):
        prefix = f"{name}: " if len(results) > 1 else ""
        for place, (how, same) in enumerate(groupby(floods, key=lambda each: each.how)):
            points = list(same)
            rates = [each.sent_per_s for each in points]
            style: dict[str, Any] = {
                "color": COLOURS[place],
                "marker": MARKERS[place],
                "markersize": 4,
                "linestyle": LINES[number],
            }
            goodput.plot(rates, [each.honest_per_s for each in points], **style)
            p99.plot(rates, np.array([each.honest_p99_ms for each in points], float), **style)
            costs = [each.sent_bytes_per_s / 1000 for each in points]
            cost.plot(rates, costs, label=f"{prefix}{how}", **style)
    for axes, what in ((goodput, "honest answers/s"), (p99, "honest p99 (ms)")):
        axes.set_ylim(bottom=0)
        axes.set_title(what, fontsize=8)
    cost.set_title("attacker's cost (kB/s, log)", fontsize=8)
    cost.set_yscale("log")
    for axes in (goodput, p99, cost):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
        axes.tick_params(labelsize=6)
        axes.set_xlabel("attack messages/s (log)", fontsize=7)
    log_axis(cost.yaxis)
    handles, labels = cost.get_legend_handles_labels()
    made.legend(handles, labels, fontsize=5, ncols=5, handlelength=3, loc="upper center")
    below = made.add_subplot(grid[1, :])
    names = _bars(below, results)
    box = below.get_position()
    box.x0 = max(box.x0, (0.15 + NAME_IN * max(map(len, names))) / WIDTH_IN)
    below.set_position(box)
    return made


def _bars(axes: Axes, results: Mapping[str, Sequence[FloodResult]]) -> list[str]:
    """A row for each flood, with the share of its messages that each layer stopped. Returns the
    names of the rows."""
    rows = [
        (f"{name}: {flood.id}" if len(results) > 1 else flood.id, flood)
        for name, floods in results.items()
        for flood in floods
    ]
    left = [0.0] * len(rows)
    for number, layer in enumerate((*LAYERS, PASSED)):
        shares = [flood.stopped[layer] for _, flood in rows]
        colour = "#DDDDDD" if layer == PASSED else COLOURS[number]
        axes.barh(range(len(rows)), shares, left=left, color=colour, label=layer, height=0.7)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the attack's messages, by the layer that stopped them")
    axes.legend(fontsize=6, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return [name for name, _ in rows]
