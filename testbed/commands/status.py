"""`testbed status`: what stands on the hosts of a lab right now; changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import typer

from inventory.load import load_lab, packaged
from testbed.boards.power import is_on
from testbed.care.lease import Holder, holder
from testbed.care.restore import Leftover, leftover
from testbed.commands.fleet import LimitOption, Shown, on_hosts
from testbed.commands.options import InventoryOption, JsonOption
from testbed.fleet import Tell, exit_code
from testbed.hosts.port import Host
from testbed.provision.probe import probe
from testbed.provision.ready import staleness
from testbed.wheelhouse import Wheelhouse

__all__ = ["app"]

app = typer.Typer(add_completion=False)


_NOTHING = Leftover()


@dataclass(frozen=True)
class _Status:
    """`powered`: None if nothing can tell. A host without power is not asked for the rest."""

    powered: bool | None
    lack: str = ""
    holder: Holder | None = None
    standing: Leftover = _NOTHING


@app.command()
def status(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Who has each host, whether it has power and is ready for a run, what of ours stands there.

    Exit code 0 all hosts answered or are switched off, 4 some did not, 3 none did.
    """
    lab = load_lab(inventory)
    wheelhouse = Wheelhouse()
    path = (inventory or packaged("loopback")).absolute()

    def work(host: Host, tell: Tell) -> _Status:
        tell("looking")
        powered = is_on(lab, host.name, path)
        if powered is False:
            return _Status(powered)
        lack = staleness(probe(host), wheelhouse)
        return _Status(powered, lack, holder(host), leftover(host))

    shown = Shown(("READY", "POWER", "HELD BY", "STANDING"), _cells, _details)
    outcomes = on_hosts(["status"], lab, limit, work, shown, as_json=as_json)
    if not as_json:
        for out in lab.excluded():
            typer.echo(f"left out: {out.name}: {out.reason}")
    raise typer.Exit(exit_code(outcomes))


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
        "holder": None
        if held is None
        else {"who": held.who, "pid": held.pid, "what": held.what, "left_s": held.left_s},
        "standing": status.standing.lines,
    }
