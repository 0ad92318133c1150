"""`testbed report`: rebuild everything derived in a bundle from its raw files."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from testbed.bundle import find_bundle
from testbed.commands.judging import finish
from testbed.commands.options import JsonOption, print_json

__all__ = ["app"]

app = typer.Typer(add_completion=False)


@app.command()
def report(
    run: Annotated[
        str, typer.Argument(help='A bundle, its name below runs/, "last"; or "schema".')
    ],
    as_json: JsonOption = False,
) -> None:
    """Rebuild summary, tables, plots, report.html and junit.xml from raw files.

    Needs no hardware. Each run is judged again, then all runs together. `testbed report schema`
    prints the JSON Schema of summary.json. Exit code 0 if all passed, 1 if a property failed, 3 if
    nothing can be said, 4 if something stays open: runs that do not count, or too few of them.
    """
    if run == "schema":
        from testbed.report.summary import Summary  # noqa: PLC0415 - loads statistics

        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        print_json(dialect | msgspec.json.schema(Summary))
        return
    raise typer.Exit(finish(find_bundle(run), as_json=as_json, again=True))
