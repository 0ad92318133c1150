"""`testbed restart`: start a process of a running lab again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from testbed.commands.options import CheckOption, JsonOption, RunningOption, print_found
from testbed.standing.control import Restart, ask
from testbed.standing.running_lab import find_running

__all__ = ["restart"]


def restart(
    name: Annotated[str, typer.Argument(help="Name of a process, as in `testbed status`.")],
    inventory: RunningOption = None,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Restart a process of a lab that is up.

    It may be running, or its supervisor may have given it up. Its files stay, so nothing is lost.
    Exit code 3 if it does not become ready.
    """
    process = ask(Path(find_running(inventory).home), Restart(name, check))[name]
    done = "would be started again" if check else "started"
    found = {"name": name, **msgspec.structs.asdict(process)}
    print_found(found, f"{name}: {done}, process {process.pid}", as_json=as_json)
