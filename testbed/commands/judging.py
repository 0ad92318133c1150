"""The shared part of commands that judge: they show the result of a bundle.

Code that reads results is imported only when there is something to judge.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from testbed.bundle import Bundle
from testbed.commands.options import print_json
from testbed.errors import LabFault
from testbed.printed import as_typed
from testbed.report.judging import Judging

if TYPE_CHECKING:
    from testbed.report.summary import Summary

__all__ = ["finish", "show", "shown_if_the_lab_fails"]

_COLUMNS_IN_FILES = 160


@contextmanager
def shown_if_the_lab_fails(judging: Judging, *, as_json: bool) -> Iterator[None]:
    """If the lab fails, judges and shows what there is of the campaign, before the error."""
    try:
        yield
    except LabFault:
        for run in judging.bundle.runs:
            if run.was_collected:
                judging.run(run)
        if not as_json:  # with --json the error is the only document
            finish(judging, as_json=False)
        raise


def finish(judging: Judging, *, as_json: bool) -> int:
    """Judge a bundle after all its runs were judged, print its summary, and return the exit
    code."""
    return show(judging.bundle, judging.whole(), as_json=as_json)


def show(bundle: Bundle, summary: Summary, *, as_json: bool) -> int:
    """Print the result of a bundle, and return the exit code."""
    from rich.console import Console  # noqa: PLC0415 - only now there is something to print

    from testbed.report.summary import EXIT_CODES  # noqa: PLC0415 - loads statistics
    from testbed.report.table import render  # noqa: PLC0415 - see above

    if as_json:
        print_json(msgspec.to_builtins(summary) | {"bundle": str(bundle.path)})
    else:
        # Rows in a file or a CI log are not broken, because there is no screen width.
        console = Console(width=None if sys.stdout.isatty() else _COLUMNS_IN_FILES)
        notes = tuple(
            as_typed(note.replace(" BUNDLE", f" {bundle.typed}")) for note in summary.notes
        )
        console.print(render(msgspec.structs.replace(summary, notes=notes), str(bundle.path)))
    return EXIT_CODES[summary.verdict]
