"""`testbed report`: rebuild everything derived in a bundle from its raw files."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from testbed.bundle import find_bundle
from testbed.commands.judging import show
from testbed.commands.options import JsonOption, columns, print_json, say

__all__ = ["app"]


class _RunOrCommand(TyperGroup):
    """Takes a RUN, with options on both sides, or a subcommand instead."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # The shell completes subcommands; it knows no runs.
        is_command = args[0] in self.commands if args else ctx.resilient_parsing
        ctx.allow_interspersed_args = not is_command
        return super().parse_args(ctx, args)

    def get_params(self, ctx: Any) -> list[Any]:
        takes_run = ctx.command is self and ctx.allow_interspersed_args
        return [each for each in super().get_params(ctx) if takes_run or each.name != "run"]


app = typer.Typer(add_completion=False, cls=_RunOrCommand, subcommand_metavar="| COMMAND")


@app.callback(invoke_without_command=True)
def report(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help='A bundle, its name below runs/, or "last".')
    ],
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Write each figure also as PDF, for papers.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Rebuild summary, tables, plots, report.html and junit.xml from raw files.

    Needs no hardware. Each run is judged again, then all runs together. Exit code 0 if all passed,
    1 if a property failed, 3 if no verdict is possible, 4 if the result is partial: some runs do
    not count, or there are too few.
    """
    if context.invoked_subcommand is None:
        from testbed.report.derive import rebuild  # noqa: PLC0415 - loads what draws

        bundle = find_bundle(run)
        code = show(bundle, rebuild(bundle, pdf=pdf), as_json=as_json)
        if pdf:
            for made in (bundle.path, *(run.path for run in bundle.runs)):
                if any(made.glob("plots/*.pdf")):
                    say(f"figures: {made}/plots/*.pdf")
        raise typer.Exit(code)


@app.command()
def times(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="One or more bundles.")],
    as_json: JsonOption = False,
) -> None:
    """Print how late events began, were seen and ended, by kind."""
    from testbed.checks.evidence import Evidence  # noqa: PLC0415 - loads statistics
    from testbed.report.times import Lateness  # noqa: PLC0415 - see above
    from testbed.report.times import times as times_of  # noqa: PLC0415 - see above

    found = times_of(Evidence(run) for name in runs for run in find_bundle(name).runs)
    if as_json:
        print_json(msgspec.to_builtins(found))
        return

    def cells(late: Lateness) -> tuple[str, str]:
        return ("-", "-") if late.p50_ms is None else (f"{late.p50_ms:.0f}", f"{late.max_ms:.0f}")

    head = (
        "KIND",
        "EVENTS",
        "APPLIED P50",
        "MAX",
        "SEEN P50",
        "MAX",
        "HEALED P50",
        "MAX (ms late)",
    )
    rows = (
        (each.kind, str(each.events), *cells(each.applied), *cells(each.seen), *cells(each.healed))
        for each in found
    )
    typer.echo(columns([head, *rows]))


@app.command()
def schema() -> None:
    """Print the JSON Schema of summary.json."""
    from testbed.report.summary import Summary  # noqa: PLC0415 - loads statistics

    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    print_json(dialect | msgspec.json.schema(Summary))
