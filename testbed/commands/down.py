"""`testbed down`: end the bench that `testbed up` started."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from testbed.errors import LabFault
from testbed.standing import find_bench

__all__ = ["app"]

END_S_MAX = 60.0
POLL_S = 0.1

app = typer.Typer(add_completion=False)


@app.command()
def down(
    bench: Annotated[
        Path | None, typer.Option("--bench", help="Its bench.json; default: the newest that runs.")
    ] = None,
) -> None:
    """Stop every process of a bench; its directory, keys included, is gone then."""
    found = find_bench(bench)
    os.kill(found.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + END_S_MAX
    while Path(found.home).exists():
        if time.monotonic() > deadline_s:
            raise LabFault(f"process {found.pid} has not ended within {END_S_MAX:.0f} s")
        time.sleep(POLL_S)
