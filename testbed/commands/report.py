"""`testbed report`: rebuild everything derived in a bundle from its raw files."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from testbed.bundle import Bundle, find_bundle
from testbed.commands.options import JsonOption, print_json

__all__ = ["app", "judge"]

app = typer.Typer(add_completion=False)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help='A bundle, the name of a run, "last"; or "schema".')],
    as_json: JsonOption = False,
) -> None:
    """Rebuild summary, tables, plots, report.html and junit.xml of a run from its raw files.

    Needs no hardware. `testbed report schema` prints the JSON Schema of summary.json. Exit code 0
    if the run passed, 1 if a property failed, 3 if nothing can be said of it.
    """
    if run == "schema":
        from testbed.report.summary import Summary  # noqa: PLC0415 - loads the statistics

        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        print_json(dialect | msgspec.json.schema(Summary))
        return
    raise typer.Exit(judge(find_bundle(run), as_json=as_json))


def judge(bundle: Bundle, *, as_json: bool) -> int:
    """Derive what the raw files mean, print it, and answer the exit code."""
    # Plotting takes a second to load: not before there is something to plot.
    from rich.console import Console  # noqa: PLC0415

    from testbed.report.derive import derive  # noqa: PLC0415
    from testbed.report.summary import EXIT_CODES  # noqa: PLC0415
    from testbed.report.table import render  # noqa: PLC0415

    summary = derive(bundle)
    if as_json:
        print_json(msgspec.to_builtins(summary) | {"bundle": str(bundle.path)})
    else:
        Console().print(render(summary, str(bundle.path)))
    return EXIT_CODES[summary.verdict]
