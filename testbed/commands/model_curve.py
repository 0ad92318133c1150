"""`testbed model calibrate|predict|curve`: time to consensus over the number of replicas."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from chain.quorum import REPLICAS_MIN
from testbed.bundle import find_run
from testbed.commands.options import (
    JsonOption,
    columns,
    figure_kind,
    print_found,
    print_json,
    say,
    time_option,
    write_out,
)
from testbed.commands.sizes import sizes
from testbed.errors import ConfigurationError

if TYPE_CHECKING:
    from testbed.model.calibration import Calibration
    from testbed.model.curve import Curves
    from testbed.model.predict import Predictions, SizeComparison
    from testbed.model.real_core import Timed
    from testbed.report.pairing import Estimate

__all__ = ["calibrate", "curve", "predict"]


CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FILE", help="A file from `calibrate`; default: the shipped one."
    ),
]
MeasuredOption = Annotated[
    Path | None,
    typer.Option("--measured", metavar="FILE", help="A file of rounds from `predict --json`."),
]
FitOption = Annotated[str, typer.Option(metavar="N,N", help="Sizes to which prices are fitted.")]
RoundsOption = Annotated[int, typer.Option(min=1, max=100, help="Rounds of measurements.")]
BlocksOption = Annotated[
    int, typer.Option(min=10, max=10_000, help="Blocks at each size in each round.")
]
_FIT, _ROUNDS, _BLOCKS = "4,7", 9, 60


def calibrate(
    *,
    fit: FitOption = _FIT,
    rounds: RoundsOption = _ROUNDS,
    blocks: BlocksOption = _BLOCKS,
    measured: MeasuredOption = None,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Take link delays and syncs from its traces."),
    ] = None,
    calibration: CalibrationOption = None,
) -> None:
    """Measure how long a replica's work takes on this machine, and print it as JSON.

    Each kind of message is opened and handled alone in this process, on its CPU clock; signatures,
    disk and loopback link are measured separately. The cost of sending is fitted to the CPU time of
    real replicas, at two sizes or more. Everything is measured in rounds; each price is the median
    over them.

    With --measured nothing is measured: the prices come from the rounds in that file. With --bundle
    nothing is measured either: the link delays and syncs of a traced run, for example of a lab,
    replace those of a calibration; `last` is the newest run.

    \b
    testbed model calibrate > calibration.json
    testbed model calibrate --measured measured.json > calibration.json
    testbed model calibrate --bundle last --calibration calibration.json > lab.json
    """
    if bundle is not None:
        if measured is not None:
            raise ConfigurationError("--measured: not with --bundle; give one of them")
        print_json(msgspec.to_builtins(_of_bundle(bundle, calibration)))
        return
    if calibration is not None:
        raise ConfigurationError("--calibration: only with --bundle, which changes a part of it")
    from testbed.model.predict import calibration_of  # noqa: PLC0415 - see `model`

    found = calibration_of(_rounds(measured, fit, "", rounds, blocks))
    say(found.machine)
    print_json(msgspec.to_builtins(found))


def _rounds(
    measured: Path | None, fit: str, replicas: str, rounds: int, blocks: int
) -> Predictions:
    """The rounds of a file, or rounds that are measured now."""
    from testbed.model.predict import measure_rounds, read_predictions  # noqa: PLC0415 - see above

    if measured is not None:
        return read_predictions(measured)
    wanted = sizes("--fit", fit)
    if len(wanted) < 2:
        raise ConfigurationError(f"--fit {fit}: give two sizes or more, as 4,7")
    others = sizes("--replicas", replicas) if replicas else ()
    return measure_rounds(wanted, others, rounds=rounds, blocks=blocks, say=say)


def _of_bundle(bundle: str, calibration: Path | None) -> Calibration:
    from testbed.model.calibration import (  # noqa: PLC0415 - see `model`
        SHIPPED,
        Calibration,
        read_calibration,
    )
    from testbed.model.observe import observe_hardware  # noqa: PLC0415

    run, known = find_run(bundle), read_calibration(calibration or SHIPPED)
    seen = observe_hardware(run)
    found = msgspec.structs.replace(
        known,
        machine=(
            f"{known.machine}; links and syncs of {run.bundle.path.name} "
            f"({seen.requests} requests, {seen.blocks} blocks)"
        ),
        costs=msgspec.structs.replace(known.costs, delays_us=seen.delays_us, sync_us=seen.sync_us),
    )
    try:  # a stranger's traces may have any content
        return msgspec.convert(msgspec.to_builtins(found), Calibration)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{run.path}: its traces have impossible times: {error}") from None


def predict(
    *,
    fit: FitOption = _FIT,
    replicas: Annotated[str, typer.Option(metavar="N,N", help="Sizes to predict.")] = "10,13,16",
    rounds: RoundsOption = _ROUNDS,
    blocks: BlocksOption = _BLOCKS,
    measured: MeasuredOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict loopback networks of other sizes, measure them, and print the error of the
    prediction.

    There is one request at a time; the time is from the proposal to its execution, at the proposer.
    Each round calibrates and measures all sizes, and its prediction is compared with its own
    measurements. The interval is over the rounds, and needs six or more.

    With --measured nothing is measured: the table is that of the rounds in that file.

    \b
    testbed model predict --json > measured.json
    testbed model predict --measured measured.json
    """
    found = _rounds(measured, fit, replicas, rounds, blocks)
    from testbed.model.predict import compared  # noqa: PLC0415 - see `model`

    rows = compared(found)
    head = f"{found.machine}; {len(found.rounds)} rounds of {found.blocks} blocks"
    print_found(
        msgspec.structs.asdict(found) | {"compared": rows},
        f"{head}\n\n{_compared(rows)}",
        as_json=as_json,
    )


def _compared(rows: list[SizeComparison]) -> str:
    table: list[tuple[object, ...]] = [
        ("N", "", "PREDICTED ms", "MEASURED ms", "ERROR", "95 %", "CPU us", "CPU ERROR", "95 %")
    ]
    for row in rows:
        table.append(
            (
                row.replicas,
                "fitted" if row.fitted_to else "predicted",
                f"{row.predicted_ms.value:.2f}",
                f"{row.measured_ms.value:.2f}",
                *_error(row.ratio),
                f"{row.measured_cpu_us.value:,.0f}",
                *_error(row.cpu_ratio),
            )
        )
    return columns(table)


def _error(ratio: Estimate) -> tuple[str, str]:
    """The error with its interval."""
    assert ratio.value is not None
    if ratio.lo is None or ratio.hi is None:
        return _off(ratio.value), "too few rounds"
    return _off(ratio.value), f"{_off(ratio.lo)} to {_off(ratio.hi)}"


def _off(ratio: float) -> str:
    return f"{round(ratio - 1, 2) + 0.0:+.0%}"  # + 0.0: no -0%


def curve(
    *,
    replicas: Annotated[
        str, typer.Option("-n", "--replicas", metavar="N,N..N:STEP", help="Which sizes.")
    ] = "4..100:12",
    calibration: CalibrationOption = None,
    delay_ms: Annotated[
        float | None,
        time_option("--delay", "Mean link delay, exponential; default: the calibration's."),
    ] = None,
    lever: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="plain, superfluous, ...; repeatable. Default: all."),
    ] = None,
    measured: MeasuredOption = None,
    blocks: Annotated[int, typer.Option(min=2, help="Blocks of each point.")] = 6,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw it: .svg or .pdf.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0: one per core.")] = 0,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler to spread the points over.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute time to consensus over N: by the event model, its closed form, and the real core.

    The real core is the code that runs on the boards, in virtual time, at the prices of a
    calibration. Each lever is a curve of its own. N = 100 takes some 15 s of CPU per curve.

    \b
    testbed model curve -n 4..100:12 --delay 1ms --figure curve.svg
    """
    wanted = sizes("--replicas", replicas)
    kind = figure_kind(figure)
    from testbed.model.calibration import SHIPPED, read_calibration  # noqa: PLC0415 - see `model`
    from testbed.model.curve import curves, exponential_us  # noqa: PLC0415
    from testbed.model.curve_plot import draw  # noqa: PLC0415
    from testbed.model.predict import compared, read_predictions  # noqa: PLC0415
    from testbed.model.real_core import Lever  # noqa: PLC0415
    from testbed.simulate.sweep import open_executor  # noqa: PLC0415

    names = {each.name.lower(): each for each in Lever}
    unknown = [name for name in lever or () if name not in names]
    if unknown:
        raise ConfigurationError(f"--lever {unknown[0]}: one of {', '.join(names)}")
    calibrated = read_calibration(calibration or SHIPPED)
    points = [] if measured is None else compared(read_predictions(measured))
    if measured is not None and figure is None:
        raise ConfigurationError("--measured: its points are drawn; give --figure too")
    if points and REPLICAS_MIN not in (each.replicas for each in points):
        raise ConfigurationError(
            f"--measured {measured}: without N = {REPLICAS_MIN} there are no ratios to draw"
        )
    costs = calibrated.costs
    if delay_ms is not None:
        costs = msgspec.structs.replace(costs, delays_us=exponential_us(delay_ms))

    def advance(timed: Timed) -> None:
        say(f"{timed.lever.value}, N = {timed.replicas}")

    with open_executor(jobs or len(os.sched_getaffinity(0)), cluster) as executor:
        found = curves(
            wanted,
            [names[name] for name in lever or names],
            costs,
            calibrated.machine,
            executor,
            blocks=blocks,
            advance=advance,
        )
    if figure is not None:
        write_out(figure, draw(found, points, kind))
    print_found(found, _readable(found), as_json=as_json)


def _readable(found: Curves) -> str:
    from testbed.model.curve import obstacle  # noqa: PLC0415 - see `model`

    shown = [found.event_model, found.closed_form, *found.core]
    sizes_of = [row.replicas for row in found.event_model.rows]
    rows: list[tuple[object, ...]] = [("TO N = 4", *(f"N={n}" for n in sizes_of))]
    rows += [(each.name, *(f"{row.ratio:.2f}" for row in each.rows)) for each in shown]
    rows += [
        (f"ms, {each.name}", *(f"{row.ms.value:.2f}" for row in each.rows)) for each in found.core
    ]
    rows += [
        (f"ms, access request, {each.name}", *(f"{row.ms.value:.2f}" for row in each.rows))
        for each in found.access
    ]
    head = f"calibrated: {found.calibration}; mean link delay {found.delay_ms:.3g} ms\n"
    return "\n".join([head, columns(rows), "", *(obstacle(each) for each in found.core)])
