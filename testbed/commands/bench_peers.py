"""`testbed bench peers|against|views`: comparisons with BFT-SMaRt and with another checkout of this
project; the cost of view changes with many replicas."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Annotated, Literal

import msgspec
import typer

from chain.quorum import REPLICAS_MIN
from testbed.bench import against as beside
from testbed.bench import consensus
from testbed.bench.peers import PeerWorkload, hosts, measure_bft_smart, settings
from testbed.bench.view_changes import ViewChangeCost, measure_view_changes
from testbed.commands.bench_consensus import InFlight, Replicas, Store
from testbed.commands.options import JsonOption, markdown, print_found, say
from testbed.report.pairing import estimate_in_words, plain

__all__ = ["against", "peers", "views"]

_REPLICAS_MOST = 123  # so many that a NEW-VIEW fits into a frame


def peers(
    *,
    bft_smart: Annotated[
        Path,
        typer.Option("--bft-smart", metavar="DIR", help="Your BFT-SMaRt: smartrun.sh, config/."),
    ],
    clients: Annotated[
        int, typer.Option(min=1, max=10_000, help="Clients, each with one request.")
    ] = 200,
    operations: Annotated[
        int, typer.Option(min=40, max=1_000_000, help="Operations of each client of BFT-SMaRt.")
    ] = 1000,
    payload: Annotated[int, typer.Option(min=300, max=4096, help="Bytes of a request.")] = 512,
    signatures: Annotated[
        Literal["ecdsa", "default", "nosig"],
        typer.Option(help="The benchmark signs, not BFT-SMaRt."),
    ] = "nosig",
    store: Annotated[
        Literal["sqlite", "memory"], typer.Option(help="sqlite: both sync; memory: neither does.")
    ] = "sqlite",
    as_json: JsonOption = False,
) -> None:
    """Run BFT-SMaRt's micro-benchmark from your own build, then this project, on this machine.

    It needs java, and a config/hosts.config with at least four replicas on 127.0.0.1. Both are
    measured in this run. testbed/bench/README.md says what must be equal.
    """
    build = bft_smart.absolute()
    replicas = len(hosts(build))
    asked = PeerWorkload(
        clients=clients,
        operations=operations,
        payload_bytes=payload,
        signatures=signatures,
        write="rwd" if store == "sqlite" else "",
    )
    theirs = measure_bft_smart(build, asked, say)
    alone = measure_bft_smart(build, msgspec.structs.replace(asked, clients=1), say)
    plan = consensus.BenchPlan(
        replicas=replicas, in_flight=clients, payload_bytes=payload, store=store, limit=False
    )
    ours = consensus.measure(plan, say)
    found = {
        "bft-smart": theirs,
        "bft-smart-alone": alone,
        "bft-smart-settings": settings(build),
        "testbed": ours,
    }
    said = ", ".join(f"{name} = {value}" for name, value in settings(build).items())
    rows = [
        ("", "requests/s", "one request alone, ms"),
        ("BFT-SMaRt", f"{theirs.requests_per_s:,.0f}", f"{alone.latency_ms:.2f} (mean)"),
        ("this project", f"{ours.requests_per_s:,.0f}", f"{ours.alone_ms.p50:.2f} (p50)"),
    ]
    print_found(found, f"BFT-SMaRt's config: {said}\n\n{markdown(rows)}", as_json=as_json)


def against(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The other checkout, with its .venv.")
    ],
    *,
    store: Store = "sqlite",
    replicas: Replicas = 4,
    in_flight: InFlight = 1000,
    pairs: Annotated[
        int, typer.Option(min=1, help="Turns of each. An interval needs 6 or more.")
    ] = 9,
    alone: Annotated[int, typer.Option(min=1, help="Requests of a turn, one at a time.")] = 500,
    requests: Annotated[int, typer.Option(min=1, help="Requests of a turn, under load.")] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Compare this checkout with another one, in turns. Prints ratios of neighbouring turns.

    Example: testbed bench against ../testbed-before --store memory
    """
    plan = beside.BenchPlan(
        directory=str(directory),
        store=store,
        replicas=replicas,
        in_flight=in_flight,
        pairs=pairs,
        alone_requests=alone,
        turn_requests=requests,
    )
    result = beside.measure(plan, say)
    rows = [
        (
            each.figure,
            plain(median(each.theirs)),
            plain(median(each.ours)),
            estimate_in_words(each.ratio),
            each.goal,
        )
        for each in result.compared
    ]
    table = markdown([("", "theirs", "ours", "ratio [95 %]", "goal"), *rows])
    print_found(result, table, as_json=as_json)


def views(
    *,
    replicas: Annotated[
        list[int] | None,
        typer.Option(min=REPLICAS_MIN, max=_REPLICAS_MOST, help="Repeatable; default: 64 and 100."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change the view of many replicas in simulated time: messages, bytes and memory, by kind.

    Example: testbed bench views --replicas 16 --replicas 31
    """
    results = []
    for number in replicas or [64, 100]:
        say(f"{number} replicas")
        results.append(measure_view_changes(number))
    print_found(results, _readable(results), as_json=as_json)


def _readable(results: list[ViewChangeCost]) -> str:
    rows: list[tuple[object, ...]] = [("replicas", "kind", "messages", "largest, B", "MB in all")]
    for result in results:
        rows += [
            (
                result.replicas,
                kind,
                f"{count:,}",
                f"{result.largest[kind]:,}",
                _mb(result.bytes[kind]),
            )
            for kind, count in sorted(
                result.messages.items(), key=lambda each: -result.bytes[each[0]]
            )
        ]
    sums: list[tuple[object, ...]] = [
        ("replicas", "views", "simulated s", "messages", "MB in all", "MB to each", "MB of memory")
    ]
    sums += [
        (
            result.replicas,
            result.views,
            result.seconds,
            f"{sum(result.messages.values()):,}",
            _mb(sum(result.bytes.values())),
            _mb(result.received_bytes),
            _mb(result.rss_growth_bytes),
        )
        for result in results
    ]
    return f"{markdown(sums)}\n\n{markdown(rows)}"


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f}"
