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
from testbed.commands.fleet import CheckOption, LimitOption, Shown, on_hosts, show
from testbed.commands.options import InventoryOption, JsonOption, time_option
from testbed.errors import LockedError
from testbed.fleet import Outcome, Progress, Tell, exit_code, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host

__all__ = ["app", "unlock_app"]

LOCK_MAX = "7d"
ASK_AGAIN_S = 2.0
"""While `--wait` waits for somebody else's lease to end."""

_SHOWN: Shown[str] = Shown(("RESULT",), lambda result: (result,), lambda result: {"result": result})

app = typer.Typer(add_completion=False)
unlock_app = typer.Typer(add_completion=False)


@app.command()
def lock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    for_ms: Annotated[
        float, time_option("--for", "As 30m, 2h, 1d.", least="1s", most=LOCK_MAX, default="2h")
    ] = 7_200_000,
    wait_ms: Annotated[
        float, time_option("--wait", "Wait so long until the hosts are free.", most=LOCK_MAX)
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Keep a lab's hosts for yourself; your own commands go on, others' are refused.

    All of the hosts or none. Again: a new time. Exit code 5 if somebody else has one.
    """
    lab = load_lab(inventory)
    began_s = time.monotonic()
    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        while True:
            outcomes = _lock_all(hosts, for_ms / 1000)
            others = [str(o.error) for o in outcomes if isinstance(o.error, LockedError)]
            if not others or time.monotonic() - began_s >= wait_ms / 1000:
                break
            typer.echo(f"waiting: {others[0]}", err=True)
            time.sleep(ASK_AGAIN_S)
    again = ["lock", "--for", duration_text(for_ms), *(["--limit", limit] if limit else [])]
    took_s = time.monotonic() - began_s
    show(outcomes, took_s, _SHOWN, again, as_json=as_json, together=True)
    raise typer.Exit(_code(outcomes))


def _lock_all(hosts: Mapping[str, Host], lease_s: float) -> list[Outcome[str]]:
    token = secrets.token_hex(16)

    def work(host: Host, tell: Tell) -> str:
        tell("locking")
        claim(host, token, me(person=True), round(lease_s))
        return f"yours for {duration_text(lease_s * 1000)}"

    def give_back() -> list[Outcome[None]]:
        return for_each(hosts, lambda host, _: release(host, token), Progress("undo", quiet=True))

    try:
        outcomes = for_each(hosts, work, Progress("lock", quiet=True))
    except BaseException:  # Ctrl-C
        give_back()
        raise
    if all(outcome.ok for outcome in outcomes):
        return outcomes
    free = [outcome.host for outcome in give_back() if outcome.ok]
    return [
        replace(o, value="given back" if o.host in free else "not given back: unlock it")
        if o.ok
        else o
        for o in outcomes
    ]


@unlock_app.command()
def unlock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Also what others have; restores the hosts first.")
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give hosts back that you locked. Exit code 5 if somebody else has one (the name is shown)."""

    def work(host: Host, tell: Tell) -> str:
        tell("looking")
        present = holder(host)
        if present is None:
            return "was free"
        theirs = not (present.is_mine or present.is_gone)
        if theirs and not takeover:
            raise LockedError(f"{host.name} is taken by {present}")
        if check:
            return f"would be taken from {present}"
        if takeover:
            restore(host, tell)
        break_lease(host, takeover=takeover)
        return f"taken from {present.who}" if theirs else "given back"

    options = {"--takeover": takeover, "--check": check}
    command = ["unlock", *(name for name, given in options.items() if given)]
    outcomes = on_hosts(command, load_lab(inventory), limit, work, _SHOWN, as_json=as_json)
    raise typer.Exit(_code(outcomes))


def _code(outcomes: list[Outcome[str]]) -> int:
    if any(isinstance(outcome.error, LockedError) for outcome in outcomes):
        return LockedError.exit_code
    return exit_code(outcomes)
