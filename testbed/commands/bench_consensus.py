"""`testbed bench consensus|memory|catch-up|traces|switch`: replica processes under signed load."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import msgspec
import typer

from testbed.bench import catch_up as catching_up
from testbed.bench import memory as memories
from testbed.bench import overhead
from testbed.bench import table as tables
from testbed.bench.consensus import BenchPlan, BenchResult, measure
from testbed.commands.options import (
    JsonOption,
    columns,
    markdown,
    print_found,
    say,
    time_option,
)
from testbed.errors import ConfigurationError
from testbed.report.pairing import estimate_in_words

__all__ = ["InFlight", "Replicas", "Store", "catch_up", "consensus", "memory", "switch", "traces"]

Replicas = Annotated[int, typer.Option(min=4, max=64, help="Replica processes.")]
InFlight = Annotated[
    int,
    typer.Option(min=1, max=10_000, help="Requests in flight, each from its own identity."),
]
Payload = Annotated[int, typer.Option(min=300, max=4096, help="Bytes of a whole signed request.")]
Store = Annotated[
    Literal["sqlite", "memory"],
    typer.Option(help="sqlite: votes are synced to disk; memory: they are not."),
]
Pairs = Annotated[int, typer.Option(min=1, help="Turns without and with it.")]
TurnRequests = Annotated[int, typer.Option(min=10, help="Requests of a turn.")]


def consensus(
    *,
    replicas: Replicas = 4,
    in_flight: InFlight = 100,
    payload: Payload = 512,
    store: Store = "sqlite",
    for_ms: Annotated[
        float | None,
        time_option("--for", "How long to measure; default: 5s, or 2s for each round of --table."),
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=1, help="Measure this many requests instead.")
    ] = None,
    verify_threads: Annotated[
        int | None, typer.Option(min=0, max=64, help="Of each replica; default: by cores.")
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a profile (cProfile, CPU time) of each replica here."
        ),
    ] = None,
    table: Annotated[
        bool,
        typer.Option("--table", help="4, 7 and 10 replicas, both stores, 1 to 1,000 in flight."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure replicas under signed load, as a ratio to the most that this machine can verify.

    Example: testbed bench consensus --replicas 7 --in-flight 1000 --store memory

    --table prints a Markdown row per setting, the median of three rounds: about five minutes.
    """
    if profile is not None:
        try:
            profile.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"--profile {profile}: {error.strerror}") from error
    plan = BenchPlan(
        replicas=replicas,
        in_flight=in_flight,
        payload_bytes=payload,
        store=store,
        seconds=for_ms / 1000 if for_ms else (2.0 if table else 5.0),
        requests=requests,
        verify_threads=verify_threads,
        profile=str(profile) if profile is not None else None,
    )
    if table:
        if profile is not None:
            raise ConfigurationError("--profile and --table cannot be combined: profile one row")
        _table(plan, as_json=as_json)
        return
    result = measure(plan, say)
    print_found(result, _readable(result), as_json=as_json)


def _table(plan: BenchPlan, *, as_json: bool) -> None:
    """Prints each row as soon as it is measured, so that an interrupted table is not lost."""
    rows: list[tuple[str, ...]] = [tables.HEADER]
    results = []
    found = tables.measure_table(plan, tables.REPLICAS, tables.IN_FLIGHT, tables.ROUNDS, say)
    for result, load in found:
        rows.append(tables.row(result, load))
        results.append({**msgspec.to_builtins(result), "load": round(load, 1)})
        say(" | ".join(rows[-1]))
    table = {"schema": "testbed.bench.table/1", "results": results}
    print_found(table, markdown(rows), as_json=as_json)


def memory(
    *,
    replicas: Replicas = 4,
    in_flight: InFlight = 100,
    payload: Payload = 512,
    store: Store = "sqlite",
    requests: Annotated[int, typer.Option(min=10, help="Requests in all.")] = 100_000,
    peer: Annotated[
        Literal["suspended", "slow", "none"],
        typer.Option(help="The behaviour of the last replica."),
    ] = "suspended",
    as_json: JsonOption = False,
) -> None:
    """Measure each replica's memory over many requests, while one peer does not read or is slow.

    Example: testbed bench memory --requests 100000 --peer suspended
    """
    result = memories.measure(
        memories.BenchPlan(
            replicas=replicas,
            in_flight=in_flight,
            payload_bytes=payload,
            store=store,
            requests=requests,
            peer=peer,
        ),
        say,
    )
    names = [f"r{n} MB" for n in range(replicas)]
    rows = [
        (f"{each.requests:,}", f"{each.height:,}", *(f"{size:.1f}" for size in each.rss_mb))
        for each in result.samples
    ]
    verdict = (
        f"{'flat' if result.flat else 'NOT flat'}: at most {result.growth_mb:+.1f} MB from half of "
        f"the requests to the end (allowed {memories.FLAT_MB:.0f}); largest "
        f"{result.largest_mb:.1f} MB"
    )
    table = markdown([("requests", "height", *names), *rows])
    print_found(result, f"{table}\n\n{verdict}", as_json=as_json)


def traces(
    *,
    replicas: Replicas = 4,
    in_flight: InFlight = 1000,
    payload: Payload = 512,
    every: Annotated[int, typer.Option(min=1, help="Trace one request in N.")] = 1,
    pairs: Pairs = 10,
    requests: TurnRequests = 4000,
    as_json: JsonOption = False,
) -> None:
    """Measure the cost of tracing for a replica: the ratio of CPU time with and without traces, in
    turns.

    Example: testbed bench traces --pairs 20 --every 10
    """
    plan = overhead.BenchPlan(
        replicas=replicas,
        in_flight=in_flight,
        payload_bytes=payload,
        every=every,
        pairs=pairs,
        turn_requests=requests,
    )
    _overhead(plan, as_json)


def switch(
    *,
    replicas: Replicas = 4,
    in_flight: InFlight = 1000,
    payload: Payload = 512,
    pairs: Pairs = 10,
    requests: TurnRequests = 4000,
    as_json: JsonOption = False,
) -> None:
    """Measure the cost of a campaign's switch without an order for a replica: the ratio of CPU
    time.

    Example: testbed bench switch --pairs 20
    """
    plan = overhead.BenchPlan(
        what="switch",
        replicas=replicas,
        in_flight=in_flight,
        payload_bytes=payload,
        pairs=pairs,
        turn_requests=requests,
    )
    _overhead(plan, as_json)


def _overhead(plan: overhead.BenchPlan, as_json: bool) -> None:
    result = overhead.measure(plan, say)
    rows = [
        ("CPU us per request and replica, without", f"{median(result.without_us):.1f}"),
        (f"the same with {plan.what}", f"{median(result.with_us):.1f}"),
        ("ratio, median of pairs [95 %]", estimate_in_words(result.ratio)),
    ]
    if plan.what == "traces":
        rows.append(("bytes of traces per request, all replicas", f"{result.trace_bytes:.0f}"))
    print_found(result, columns(rows), as_json=as_json)


def catch_up(
    *,
    replicas: Replicas = 4,
    in_flight: InFlight = 4,
    payload: Payload = 512,
    blocks: Annotated[int, typer.Option(min=100, help="Blocks that it misses.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a replica that was down for many blocks catches up while the others go on.

    Example: testbed bench catch-up --blocks 10000
    """
    result = catching_up.measure(
        catching_up.BenchPlan(
            replicas=replicas, in_flight=in_flight, payload_bytes=payload, blocks=blocks
        ),
        say,
    )
    rows = [
        ("blocks behind when it was back", f"{result.behind_blocks:,}"),
        ("chain, blocks/s, before it came back", f"{result.live_per_s:,.0f}"),
        ("chain, blocks/s, meanwhile", f"{result.live_per_s_meanwhile:,.0f}"),
        ("caught up, blocks/s", f"{result.caught_up_per_s:,.0f}"),
        ("ratio to the chain", f"{result.ratio:.1f}"),
        ("seconds", f"{result.took_s:.1f}"),
        ("seconds until it listened", f"{result.start_s:.1f}"),
    ]
    print_found(result, columns(rows), as_json=as_json)


def _readable(result: BenchResult) -> str:
    latency, alone = result.latency_ms, result.alone_ms
    return columns(
        [
            ("requests/s", f"{result.requests_per_s:,.0f}"),
            ("verification limit/s", f"{result.limit_per_s or 0:,.0f}"),
            ("ratio to the limit", f"{result.ratio or 0:.2f}"),
            ("the same in CPU time", f"{result.cpu_ratio or 0:.2f}"),
            ("latency p50 / p90 / p99 ms", f"{latency.p50} / {latency.p90} / {latency.p99}"),
            ("one request alone p50 / p99 ms", f"{alone.p50} / {alone.p99}"),
            *((f"  until {hop.until}, p50 ms", f"{hop.p50_ms}") for hop in result.alone_hops),
            ("enrolments/s", f"{result.enrolments_per_s:,.0f}"),
            ("CPU us per request per replica", f"{result.cpu_us_per_request:.0f}"),
            ("CPU us per request, client", f"{result.cpu_us_client:.0f}"),
            ("requests per block", f"{result.requests / max(result.blocks, 1):.1f}"),
            ("RSS MB per replica, start", " ".join(map(str, result.rss_mb_start))),
            ("RSS MB per replica, end", " ".join(map(str, result.rss_mb_end))),
        ]
    )
