"""`testbed model`: computed figures: small authentication groups, time to consensus.

The models are in `testbed.model`. Its README says how far to trust them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Any

import msgspec
import typer

from chain.quorum import REPLICAS_MIN
from testbed.bundle import find_run
from testbed.commands import model_curve
from testbed.commands.options import JsonOption, columns, print_found, time_option
from testbed.commands.sizes import sizes
from testbed.errors import ConfigurationError
from testbed.model.consensus import (
    PAPER_WORK_PER_DELAY,
    ModelFit,
    Parameters,
    Times,
    calibrate,
    consensus_times,
)
from testbed.model.group import FORMULA, GroupRisk, group_risk, group_table, scientific

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Compute the risk of small groups, and how time to consensus grows.",
)

_REPLICAS_DEFAULT = "4..100:12"
_WRITTEN_OUT_MAX = 10_000_000


@app.command()
def group(
    replicas: Annotated[int, typer.Option("-n", "--replicas", help="Replicas of the network.")],
    faulty: Annotated[int, typer.Option("-f", "--faulty", help="Faulty ones among them.")],
    members: Annotated[
        int | None, typer.Option("-m", "--members", help="Size of the group; default: a table.")
    ] = None,
    accepts: Annotated[
        int | None, typer.Option("-k", "--accepts", help="Accepts that admit; default: a majority.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the exact probability that the liars in a random authentication group admit a device,
    or keep one out.

    The default group of 2f+1 with k = f+1 is never wrong. A smaller one is wrong with this
    probability, for each request. An inventory sets it with `chain: {group: {m: 15, k: 8}}`.

    \b
    testbed model group -n 100 -f 10          a table over m
    testbed model group -n 100 -f 10 -m 15
    """
    rows: tuple[GroupRisk, ...] = (
        group_table(replicas, faulty, accepts)
        if members is None
        else (group_risk(replicas, faulty, members, accepts),)
    )
    table: list[tuple[object, ...]] = [("m", "k", "FALSE ACCEPT", "ONE IN", "DENIAL", "ONE IN")]
    table += [(row.m, row.k, *_cells(row.false_accept), *_cells(row.denial)) for row in rows]
    print_found(
        {"formula": FORMULA.splitlines(), "groups": [_risk_json(row) for row in rows]},
        f"{replicas} replicas, {faulty} of them faulty; per request\n\n{columns(table)}\n\n"
        f"{FORMULA}\nA device that colludes with liars can ask again with another nonce: "
        "each request is a new draw.",
        as_json=as_json,
    )


@app.command()
def consensus(
    replicas: Annotated[
        str,
        typer.Option("-n", "--replicas", metavar="N,N..N:STEP", help="Sizes: 4,7,10 or 4..100:3."),
    ] = _REPLICAS_DEFAULT,
    delay_ms: Annotated[
        float | None,
        time_option("--delay", "Mean delay of a message.", least="0ms", default="1ms"),
    ] = None,
    work_ms: Annotated[
        float | None,
        time_option("--work", "Mean work per message; default: the value for 5.34.", least="0ms"),
    ] = None,
    calibrate: Annotated[
        list[str] | None,
        typer.Option("--calibrate", metavar="BUNDLE", help="Fit both to this run; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the mean time to consensus over the number of replicas, as in the paper's figure 4.

    There are three phases. Each ends when a quorum's messages have arrived and were processed one
    by one. The default work per message is fitted so that N = 100 takes 5.34 times as long as N =
    4, as the paper reports; testbed/model/README.md says how far to trust that.

    \b
    testbed model consensus --replicas 4..100:3
    testbed model consensus --calibrate last --replicas 4,7,10
    """
    wanted = sizes("--replicas", replicas)
    fitted = _calibration(calibrate or [])
    if fitted is None:
        parameters = _parameters(delay_ms, work_ms)
    elif delay_ms is not None or work_ms is not None:
        raise ConfigurationError("--calibrate finds --delay and --work itself: leave them out")
    else:
        parameters = fitted.parameters
    base_ms = consensus_times(REPLICAS_MIN, parameters).total_ms
    times = [consensus_times(n, parameters) for n in wanted]
    found = {
        "parameters": parameters,
        "calibration": fitted,
        "notes": () if fitted is None else fitted.notes,
        "times": [
            msgspec.structs.asdict(each)
            | {"total_ms": each.total_ms, "ratio": each.total_ms / base_ms}
            for each in times
        ],
    }
    head = (
        f"mean delay of a message {parameters.delay_ms:.4g} ms, "
        f"mean work per message {parameters.work_ms:.4g} ms\n"
    )
    if fitted is not None:
        head += _fit_text(fitted)
    print_found(found, f"{head}\n{_times_text(times, base_ms)}", as_json=as_json)


def _calibration(bundles: list[str]) -> ModelFit | None:
    if not bundles:
        return None
    # Scientific libraries take half a second to load.
    from testbed.model.observe import observe  # noqa: PLC0415

    return calibrate([observe(find_run(each)) for each in bundles])


def _parameters(delay_ms: float | None, work_ms: float | None) -> Parameters:
    delay = 1.0 if delay_ms is None else delay_ms
    work = delay * PAPER_WORK_PER_DELAY if work_ms is None else work_ms
    if not delay + work:
        raise ConfigurationError("--delay and --work: not both 0")
    return Parameters(delay_ms=delay, work_ms=work)


def _fit_text(fitted: ModelFit) -> str:
    lines = [f"fitted to {fitted.blocks} blocks, relative error {fitted.error:.1%}\n"]
    return "".join([*lines, *(f"note: {note}\n" for note in fitted.notes)])


def _times_text(times: Sequence[Times], base_ms: float) -> str:
    rows: list[tuple[object, ...]] = [
        ("N", "PRE-PREPARE ms", "PREPARE ms", "COMMIT ms", "TOTAL ms", "TO N = 4")
    ]
    for each in times:
        phases = (each.pre_prepare_ms, each.prepare_ms, each.commit_ms, each.total_ms)
        shown = (f"{ms:.3f}" for ms in phases)
        rows.append((each.replicas, *shown, f"{each.total_ms / base_ms:.2f}"))
    return columns(rows)


def _risk_json(risk: GroupRisk) -> dict[str, Any]:
    """Exact fractions as text beside readable numbers, because the smallest are below any float."""
    return msgspec.structs.asdict(risk) | {
        "false_accept": scientific(risk.false_accept),
        "denial": scientific(risk.denial),
        "false_accept_exact": str(risk.false_accept),
        "denial_exact": str(risk.denial),
    }


def _cells(value: Fraction) -> tuple[str, str]:
    if not value:
        return "0", "never"
    draws = round(1 / value)
    return scientific(value), f"{draws:,}" if draws < _WRITTEN_OUT_MAX else scientific(1 / value, 2)


app.command()(model_curve.curve)
app.command()(model_curve.calibrate)
app.command()(model_curve.predict)
