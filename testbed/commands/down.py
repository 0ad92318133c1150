"""`testbed down`: end the lab that `testbed up` keeps running."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import typer

from testbed.commands.options import JsonOption, RunningOption, print_json
from testbed.errors import LabFault
from testbed.standing.running_lab import RunningLab, newest_running

__all__ = ["app"]

END_S_MAX = 60.0
POLL_S = 0.1

app = typer.Typer(add_completion=False)


@app.command()
def down(inventory: RunningOption = None, as_json: JsonOption = False) -> None:
    """Stop every process of a lab that is up; its directory, keys included, is gone then.

    If none is up there is nothing to do, which is no mistake.
    """
    found = newest_running(inventory)
    if found is not None:
        _end(found)
    if as_json:
        print_json({"ended": None if found is None else {"pid": found.pid, "home": found.home}})
    else:
        typer.echo("no lab is up: nothing to do" if found is None else "down")


def _end(running: RunningLab) -> None:
    os.kill(running.pid, signal.SIGTERM)
    os.kill(running.pid, signal.SIGCONT)  # a stopped process would end when it is continued
    deadline_s = time.monotonic() + END_S_MAX
    while Path(running.home).exists():
        if time.monotonic() > deadline_s:
            raise LabFault(f"process {running.pid} has not ended within {END_S_MAX:.0f} s")
        time.sleep(POLL_S)
