"""`testbed report`: rebuild everything derived in a bundle from its raw files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from testbed.bundle import Bundle, find_results
from testbed.commands.options import JsonOption, print_json

if TYPE_CHECKING:
    from testbed.report.campaign_summary import CampaignSummary
    from testbed.report.summary import Summary

__all__ = ["app", "judge", "judge_rest", "judge_run", "tell"]

app = typer.Typer(add_completion=False)


@app.command()
def report(
    run: Annotated[
        str,
        typer.Argument(help='A bundle, the name of a run, "last"; or "schema", "campaign-schema".'),
    ],
    as_json: JsonOption = False,
) -> None:
    """Rebuild summary, tables, plots, report.html and junit.xml from raw files.

    Needs no hardware. Of a campaign of several runs every run is done, then what is said over all
    of them. `testbed report schema` (`campaign-schema`) prints the JSON Schema of summary.json of
    one run (of several). Exit code 0 if all passed, 1 if a property failed, 3 if nothing can be
    said, 4 if only of some runs of several.
    """
    if run in ("schema", "campaign-schema"):
        from testbed.report.campaign_summary import CampaignSummary  # noqa: PLC0415 - statistics
        from testbed.report.summary import Summary  # noqa: PLC0415 - see above

        dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        kind = Summary if run == "schema" else CampaignSummary
        print_json(dialect | msgspec.json.schema(kind))
        return
    bundle = find_results(run)
    from testbed.report.derive import rebuild  # noqa: PLC0415 - loads what draws

    raise typer.Exit(tell(bundle, rebuild(bundle), as_json=as_json))


def judge_run(run: Bundle) -> str | None:
    """Derive what the raw files of one run mean; answers why nothing can be said of it, if so."""
    from testbed.report.derive import derive  # noqa: PLC0415 - loads what draws

    summary = derive(run)
    if summary.verdict != "invalid":
        return None
    return "; ".join(summary.notes) or "nothing can be said of this run"


def judge_rest(bundle: Bundle) -> bool:
    """Judge the runs that were made and not judged to the end: the program was killed there, or its
    disk was full. Answers whether something is new to say of the bundle."""
    manifest = bundle.manifest
    rest = [e for e in manifest.runs if e.complete and not bundle.of_run(e).is_derived]
    if rest and manifest.several:
        (bundle.path / "report.html").unlink(missing_ok=True)  # it lacks these runs
    for entry in rest:
        reason = judge_run(bundle.of_run(entry))
        if reason is not None:
            bundle.update(entry.index, state="invalid", reason=reason)
    return bool(rest) or not bundle.is_derived


def judge(bundle: Bundle, *, as_json: bool) -> int:
    """Say what came of a bundle whose runs were derived; answers the exit code."""
    from testbed.report.derive import derive_campaign  # noqa: PLC0415 - loads what draws
    from testbed.report.over_runs import read_summary  # noqa: PLC0415 - see above

    several = bundle.manifest.several
    found = derive_campaign(bundle) if several else read_summary(bundle)
    return tell(bundle, found, as_json=as_json)


def tell(bundle: Bundle, found: Summary | CampaignSummary, *, as_json: bool) -> int:
    """Print a summary; answers the exit code."""
    from rich.console import Console  # noqa: PLC0415 - only now there is something to print

    from testbed.report import campaign_summary, summary  # noqa: PLC0415 - see above
    from testbed.report.campaign_table import render_campaign  # noqa: PLC0415 - see above
    from testbed.report.table import render  # noqa: PLC0415 - see above

    if as_json:
        print_json(msgspec.to_builtins(found) | {"bundle": str(bundle.path)})
    elif isinstance(found, summary.Summary):
        Console().print(render(found, str(bundle.path)))
    else:
        Console().print(render_campaign(found, str(bundle.path)))
    if isinstance(found, summary.Summary):
        return summary.EXIT_CODES[found.verdict]
    return campaign_summary.EXIT_CODES[found.verdict]
