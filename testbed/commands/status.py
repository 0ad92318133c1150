"""`testbed status`: shows what is on the hosts of a lab now; changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import msgspec
import typer

from inventory.load import load_lab, packaged
from testbed.boards.power import is_on
from testbed.boards.state import BoardSeen, look_at_boards
from testbed.care.lease import Holder, holder
from testbed.care.restore import Leftover, leftover
from testbed.commands.board_table import board_table
from testbed.commands.fleet import LimitOption, Shown, on_hosts
from testbed.commands.options import InventoryOption, JsonOption, columns
from testbed.fleet import Step, exit_code
from testbed.hosts.opening import limited
from testbed.hosts.port import Host, UnitState
from testbed.printed import as_typed
from testbed.provision.probe import probe
from testbed.provision.ready import staleness
from testbed.standing.running_lab import newest_running
from testbed.standing.state import NodeState, look, without_votes
from testbed.wheelhouse import Wheelhouse

__all__ = ["status"]


_NOTHING = Leftover()


@dataclass(frozen=True)
class _Status:
    """`powered`: None if it is not known. A host without power is not asked for the rest."""

    powered: bool | None
    lack: str = ""
    holder: Holder | None = None
    standing: Leftover = _NOTHING
    boards: Sequence[BoardSeen] = ()


def status(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Show each host's user, power, readiness for a run, and our processes and files there.

    For a lab that is up (`testbed up`), also show the state and restarts of every process, and who
    reads each sensor board. Start time, height, memory and files are known only for processes on
    this machine; for others the table has "-". Exit code 0 all hosts answered or are switched off,
    4 some did not, 3 none did.
    """
    running = newest_running(inventory)
    lab = load_lab(inventory) if running is None else running.lab
    wheelhouse = Wheelhouse()
    path = (inventory or packaged("loopback")).absolute()
    states = [] if running is None else look(running)
    active = {state.name for state in states if state.process.pid is not None}

    def work(host: Host, step: Step) -> _Status:
        step("looking")
        powered = is_on(lab, host.name, path)
        if powered is False:
            return _Status(powered)
        lack = staleness(probe(host), wheelhouse)
        boards = [] if running is None else look_at_boards(lab, host, active.__contains__)
        return _Status(powered, lack, holder(host), leftover(host), boards)

    shown = Shown(("READY", "POWER", "HELD BY", "STANDING"), _cells, _details)
    more = {"processes": msgspec.to_builtins(states)}
    only_here = running is not None and not limited(lab, limit)
    outcomes = (
        []
        if only_here and not as_json
        else on_hosts(["status"], lab, limit, work, shown, as_json=as_json, more=more)
    )
    if not as_json:
        if running is not None:
            typer.echo(f"up: {running.in_words}")
            typer.echo(columns([_HEADING, *map(_row, states)]))
            if lost := without_votes(states):
                typer.echo(as_typed(lost))
            boards = [board for out in outcomes if out.value for board in out.value.boards]
            if boards:
                typer.echo(board_table(boards))
        for out in lab.excluded():
            typer.echo(f"left out: {out.name}: {out.reason}")
    raise typer.Exit(exit_code(outcomes))


_HEADING = (
    *("PROCESS", "ROLE", "STATE", "PID", "SINCE", "RESTARTS"),
    *("HEIGHT", "LAG", "MEMORY MB", "FILES", "DISK MB"),
)


def _row(state: NodeState) -> tuple[str, ...]:
    process = state.process
    since = "" if state.since_s is None else f"{datetime.fromtimestamp(state.since_s):%d %H:%M:%S}"
    megabytes = (
        "" if each is None else f"{each / 1e6:.1f}"
        for each in (state.memory_bytes, state.disk_bytes)
    )
    memory, disk = megabytes
    given_up = process.state is UnitState.FAILED
    counts = (process.restarts, state.height, state.lag, memory, state.files, disk)
    return (
        state.name,
        state.role,
        f"given up ({process.exit_code})" if given_up else str(process.state),
        str(process.pid or "-"),
        since or "-",
        *("-" if each in (None, "") else str(each) for each in counts),
    )


def _cells(status: _Status) -> tuple[str, ...]:
    if status.powered is False:
        return "switched off", "off", "-", "-"
    power = "on" if status.powered else "-"
    return status.lack or "ready", power, str(status.holder or "nobody"), status.standing.brief


def _details(status: _Status) -> dict[str, Any]:
    held = status.holder
    return {
        "ready": status.powered is not False and not status.lack,
        "lack": status.lack or None,
        "powered": status.powered,
        "holder": None if held is None else asdict(held),
        "standing": status.standing.lines,
        "boards": msgspec.to_builtins(status.boards),
    }
