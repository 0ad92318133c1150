"""`testbed bench serial|admission|revocation|restart|growth`: devices, gateway and broker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

from chain.ledger.operations import DATA_BYTES_MAX
from testbed.bench import admission as admissions
from testbed.bench import growth as growths
from testbed.bench import restart as restarts
from testbed.bench import revocation as revocations
from testbed.bench import serial as serials
from testbed.bench.figures import Spread
from testbed.commands.options import JsonOption, columns, print_found, say, time_option

__all__ = ["admission", "growth", "restart", "revocation", "serial"]


def serial(
    for_ms: Annotated[
        float,
        time_option("--for", "Time of each part.", least="100ms", most="10s", default="3s"),
    ] = 3000,
    as_json: JsonOption = False,
) -> None:
    """Measure frames to the real firmware behind a PTY, as a ratio to both ends without a line."""
    result = serials.measure(for_ms / 1000)
    _print(
        result,
        {
            "round trip ms": result.round_trip_ms,
            "frames/s, both directions": result.frames_per_s,
            "both ends in one process, frames/s": result.limit_frames_per_s,
            "ratio": result.ratio,
            "acknowledged readings/s": result.readings_per_s,
            "the same without a journal": result.readings_per_s_without_journal,
            "bytes of a frame": result.frame_bytes,
            "a UART of 115,200 baud, frames/s": result.uart_frames_per_s,
        },
        as_json=as_json,
    )


def restart(
    blocks: Annotated[
        list[int] | None, typer.Option(min=400, max=1_000_000, help="Ages of the ledger.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the CPU time of `device list` and of starts, by the age of the ledger."""
    found = restarts.measure(blocks or [1_000, 10_000], say)
    first = {each.who: each for each in reversed(found)}
    rows = [("WHO", "BLOCKS", "CPU s", "RATIO", "FROM GENESIS s", "RATIO")]
    for each in found:
        kept_s, genesis = first[each.who].kept_s, first[each.who].genesis_s
        kept = ("-", "-")  # a replica keeps no state
        if each.kept_s is not None and kept_s is not None:
            kept = (f"{each.kept_s:.3f}", f"{each.kept_s / kept_s:.2f}")
        rows.append(
            (
                each.who,
                f"{each.blocks:,}",
                *kept,
                f"{each.genesis_s:.2f}",
                f"{each.genesis_s / genesis:.1f}",
            )
        )
    print_found(found, columns(rows), as_json=as_json)


def growth(
    payload: Annotated[
        int, typer.Option(min=0, max=DATA_BYTES_MAX, help="Bytes of a reading.")
    ] = 64,
    every_ms: Annotated[
        float,
        time_option(
            "--every",
            "Time between two readings of the whole lab.",
            least="10ms",
            most="1d",
            default="1s",
        ),
    ] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure the bytes of a block at a replica and at a gateway, and compute a year's growth."""
    found = growths.measure(payload, say)
    rows = [("", *(each.who for each in found))]
    rows.append(("block with a reading, bytes", *(f"{each.record:,.0f}" for each in found)))
    rows.append(("the same, pruned", *(f"{each.record_pruned:,.0f}" for each in found)))
    rows.append(("empty block", *(f"{each.empty:,.0f}" for each in found)))
    for name, pruned in (("a year, GB", False), ("the same, pruned", True)):
        years = (each.year_bytes(every_ms / 1000, pruned=pruned) for each in found)
        rows.append((name, *(f"{year / 1e9:,.1f}" for year in years)))
    print_found(found, columns(rows), as_json=as_json)


def admission(
    devices: Annotated[int, typer.Option(min=1, max=500, help="Devices that ask at once.")] = 32,
    logins: Annotated[int, typer.Option(min=1, max=5000, help="Logins to add and remove.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Measure admissions, as a ratio to readings, and logins, as a ratio to sending a message."""
    result = admissions.measure(admissions.BenchPlan(devices=devices, logins=logins), say)
    _print(
        result,
        {
            "admissions/s": result.admissions_per_s,
            "admission ms, all at once": result.admission_ms,
            "readings/s of the same devices": result.readings_per_s,
            "ratio": result.ratio,
            "message acknowledged ms": result.publish_ms,
            "login added ms": result.login_added_ms,
            "login removed ms": result.login_removed_ms,
            "ratio, login to message": result.login_ratio,
        },
        as_json=as_json,
    )


def revocation(
    devices: Annotated[
        int, typer.Option(min=1, max=50, help="Devices to revoke; the same number stays.")
    ] = 6,
    rate: Annotated[float, typer.Option(min=0.1, max=10, help="Readings/s of each.")] = 5.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the time from a revocation's order to the last message that is accepted."""
    result = revocations.measure(revocations.BenchPlan(devices=devices, rate_per_s=rate), say)
    _print(
        result,
        {
            "readings/s meanwhile": result.readings_per_s,
            "ordinary request, in its block ms": result.ordinary_ms,
            "revocation, in its block ms": result.in_block_ms,
            "last data in a block ms": result.chain_last_ms,
            "last message taken by the gateway ms": result.gateway_last_ms,
            "off the broker ms": result.broker_off_ms,
            "ratio, block to ordinary": result.block_ratio,
            "ratio, broker to ordinary": result.broker_ratio,
        },
        as_json=as_json,
    )


def _print(result: msgspec.Struct, figures: Mapping[str, Spread | float], *, as_json: bool) -> None:
    rows: list[Sequence[object]] = [("", "p50", "p90", "max", "n")]
    for name, figure in figures.items():
        if isinstance(figure, Spread):
            rows.append((name, figure.p50, figure.p90, figure.max, figure.n))
        else:
            rows.append((name, f"{figure:,}", "", "", ""))
    print_found(result, columns(rows), as_json=as_json)
