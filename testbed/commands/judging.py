"""What the commands that judge share: run by run while a campaign goes on, and at its end.

Everything that reads results loads only when there is something to judge.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from testbed.bundle import Bundle, RunFolder
from testbed.commands.options import print_json
from testbed.errors import LabFault

__all__ = ["finish", "judge_rest", "judge_run", "shown_if_the_lab_fails"]

_COLUMNS_IN_FILES = 160


def judge_run(run: RunFolder) -> str | None:
    """Derive what the raw files of one run mean; returns why nothing can be said of it, if so."""
    from testbed.report.derive import derive_run  # noqa: PLC0415 - loads what draws

    summary = derive_run(run)
    if summary.verdict != "invalid":
        return None
    return "; ".join(summary.notes) or "nothing can be said of this run"


def judge_rest(bundle: Bundle) -> bool:
    """Judge the runs that were made and not judged to the end: the program was killed there, or its
    disk was full. Returns whether there is something new to say of the bundle."""
    rest = [run for run in bundle.runs if run.entry.complete and not run.is_derived]
    if rest:
        (bundle.path / "report.html").unlink(missing_ok=True)  # it lacks these runs
    for run in rest:
        reason = judge_run(run)
        if reason is not None:
            bundle.update(run.entry.index, state="invalid", reason=reason)
    return bool(rest) or not bundle.is_derived


@contextmanager
def shown_if_the_lab_fails(bundle: Bundle, *, as_json: bool) -> Iterator[None]:
    """What there is of a campaign is judged and shown also if the lab fails, before its error."""
    try:
        yield
    except LabFault:
        for run in bundle.runs:
            if run.was_collected:
                judge_run(run)
        if not as_json:  # there the error is the one document
            finish(bundle, as_json=False)
        raise


def finish(bundle: Bundle, *, as_json: bool, again: bool = False) -> int:
    """Judge a bundle, print its summary and return the exit code. Each run was judged before,
    unless everything is to be made `again`."""
    from rich.console import Console  # noqa: PLC0415 - only now there is something to print

    from testbed.report.derive import derive, rebuild  # noqa: PLC0415 - loads what draws
    from testbed.report.summary import EXIT_CODES  # noqa: PLC0415 - see above
    from testbed.report.table import render  # noqa: PLC0415 - see above

    summary = rebuild(bundle) if again else derive(bundle)
    if as_json:
        print_json(msgspec.to_builtins(summary) | {"bundle": str(bundle.path)})
    else:
        # In a file or a CI log no row is broken: there is no screen that it must fit.
        console = Console(width=None if sys.stdout.isatty() else _COLUMNS_IN_FILES)
        console.print(render(summary, str(bundle.path)))
    return EXIT_CODES[summary.verdict]
