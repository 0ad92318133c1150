"""`testbed bench`: measurements that print figures and ratios, never pass or fail."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from testbed.bench.consensus import Plan, Result, measure
from testbed.commands import bench_devices
from testbed.commands.options import JsonOption, columns, print_json
from testbed.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure speed on this machine.")


@app.callback()
def bench() -> None:
    """Measure speed on this machine."""


@app.command()
def consensus(
    *,
    replicas: Annotated[int, typer.Option(min=4, max=64, help="Replica processes.")] = 4,
    in_flight: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests in flight, each its own identity.")
    ] = 100,
    payload: Annotated[
        int, typer.Option(min=300, max=4096, help="Bytes of a whole signed request.")
    ] = 512,
    store: Annotated[Literal["sqlite", "memory"], typer.Option(help="Votes synced, or not.")] = (
        "sqlite"
    ),
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 5.0,
    requests: Annotated[int | None, typer.Option(min=1, help="Measure so many instead.")] = None,
    verify_threads: Annotated[
        int | None, typer.Option(min=0, max=64, help="Per replica; default: by cores.")
    ] = None,
    profile: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write a cProfile of each replica here.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Replicas over TLS under signed load, as a ratio to what this machine can verify at most."""
    if profile is not None and not profile.is_dir():
        raise ConfigurationError(f"--profile {profile}: no such directory; make it first")
    result = measure(
        Plan(
            replicas=replicas,
            in_flight=in_flight,
            payload_bytes=payload,
            store=store,
            seconds=seconds,
            requests=requests,
            verify_threads=verify_threads,
            profile=str(profile) if profile is not None else None,
        )
    )
    if as_json:
        print_json(msgspec.to_builtins(result))
    else:
        typer.echo(_readable(result))


app.command()(bench_devices.serial)
app.command()(bench_devices.admission)
app.command()(bench_devices.revocation)


def _readable(result: Result) -> str:
    latency, alone = result.latency_ms, result.alone_ms
    return columns(
        [
            ("requests/s", f"{result.requests_per_s:,.0f}"),
            ("verification limit/s", f"{result.limit_per_s or 0:,.0f}"),
            ("ratio to the limit", f"{result.ratio or 0:.2f}"),
            ("the same in CPU time", f"{result.cpu_ratio or 0:.2f}"),
            ("latency p50 / p90 / p99 ms", f"{latency.p50} / {latency.p90} / {latency.p99}"),
            ("one request alone p50 / p99 ms", f"{alone.p50} / {alone.p99}"),
            ("enrolments/s", f"{result.enrolments_per_s:,.0f}"),
            ("CPU us per request per replica", f"{result.cpu_us_per_request:.0f}"),
            ("CPU us per request, client", f"{result.cpu_us_client:.0f}"),
            ("requests per block", f"{result.requests / max(result.blocks, 1):.1f}"),
            ("RSS MB per replica, start", " ".join(map(str, result.rss_mb_start))),
            ("RSS MB per replica, end", " ".join(map(str, result.rss_mb_end))),
        ]
    )
