"""`testbed lock`: keep a lab for yourself. `testbed unlock` gives it back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import typer

from inventory.duration import duration_text
from inventory.load import load_lab
from testbed.care.lease import claim, me, release, require_free
from testbed.commands.fleet import (
    LEASES_SHOWN,
    LimitOption,
    lease_exit_code,
    show,
)
from testbed.commands.options import CheckOption, InventoryOption, JsonOption, time_option
from testbed.errors import LockedError
from testbed.fleet import HostOutcome, Step, for_each
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host

__all__ = ["lock"]

LOCK_MAX = "7d"
ASK_AGAIN_S = 2.0
"""How often `--wait` asks whether somebody else's lease has ended."""


def lock(
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    *,
    for_ms: Annotated[
        float,
        time_option("--for", "For example 30m, 2h, 1d.", least="1s", most=LOCK_MAX, default="2h"),
    ] = 7_200_000,
    wait_ms: Annotated[
        float,
        time_option("--wait", "Wait at most this long until the hosts are free.", most=LOCK_MAX),
    ] = 0,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Reserve a lab's hosts: your own commands work, those of others are refused.

    Either all hosts are locked or none. Locking again sets a new time. Exit code 5 if somebody else
    has a host.
    """
    lab = load_lab(inventory)
    began_s = time.monotonic()
    with ssh_hosts(lab, limited(lab, limit)) as hosts:
        while True:
            outcomes = _look(hosts, for_ms) if check else _lock_all(hosts, for_ms / 1000)
            others = [str(o.error) for o in outcomes if isinstance(o.error, LockedError)]
            if not others or time.monotonic() - began_s >= wait_ms / 1000:
                break
            typer.echo(f"waiting: {others[0]}", err=True)
            time.sleep(ASK_AGAIN_S)
    again = ["lock", "--for", duration_text(for_ms), *(["--limit", limit] if limit else [])]
    again += ["--check"] if check else []
    took_s = time.monotonic() - began_s
    show(outcomes, took_s, LEASES_SHOWN, again, as_json=as_json, together=True)
    raise typer.Exit(lease_exit_code(outcomes))


def _look(hosts: Mapping[str, Host], for_ms: float) -> list[HostOutcome[str]]:
    def work(host: Host, step: Step) -> str:
        step("looking")
        require_free(host)
        return f"would be yours for {duration_text(for_ms)}"

    return for_each(hosts, work)


def _lock_all(hosts: Mapping[str, Host], lease_s: float) -> list[HostOutcome[str]]:
    token = secrets.token_hex(16)

    def work(host: Host, step: Step) -> str:
        step("locking")
        claim(host, token, me(person=True), round(lease_s))
        return f"yours for {duration_text(lease_s * 1000)}"

    def give_back() -> list[HostOutcome[None]]:
        return for_each(hosts, lambda host, _: release(host, token))

    try:
        outcomes = for_each(hosts, work)
    except BaseException:  # Ctrl-C
        give_back()
        raise
    if all(outcome.ok for outcome in outcomes):
        return outcomes
    free = [outcome.host for outcome in give_back() if outcome.ok]
    return [
        replace(o, value="given back" if o.host in free else "not released: unlock it")
        if o.ok
        else o
        for o in outcomes
    ]
