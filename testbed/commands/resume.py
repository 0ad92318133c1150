"""`testbed resume`: continues a campaign that was interrupted, failed or killed."""

from __future__ import annotations

from typing import Annotated

import typer

from testbed.bundle import Bundle, find_bundle
from testbed.bundle_lock import require_unlocked
from testbed.campaign.resume import redo, resumable, unfinished
from testbed.campaign.screen import make_screen
from testbed.campaign.session import Session
from testbed.commands.deployable import look_before
from testbed.commands.judging import finish, shown_if_the_lab_fails
from testbed.commands.options import CheckOption, InventoryOption, JsonOption, print_found, say
from testbed.report.judging import Judging

__all__ = ["resume"]


def resume(
    run: Annotated[str, typer.Argument(help='A bundle, the name of a run, or "last".')],
    inventory: InventoryOption = None,
    also_invalid: Annotated[
        bool, typer.Option("--also-invalid", help="Also repeat runs that have no verdict.")
    ] = False,
    check: CheckOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the runs of a campaign that are not complete yet, and leave the others as they are.

    Campaign, inventory, code and packages must be the same as before; a difference is named and
    refused. The files of an incomplete run are kept in `attempts/`. The inventory is the file that
    the first command named; give -i if it is somewhere else now. Runs that were made but not judged
    are judged. Exit codes are those of `testbed run`; also 0 if there is nothing to do, and 5 if
    another program is writing the bundle.
    """
    bundle = find_bundle(run)
    judging = Judging(bundle)
    if check:
        require_unlocked(bundle.path)
        would = _would(judging, also_invalid=also_invalid)
        if not unfinished(bundle, also_invalid=also_invalid):
            _complete(bundle, would, as_json=as_json)
            return
        lab = resumable(bundle, inventory).lab
        say(f"would {', '.join(would)}")
        raise typer.Exit(look_before(["resume", run], lab, as_json=as_json))
    with bundle.locked():
        news = judging.rest()
        if not unfinished(bundle, also_invalid=also_invalid):
            if news:
                raise typer.Exit(finish(judging, as_json=as_json))
            _complete(bundle, [], as_json=as_json)
            return
        found = resumable(bundle, inventory)
        todo = redo(bundle, also_invalid=also_invalid)
        with shown_if_the_lab_fails(judging, as_json=as_json), make_screen(as_json) as screen:
            session = Session(
                found.lab, found.schedule, bundle, screen, judging.run, inventory=found.inventory
            )
            session.make(todo, after_a_crash=True)
        raise typer.Exit(finish(judging, as_json=as_json))


def _would(judging: Judging, *, also_invalid: bool) -> list[str]:
    """What the command would do, in order."""
    runs = {
        "judge": [run.entry.index for run in judging.unjudged()],
        "make": [each.index for each in unfinished(judging.bundle, also_invalid=also_invalid)],
    }
    would = [f"{do} runs {', '.join(map(str, which))}" for do, which in runs.items() if which]
    return would or ([] if judging.bundle.is_derived else ["judge the campaign"])


def _complete(bundle: Bundle, would: list[str], *, as_json: bool) -> None:
    """Say so, and what is left to do."""
    left = f"would {', '.join(would)}" if would else "nothing to do"
    found = {"bundle": str(bundle.path), "made": 0, "would": would}
    print_found(found, f"{bundle.path} is complete: {left}", as_json=as_json)
