"""`testbed down`: end the bench that `testbed up` started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from testbed.commands.options import JsonOption, print_json
from testbed.errors import LabFault
from testbed.standing.description import Bench, find_bench, newest_bench

__all__ = ["app"]

END_S_MAX = 60.0
POLL_S = 0.1

app = typer.Typer(add_completion=False)


@app.command()
def down(
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Its bench.json; default: the newest that runs.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Stop every process of a bench; its directory, keys included, is gone then.

    If none is up there is nothing to do, which is no mistake.
    """
    found = _find(bench)
    if found is not None:
        _end(found)
    if as_json:
        print_json({"ended": None if found is None else {"pid": found.pid, "home": found.home}})
    else:
        typer.echo("no bench is up: nothing to do" if found is None else "down")


def _find(path: Path | None) -> Bench | None:
    """The one to end. Raises ConfigurationError for a file that is no bench's."""
    if path is None:
        return newest_bench()
    return find_bench(path) if path.exists() else None


def _end(bench: Bench) -> None:
    os.kill(bench.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + END_S_MAX
    while Path(bench.home).exists():
        if time.monotonic() > deadline_s:
            raise LabFault(f"process {bench.pid} has not ended within {END_S_MAX:.0f} s")
        time.sleep(POLL_S)
