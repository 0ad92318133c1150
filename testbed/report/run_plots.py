"""The figures of a run: latency distributions, the timeline, latencies by phase."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from testbed.campaign.schedule import Schedule
from testbed.checks.attacks import attack_ids, judge
from testbed.checks.evidence import Evidence
from testbed.checks.faults import injections
from testbed.checks.logs import BlockDone
from testbed.grouped import grouped
from testbed.report.floods import draw_floods, floods_of
from testbed.report.measure import Operation, consensus_ms
from testbed.report.roc import roc
from testbed.report.saturation import saturation_of
from testbed.report.saturation_plot import draw_saturation
from testbed.report.style import (
    BLUE,
    COLOURS,
    GREY,
    LEFT_IN,
    LINES,
    ORANGE,
    TOP_IN,
    WATERMARK,
    WIDTH_IN,
    Plot,
    figure,
    log_axis,
    save,
    styled,
    write_beside,
)
from testbed.report.where import KINDS, Where
from testbed.report.where_plots import block_figure, way_figure
from testbed.terminal import printable

__all__ = ["draw_run"]

CHARACTER_IN = 0.065  # of a name of a phase
BAND_NAMES_MAX = 6
SLANTED_IN = 0.75  # room that slanted names need above the axes


def draw_run(
    evidence: Evidence, found: Sequence[Operation], where: Where, *, pdf: bool = False
) -> tuple[Plot, ...]:
    """Write every figure to the run's directory and return it. `found` are the run's operations.
    `pdf`: also as PDF; embedding fonts takes most of the time then."""
    mark = WATERMARK if evidence.manifest.stage == "loopback" else None
    judged = {name: judge(evidence, name, kind) for name, kind in attack_ids(evidence)}
    floods = floods_of(evidence.trial.events, {k: v for k, v in judged.items() if v is not None})
    with styled():
        made = [
            ("timeline", "Height of each replica", _timeline(evidence, mark)),
            ("latency", "Latency by operation", _latency(evidence, found, mark)),
            *_where(where, mark),
            ("phases", "Data latency by phase", _by_phase(evidence, found, mark)),
        ]
        if floods:
            drawn = draw_floods({"": floods}, mark)
            made.append(("floods", "Honest devices against attack rate", drawn))
        if (found_lies := roc(evidence, mark)) is not None:
            made.append(("roc", "Lies of sensors found, against false alarms", found_lies))
        if (saturation := saturation_of(evidence, found)) is not None:
            drawn = draw_saturation(saturation, mark)
            made.append(("saturation", "Latency against offered load", drawn))
        return tuple(
            (name, title, save(evidence.run, name, plot, pdf=pdf)) for name, title, plot in made
        )


def _where(where: Where, mark: str | None) -> list[tuple[str, str, Figure]]:
    """Draws only kinds of operation that the traces have."""
    kinds = [kind for kind in KINDS if any(row.kind == kind for row in where.rows)]
    made = [
        (
            f"way-{kind}",
            f"Where the time goes: {kind}",
            way_figure(where, kind, mark),
        )
        for kind in kinds
    ]
    if where.blocks:
        title = "Where the time of a block goes, at each replica"
        made.append(("way-blocks", title, block_figure(where, mark)))
    return made


def _timeline(evidence: Evidence, mark: str | None) -> Figure:
    """Heights over time. Replicas without faults are one band. Lines separate phases, shading marks
    faults while they last, ticks mark attacks."""
    slanted = _crowded(evidence.schedule)
    top_in = SLANTED_IN if slanted else TOP_IN
    made = figure(2.5 + top_in, mark, top_in=top_in)
    axes: Axes = made.add_subplot()
    replicas = grouped(evidence.events(BlockDone), lambda event: event.node)
    struck = {name for line in evidence.faults for names in line.targets.values() for name in names}
    quiet = [name for name in sorted(replicas) if name not in struck]
    if len(quiet) > 1:
        _band(evidence, axes, {name: replicas.pop(name) for name in quiet})
    for number, (name, events) in enumerate(sorted(replicas.items()), start=1):
        axes.step(
            [evidence.at_ms(event.t) / 1000 for event in events],
            [event.height for event in events],
            where="post",
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            label=name,
        )
    _shade(evidence, axes, slanted=slanted)
    axes.set_xlabel("time since start (s)")
    axes.set_ylabel("executed height (blocks)")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=7)
    return made


def _band(evidence: Evidence, axes: Axes, quiet: dict[str, list[BlockDone]]) -> None:
    """Replicas without faults as one band, from the lowest to the highest. Single lines would hide
    each other."""
    at_s = np.unique(
        [evidence.at_ms(event.t) / 1000 for events in quiet.values() for event in events]
    )
    heights = []
    for events in quiet.values():
        own_s = [evidence.at_ms(event.t) / 1000 for event in events]
        done = np.maximum.accumulate([0, *(event.height for event in events)])
        heights.append(done[np.searchsorted(own_s, at_s, side="right")])
    axes.step(at_s, np.max(heights, axis=0), where="post", color=BLUE)
    axes.fill_between(
        at_s,
        np.min(heights, axis=0),
        np.max(heights, axis=0),
        step="post",
        color=BLUE,
        alpha=0.35,
        linewidth=0,
        label=f"{', '.join(quiet) if len(quiet) <= BAND_NAMES_MAX else f'{len(quiet)} others'}",
    )


def _crowded(schedule: Schedule) -> bool:
    """Whether a phase's name would overlap the next one if both were written side by side."""
    run_in = WIDTH_IN - LEFT_IN
    return any(
        len(phase.name) * CHARACTER_IN > (phase.end_ms - phase.start_ms) / schedule.run_ms * run_in
        for phase in schedule.phases[:-1]
    )


def _shade(evidence: Evidence, axes: Axes, *, slanted: bool) -> None:
    for phase in evidence.schedule.phases:
        axes.axvline(phase.start_ms / 1000, color=GREY, linewidth=0.8)
        write_beside(
            axes,
            phase.name,
            (phase.start_ms / 1000, 1.0),
            (2, 2),
            xycoords=("data", "axes fraction"),
            va="baseline",
            rotation=40 if slanted else 0,
        )
    for each in injections(evidence):
        if each.applied_ms is not None:
            end_ms = each.healed_ms if each.healed_ms is not None else evidence.schedule.run_ms
            axes.axvspan(each.applied_ms / 1000, end_ms / 1000, color=ORANGE, alpha=0.15, lw=0)
            write_beside(
                axes,
                printable(f"{each.id}: {each.target}").replace("$", r"\$"),
                (each.applied_ms / 1000, 0.97),
                (2, 0),
                xycoords=("data", "axes fraction"),
                fontsize=6,
                va="top",
                rotation=90,
            )
    events = evidence.trial.events
    attacks_s = [event.at_ms / 1000 for event in events if event.category == "attack"]
    if attacks_s:
        axes.plot(
            attacks_s,
            [0] * len(attacks_s),
            marker="v",
            color=ORANGE,
            markersize=4,
            linestyle="none",
            clip_on=False,
            transform=axes.get_xaxis_transform(),
            label="attack",
        )


def _latency(evidence: Evidence, found: Sequence[Operation], mark: str | None) -> Figure:
    """Empirical distributions. Operations without an answer keep their curve below 1."""
    made = figure(2.6, mark)
    axes: Axes = made.add_subplot()
    series: dict[str, list[float | None]] = {
        "admission": [each.latency_ms for each in found if each.kind == "admission"],
        "consensus": [*consensus_ms(evidence).values()],
        "data": [each.latency_ms for each in found if each.kind == "data"],
    }
    for number, (kind, values) in enumerate(series.items()):
        answered = np.sort([value for value in values if value is not None])
        if len(answered):
            missing = len(values) - len(answered)
            note = f", {missing} unanswered" if missing else ""
            axes.step(
                answered,
                np.arange(1, len(answered) + 1) / len(values),
                where="post",
                color=COLOURS[number],
                linestyle=LINES[number],
                label=f"{kind} (n = {len(values)}{note})",
            )
    axes.set_xscale("log")
    log_axis(axes.xaxis)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("latency (ms, log)")
    axes.set_ylabel("share of operations")
    if axes.lines:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7)
    return made


def _by_phase(evidence: Evidence, found: Sequence[Operation], mark: str | None) -> Figure:
    """Boxes: quartiles, whiskers to 1.5 times their distance, and every point beyond. Operations
    without an answer are in no box; their number is written beside it."""
    phases = evidence.schedule.phases
    made = figure(0.8 + 0.32 * len(phases), mark, left_in=1.6)
    axes: Axes = made.add_subplot()
    values, labels = [], []
    for phase in phases:
        sent = [each for each in found if each.kind == "data" and each.phase == phase.name]
        answered = [each.latency_ms for each in sent if each.latency_ms is not None]
        lost = len(sent) - len(answered)
        values.append(answered)
        note = f", {lost} unanswered" if lost else ""
        labels.append(f"{phase.name}\n(n = {len(answered)}{note})")
    axes.boxplot(
        values,
        orientation="horizontal",
        tick_labels=labels,
        widths=0.5,
        medianprops={"color": ORANGE, "linewidth": 1.4},
        boxprops={"color": BLUE},
        whiskerprops={"color": BLUE},
        capprops={"color": BLUE},
        flierprops={"marker": ".", "markersize": 3, "markeredgecolor": BLUE},
    )
    if any(values):
        axes.set_xscale("log")
        log_axis(axes.xaxis)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=7)
    axes.set_xlabel("data latency (ms, log), by phase of the intended send")
    return made
