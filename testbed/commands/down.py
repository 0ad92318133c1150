"""`testbed down`: end the lab that `testbed up` keeps running."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from testbed.commands.options import (
    CheckOption,
    JsonOption,
    RunningOption,
    print_found,
    say,
    say_which,
)
from testbed.errors import LabFault
from testbed.hosts.port import STOP_TIMEOUT_S
from testbed.provision.deployment import STOP_ORDER
from testbed.standing.bundle import collect_running
from testbed.standing.running_lab import RunningLab, newest_running

__all__ = ["down"]

END_S_MAX = 30.0 + STOP_TIMEOUT_S * len(STOP_ORDER)
POLL_S = 0.1


def down(
    inventory: RunningOption = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="First write a result bundle here, as `collect` does."),
    ] = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Stop every process of a lab that is up, and delete its directory with ledgers, logs and keys.

    If no lab is up, there is nothing to do, and the exit code is 0.
    """
    found = newest_running(inventory)
    if found is None:
        print_found({"ended": None}, "no lab is up: nothing to do", as_json=as_json)
        return
    if check:
        _say_what_ends(found, as_json=as_json)
        return
    say_which(found, inventory)
    kept = None if keep is None else str(collect_running(found, keep, say).path)
    _end(found)
    text = "down; ledgers, logs and keys are deleted (--keep DIR keeps ledgers and logs)"
    if kept is not None:
        text = f"down; keys are deleted, ledgers and logs are in {kept}"
    ended = {"pid": found.pid, "home": found.home, "kept": kept}
    print_found({"ended": ended}, text, as_json=as_json)


def _say_what_ends(running: RunningLab, *, as_json: bool) -> None:
    found = {"would_end": {"pid": running.pid, "home": running.home}}
    text = (
        f"would stop {', '.join(running.nodes)} of {running.inventory}\n"
        f"would delete {running.home}: ledgers, logs and keys (--keep DIR keeps some)"
    )
    print_found(found, text, as_json=as_json)


def _end(running: RunningLab) -> None:
    os.kill(running.pid, signal.SIGTERM)
    os.kill(running.pid, signal.SIGCONT)  # a stopped process gets the signal only when it continues
    deadline_s = time.monotonic() + END_S_MAX
    while Path(running.home).exists():
        if time.monotonic() > deadline_s:
            raise LabFault(f"process {running.pid} has not ended within {END_S_MAX:.0f} s")
        time.sleep(POLL_S)
