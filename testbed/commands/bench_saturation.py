"""`testbed bench saturation`: latency of replicas against offered load, and the knee."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from testbed.commands.bench_consensus import Replicas, Store
from testbed.commands.options import (
    JsonOption,
    figure_kind,
    markdown,
    print_found,
    say,
    time_option,
    write_out,
)

if TYPE_CHECKING:
    from testbed.bench.saturation import BenchResult

__all__ = ["saturation"]


def saturation(
    *,
    replicas: Replicas = 4,
    devices: Annotated[
        int, typer.Option(min=1, max=20_000, help="Devices in this process, each with its key.")
    ] = 1000,
    arrivals: Annotated[Literal["poisson", "uniform"], typer.Option(help="Gaps of sends.")] = (
        "poisson"
    ),
    start: Annotated[float, typer.Option("--from", min=1, help="Sends/s of the first step.")] = 100,
    to: Annotated[float, typer.Option(min=1, help="The most sends/s of a step.")] = 20_000,
    growth: Annotated[
        float, typer.Option(min=1.05, max=10, help="Factor from each step to the next.")
    ] = 1.5,
    step_ms: Annotated[
        float | None, time_option("--step", "How long a step lasts.", default="5s")
    ] = None,
    store: Store = "sqlite",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the intended times.")] = 1,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw it: .svg or .pdf.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Offer more and more load, open-loop, until the replicas cannot keep up, and name the knee.

    Latency counts from the intended send. The load ends with the first step in which less than 95 %
    is answered within 5 s, or the median latency is above three times that of the first step.

    \b
    testbed bench saturation --devices 2000 --figure saturation.svg
    """
    kind = figure_kind(figure)
    # The drawing code takes half a second to import.
    from testbed.bench.saturation import BenchPlan, measure  # noqa: PLC0415
    from testbed.report.saturation_plot import draw_saturation  # noqa: PLC0415
    from testbed.report.style import WATERMARK, rendered, styled  # noqa: PLC0415

    result = measure(
        BenchPlan(
            replicas=replicas,
            devices=devices,
            gaps=arrivals,
            from_per_s=start,
            to_per_s=to,
            growth=growth,
            step_s=(step_ms or 5000.0) / 1000,
            store=store,
            seed=seed,
        ),
        say,
    )
    if figure is not None:
        with styled():
            drawn = rendered(draw_saturation(result.saturation, WATERMARK), kind)
        write_out(figure, drawn)
    print_found(result, _readable(result), as_json=as_json)


def _readable(result: BenchResult) -> str:
    rows: list[tuple[object, ...]] = [
        ("offered/s", "answered in time/s", "p50 ms", "p99 ms", "client late ms")
    ]
    rows += [
        (
            f"{step.offered_per_s:,.0f}",
            f"{step.goodput_per_s:,.0f}",
            f"{step.p50_ms:.1f}",
            f"{step.p99_ms:.1f}",
            f"{late_ms:.1f}",
        )
        for step, late_ms in zip(result.saturation.steps, result.client_late_ms, strict=True)
    ]
    return f"{markdown(rows)}\n\n{result.saturation.in_words}"
