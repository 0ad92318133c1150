"""`testbed bench provision`: how long it takes to provision hosts; on an emulated lab, as root."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from testbed.bench.provisioning import Provisioning, measure_provisioning
from testbed.commands.options import JsonOption, columns, print_found
from testbed.emulate.plan import HOSTS_MAX

__all__ = ["provision"]


def provision(
    hosts: Annotated[int, typer.Option(min=4, max=HOSTS_MAX, help="Emulated hosts.")] = 6,
    as_json: JsonOption = False,
) -> None:
    """Measure how long it takes to provision emulated hosts, from nothing and again."""
    result = measure_provisioning(hosts)
    found = msgspec.structs.asdict(result) | {"ratio": round(result.ratio, 2)}
    print_found(found, _readable(result), as_json=as_json)


def _readable(result: Provisioning) -> str:
    rows = [
        (f"{result.hosts} hosts from nothing s", f"{result.all_s:.1f}"),
        ("one host from nothing s", f"{result.one_s:.1f}"),
        (f"ratio {result.hosts} : 1", f"{result.ratio:.1f}"),
        (f"{result.hosts} hosts unchanged s", f"{result.again_s:.1f}"),
        ("deployed tree MB", f"{result.tree_mb:.0f}"),
        (
            "replica process, idle: RSS / PSS MB",
            f"{result.replica_rss_mb:.0f} / {result.replica_pss_mb:.0f}",
        ),
    ]
    steps = list(dict.fromkeys(step for one in result.steps_s.values() for step in one))
    table = [("HOST", *steps)]
    for host, took in result.steps_s.items():
        table.append((host, *(f"{took.get(step, 0.0):.1f}" for step in steps)))
    return f"{columns(rows)}\n\n{columns(table)}"
