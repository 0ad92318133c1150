"""`testbed lock` and `testbed unlock`: keep a lab for yourself, and give it back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import typer

from inventory.duration import duration_text
from inventory.load import load_lab
from testbed.care.lease import break_lease, claim, holder, me, release
from testbed.care.restore import restore
from testbed.commands.fleet import LimitOption, report_json, report_text
from testbed.commands.options import InventoryOption, JsonOption, time_option
from testbed.errors import LockedError
from testbed.fleet import Outcome, Progress, Tell, exit_code, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host

__all__ = ["app", "unlock_app"]

LOCK_MAX = "7d"

app = typer.Typer(add_completion=False)
unlock_app = typer.Typer(add_completion=False)


@app.command()
def lock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    for_ms: Annotated[
        float, time_option("--for", "As 30m, 2h, 1d.", least="1s", most=LOCK_MAX, default="2h")
    ] = 7_200_000,
    as_json: JsonOption = False,
) -> None:
    """Keep a lab's hosts for yourself; your own commands go on, others' are refused.

    All of the hosts or none. Again: a new time. Exit code 5 if somebody else has one.
    """
    lab = load_lab(inventory)
    shown = duration_text(for_ms)
    token = secrets.token_hex(16)
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> str:
        tell("locking")
        claim(host, token, me(person=True), round(for_ms / 1000))
        return f"yours for {shown}"

    def give_back(hosts: Mapping[str, Host]) -> list[Outcome[None]]:
        return for_each(hosts, lambda host, _: release(host, token), Progress("undo", quiet=True))

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        try:
            outcomes = for_each(hosts, work, Progress("lock", quiet=True))
        except BaseException:  # Ctrl-C
            give_back(hosts)
            raise
        bad = [outcome for outcome in outcomes if not outcome.ok]
        if bad:
            undone = give_back(hosts)
            free = [outcome.host for outcome in undone if outcome.ok]
            outcomes = [
                replace(o, value="given back" if o.host in free else "not given back: unlock it")
                if o.ok
                else o
                for o in outcomes
            ]
    if as_json:
        report_json(outcomes, time.monotonic() - began_s, lambda told: {"result": told})
    else:
        again = ["lock", "--for", shown, *(["--limit", limit] if limit else [])]
        heading, cells = ("RESULT",), lambda told: (told,)
        report_text(outcomes, heading, cells, again, inventory, together=True)
    raise typer.Exit(_code(outcomes))


@unlock_app.command()
def unlock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Also what others have; restores the hosts first.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Give hosts back that you locked. Exit code 5 if somebody else has one (his name is shown)."""
    lab = load_lab(inventory)
    began_s = time.monotonic()

    def work(host: Host, tell: Tell) -> str:
        tell("looking")
        present = holder(host)
        if present is None:
            return "was free"
        theirs = not (present.is_mine or present.is_gone)
        if theirs and not takeover:
            raise LockedError(f"{host.name} is taken by {present}")
        if takeover:
            restore(host, tell)
        break_lease(host, takeover=takeover)
        return f"taken from {present.who}" if theirs else "given back"

    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        outcomes = for_each(hosts, work, Progress("unlock", quiet=True))
    if as_json:
        report_json(outcomes, time.monotonic() - began_s, lambda told: {"result": told})
    else:
        again = ["unlock", "--takeover"] if takeover else ["unlock"]
        report_text(outcomes, ("RESULT",), lambda told: (told,), again, inventory)
    raise typer.Exit(_code(outcomes))


def _code(outcomes: list[Outcome[str]]) -> int:
    if any(isinstance(outcome.error, LockedError) for outcome in outcomes):
        return LockedError.exit_code
    return exit_code(outcomes)
