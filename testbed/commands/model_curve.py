"""`testbed model calibrate|predict|curve`: what consensus takes over the number of replicas."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from testbed.bundle import find_run
from testbed.commands.options import (
    JsonOption,
    columns,
    figure_kind,
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
    from testbed.model.loopback import Measured
    from testbed.model.predict import Prediction
    from testbed.model.real_core import Timed

__all__ = ["calibrate", "curve", "predict"]


CalibrationOption = Annotated[
    Path | None,
    typer.Option(
        "--calibration", metavar="FILE", help="What `calibrate` wrote; default: the shipped one."
    ),
]
MeasuredOption = Annotated[
    Path | None,
    typer.Option(
        "--measured", metavar="FILE", help="Take measured times from what `predict --json` printed."
    ),
]
BlocksOption = Annotated[int, typer.Option(min=10, help="Blocks to measure at each size.")]


def calibrate(
    *,
    fit: Annotated[str, typer.Option(metavar="N,N", help="Sizes of real networks.")] = "4,7",
    blocks: BlocksOption = 200,
    measured: MeasuredOption = None,
    bundle: Annotated[
        str | None,
        typer.Option(metavar="BUNDLE", help="Take link delays and syncs from its traces."),
    ] = None,
    calibration: CalibrationOption = None,
) -> None:
    """Measure what the work of a replica takes on this machine, and print it as JSON.

    Each kind of message is opened and handled alone in this process, on its CPU clock; signatures,
    disk and loopback link apart. The cost of sending is fitted to the CPU time of real replicas, at
    two sizes or more.

    With --measured the networks are not started again, as their CPU times are known. With --bundle
    nothing is measured: link delays and syncs of a calibration are replaced by those of a traced
    run, as of a lab; `last` is the newest one.

    \b
    testbed model calibrate > calibration.json
    testbed model calibrate --bundle last --calibration calibration.json > lab.json
    """
    if bundle is not None:
        print_json(msgspec.to_builtins(_of_bundle(bundle, calibration)))
        return
    if calibration is not None:
        raise ConfigurationError("--calibration: only with --bundle, which changes a part of it")
    wanted = sizes("--fit", fit)
    if len(wanted) < 2:
        raise ConfigurationError(f"--fit {fit}: two sizes are the fewest, as 4,7")
    from testbed.model.calibration import calibrate as measure  # noqa: PLC0415 - see `model`
    from testbed.model.predict import fitted  # noqa: PLC0415

    known = _measured(measured)
    found = measure(_machine(wanted))
    costs = fitted(found.costs, [_of_size(n, blocks, known) for n in wanted], _cores())
    found = msgspec.structs.replace(found, costs=costs)
    say(found.machine)
    print_json(msgspec.to_builtins(found))


def _of_bundle(bundle: str, calibration: Path | None) -> Calibration:
    from testbed.model.calibration import SHIPPED, read_calibration  # noqa: PLC0415 - see `model`
    from testbed.model.observe import observe_hardware  # noqa: PLC0415

    run, known = find_run(bundle), read_calibration(calibration or SHIPPED)
    seen = observe_hardware(run)
    return msgspec.structs.replace(
        known,
        machine=(
            f"{known.machine}; links and syncs of {run.bundle.path.name} "
            f"({seen.requests} requests, {seen.blocks} blocks)"
        ),
        costs=msgspec.structs.replace(known.costs, delays_us=seen.delays_us, sync_us=seen.sync_us),
    )


def _measured(path: Path | None) -> dict[int, Measured] | None:
    """What a file tells, by number of replicas."""
    from testbed.model.predict import read_predictions  # noqa: PLC0415 - see `model`

    return None if path is None else {row.replicas: row.measured for row in read_predictions(path)}


def _of_size(replicas: int, blocks: int, known: dict[int, Measured] | None) -> Measured:
    from testbed.model.loopback import measure_loopback  # noqa: PLC0415 - see `model`

    if known is None:
        return measure_loopback(replicas, blocks, say)
    if replicas not in known:
        raise ConfigurationError(f"--measured: nothing about {replicas} replicas in it")
    return known[replicas]


def _machine(fit: list[int]) -> str:
    load = os.getloadavg()[0]
    named = ", ".join(map(str, fit))
    return (
        f"{_cores()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"load {load:.1f}; fitted to loopback at N = {named}"
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def predict(
    *,
    calibration: CalibrationOption = None,
    fit: Annotated[str, typer.Option(metavar="N,N", help="Sizes that were fitted to.")] = "4,7",
    replicas: Annotated[str, typer.Option(metavar="N,N", help="Sizes to predict.")] = "10,13,16",
    blocks: BlocksOption = 200,
    measured: MeasuredOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict loopback networks of other sizes, measure them, and print how wrong it was.

    One request at a time; the time is from the proposal to its execution, at the proposer. Believe
    the errors of times only where the load is below the number of cores plus what the run itself
    makes; CPU times suffer less.

    \b
    testbed model calibrate > calibration.json
    testbed model predict --calibration calibration.json
    """
    known, wanted = sizes("--fit", fit), sizes("--replicas", replicas)
    from testbed.model.calibration import SHIPPED, read_calibration  # noqa: PLC0415 - see `model`
    from testbed.model.predict import Predictions  # noqa: PLC0415
    from testbed.model.predict import predict as compare  # noqa: PLC0415

    times = _measured(measured)
    costs = read_calibration(calibration or SHIPPED).costs
    rows = [
        compare(costs, _of_size(n, blocks, times), _cores(), fitted_to=n in known)
        for n in sorted({*known, *wanted})
    ]
    if as_json:
        print_json(msgspec.to_builtins(Predictions(rows=rows)))
    else:
        typer.echo(_predictions(rows))


def _predictions(rows: list[Prediction]) -> str:
    table: list[tuple[object, ...]] = [
        ("N", "", "PREDICTED ms", "MEASURED ms", "ERROR", "95 %", "CPU us", "CPU ERROR", "LOAD")
    ]
    for row in rows:
        interval = "too few blocks"
        if row.error_lo is not None and row.error_hi is not None:
            interval = f"{row.error_lo:+.0%} to {row.error_hi:+.0%}"
        cpu_error = row.predicted_cpu_us / row.measured_cpu_us - 1
        table.append(
            (
                row.replicas,
                "fitted" if row.fitted_to else "predicted",
                f"{row.predicted_ms:.2f}",
                f"{row.measured_ms.value:.2f}",
                f"{row.error:+.0%}",
                interval,
                f"{row.measured_cpu_us:.0f}",
                f"{cpu_error:+.0%}",
                f"{row.load:.1f}",
            )
        )
    return columns(table)


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
    """Time to consensus over N: the event model, its closed form, and the real core.

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
    from testbed.model.predict import read_predictions  # noqa: PLC0415
    from testbed.model.real_core import Lever  # noqa: PLC0415
    from testbed.simulate.sweep import open_executor  # noqa: PLC0415

    names = {each.name.lower(): each for each in Lever}
    unknown = [name for name in lever or () if name not in names]
    if unknown:
        raise ConfigurationError(f"--lever {unknown[0]}: one of {', '.join(names)}")
    calibrated = read_calibration(calibration or SHIPPED)
    points = [] if measured is None else read_predictions(measured)
    costs = calibrated.costs
    if delay_ms is not None:
        costs = msgspec.structs.replace(costs, delays_us=exponential_us(delay_ms))

    def advance(timed: Timed) -> None:
        say(f"{timed.lever.value}, N = {timed.replicas}")

    with open_executor(jobs or _cores(), cluster) as executor:
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
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        typer.echo(_readable(found))


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
