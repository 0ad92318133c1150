"""The shared parts of commands that work on many hosts: `--limit`, the table, failures, how to
retry."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from inventory.model import Lab
from testbed.commands.options import columns, print_json
from testbed.errors import LockedError
from testbed.fleet import FleetTable, HostOutcome, Step, exit_code, for_each, problems
from testbed.hosts.opening import limited, ssh_hosts
from testbed.printed import as_typed

if TYPE_CHECKING:  # slow to import
    from testbed.hosts.ssh import SshHost

__all__ = [
    "LEASES_SHOWN",
    "LimitOption",
    "Shown",
    "lease_exit_code",
    "on_hosts",
    "show",
]

LimitOption = Annotated[
    str | None,
    typer.Option(
        "--limit", metavar="HOSTS", help="Only these: pi01,pi02 or role:replica or cap:netem."
    ),
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Shown(Generic[T]):
    """How a command shows each host: cells of a table for people, a mapping for machines. `each`:
    the noun for a row, if it is not a host."""

    heading: tuple[str, ...]
    cells: Callable[[T], Sequence[str]]
    details: Callable[[T], dict[str, Any]]
    each: str = "HOST"


def on_hosts(
    command: Sequence[str],
    lab: Lab,
    limit: str | None,
    work: Callable[[SshHost, Step], T],
    shown: Shown[T],
    *,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> list[HostOutcome[T]]:
    """Do `work` on a lab's hosts and report it. `command`: the words that retry it. `more` is added
    to the JSON beside the hosts."""
    began_s = time.monotonic()
    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        progress = FleetTable(command[0], quiet=as_json)
        outcomes = for_each(hosts, work, progress, lambda value: shown.cells(value)[0])
    show(outcomes, time.monotonic() - began_s, shown, command, as_json=as_json, more=more)
    return outcomes


def show(
    outcomes: Sequence[HostOutcome[T]],
    took_s: float,
    shown: Shown[T],
    command: Sequence[str],
    *,
    as_json: bool,
    together: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Report the results of all hosts. `together`: the work is done on all of them or on none."""
    if as_json:
        _print_json(outcomes, took_s, shown, more or {})
    else:
        _print_table(outcomes, shown, command, together=together)


def _print_json(
    outcomes: Sequence[HostOutcome[T]], took_s: float, shown: Shown[T], more: Mapping[str, Any]
) -> None:
    print_json(
        {
            "ok": all(outcome.ok for outcome in outcomes),
            "took_s": round(took_s, 3),
            "hosts": {
                outcome.host: {
                    "ok": outcome.ok,
                    "problem": as_typed(outcome.problem) or None,
                    "took_s": round(outcome.took_s, 3),
                    "steps_s": dict(outcome.steps_s),
                    **(shown.details(outcome.value) if outcome.value is not None else {}),
                }
                for outcome in outcomes
            },
            **more,
        }
    )


def _print_table(
    outcomes: Sequence[HostOutcome[T]], shown: Shown[T], command: Sequence[str], *, together: bool
) -> None:
    """Prints one row per host. Below are the failures (hosts with the same failure together) and
    the command that retries: for the hosts that failed, or unchanged with `together`."""
    rows: list[Sequence[str]] = [(shown.each, *shown.heading, "SECONDS")]
    for outcome in outcomes:
        failed = ["FAILED", *["-"] * (len(shown.heading) - 1)]
        shown_cells = shown.cells(outcome.value) if outcome.value is not None else failed
        steps = ", ".join(f"{what} {seconds:.1f}" for what, seconds in outcome.steps_s)
        took = f"{outcome.took_s:.1f} ({steps})" if steps else f"{outcome.took_s:.1f}"
        rows.append((outcome.host, *shown_cells, took))
    typer.echo(columns(rows) if outcomes else "nothing to do: no host is reached over SSH")
    for problem in problems(outcomes):
        typer.echo(as_typed(f"\n{problem}"), err=True)
    bad = [outcome.host for outcome in outcomes if not outcome.ok]
    if bad:
        only = "" if together else f" --limit {','.join(bad)}"
        again = f"\nretry: testbed {shlex.join(command)} -i FILE{only}"
        typer.echo(as_typed(again), err=True)


LEASES_SHOWN: Shown[str] = Shown(
    ("RESULT",), lambda result: (result,), lambda result: {"result": result}
)


def lease_exit_code(outcomes: Sequence[HostOutcome[str]]) -> int:
    """5 if somebody else has one of the hosts; otherwise as for all commands."""
    if any(isinstance(outcome.error, LockedError) for outcome in outcomes):
        return LockedError.exit_code
    return exit_code(outcomes)
