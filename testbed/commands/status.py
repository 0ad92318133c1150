"""`testbed status`: what stands on the hosts of a lab right now; changes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import typer

from inventory.load import load_lab
from testbed.care.lease import Holder, holder
from testbed.care.restore import Leftover, leftover
from testbed.commands.fleet import LimitOption, report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption
from testbed.fleet import Progress, Tell, exit_code, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.probe import probe
from testbed.provision.ready import staleness
from testbed.wheelhouse import Wheelhouse

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class _Status:
    lack: str
    holder: Holder | None
    found: Leftover


@app.command()
def status(
    inventory: InventoryOption = None, limit: LimitOption = None, as_json: JsonOption = False
) -> None:
    """Who has each host, whether it is ready for a run, and what of ours runs or stands there.

    Exit code 0 all hosts answered, 4 some did not, 3 none did.
    """
    lab = load_lab(inventory)
    wheelhouse = Wheelhouse()
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> _Status:
        tell("looking")
        return _Status(staleness(probe(host), wheelhouse), holder(host), leftover(host))

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("status", quiet=True))
    if as_json:
        report_json(outcomes, time.monotonic() - began_s, _details)
    else:
        report_text(outcomes, ("READY", "HELD BY", "STANDING"), _cells, ["status"], inventory)
    for out in lab.excluded():
        if not as_json:
            typer.echo(f"left out: {out.name}: {out.reason}")
    raise typer.Exit(exit_code(outcomes))


def _cells(status: _Status) -> tuple[str, ...]:
    held = str(status.holder) if status.holder else "nobody"
    return status.lack or "ready", held, status.found.brief


def _details(status: _Status) -> dict[str, Any]:
    held = status.holder
    return {
        "ready": not status.lack,
        "lack": status.lack or None,
        "holder": None
        if held is None
        else {"who": held.who, "pid": held.pid, "what": held.what, "left_s": held.left_s},
        "standing": status.found.lines,
    }
