"""`testbed board list`: the sensor boards of a lab, and whether their devices read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import typer

from inventory.load import load_lab
from inventory.model import Lab
from testbed.boards.state import BoardSeen, BoardState, look_at_boards
from testbed.commands.board_table import board_table
from testbed.commands.options import InventoryOption, JsonOption, print_json
from testbed.fleet import HostOutcome, Step, exit_code, for_each, problems
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import Host
from testbed.printed import as_typed
from testbed.provision.layout import unit_of
from testbed.standing.attached import hosts_of
from testbed.standing.control import Look, ask
from testbed.standing.running_lab import RunningLab, newest_running

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True)


@app.callback()
def board() -> None:
    """Show the sensor boards of a lab."""


@app.command("list")
def list_boards(inventory: InventoryOption = None, as_json: JsonOption = False) -> None:
    """Show each sensor board: host, port, firmware, which process reads it and since when, and its
    last reading.

    The boards are those of the lab that is up; if none is up, those of the inventory. Ports are
    found by the boards' identity. Changes nothing. Exit code 0 all hosts answered, 4 some did not,
    3 none did.
    """
    running = newest_running(inventory)
    lab = load_lab(inventory) if running is None else running.lab
    processes = {} if running is None else ask(Path(running.home), Look())

    def work(host: Host, step: Step) -> list[BoardSeen]:
        step("looking")

        def runs(name: str) -> bool:
            if running is not None:
                return processes[name].pid is not None
            return unit_of(name) in host.units()  # perhaps of a campaign

        return look_at_boards(lab, host, runs)

    with _hosts(lab, running) as hosts:
        outcomes = for_each(hosts, work)
    found = _all(lab, outcomes)
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        typer.echo(board_table(found) if found else "this lab has no sensor boards")
        for problem in problems(outcomes):
            typer.echo(as_typed(problem), err=True)
    raise typer.Exit(exit_code(outcomes))


@contextmanager
def _hosts(lab: Lab, running: RunningLab | None) -> Iterator[Mapping[str, Host]]:
    """The hosts that have boards. A host on this machine exists only while its lab is up."""
    names = dict.fromkeys(board.host for board in lab.boards_in_use().values())
    if running is not None:
        with hosts_of(running) as hosts:
            yield {name: hosts[name] for name in names}
    else:
        remote = [name for name in names if lab.hosts[name].connection == "ssh"]
        with ssh_hosts(lab, remote) as hosts:
            yield hosts


def _all(lab: Lab, outcomes: list[HostOutcome[list[BoardSeen]]]) -> list[BoardSeen]:
    """Every board of the inventory, in file order."""
    seen = {board.name: board for out in outcomes for board in out.value or ()}
    silent = {out.host: out.problem for out in outcomes if not out.ok}
    excluded = {out.name: out.reason for out in lab.excluded()}
    found = []
    for name, board in lab.boards.items():
        if name in seen:
            found.append(seen[name])
            continue
        state, why = BoardState.NOT_READ, "a process that starts with the lab"
        if name in excluded:
            state, why = BoardState.LEFT_OUT, excluded[name]
        elif board.host in silent:
            state, why = BoardState.UNKNOWN, f"{board.host} did not answer"
        found.append(BoardSeen(name=name, host=board.host, state=state, why=why))
    return found
