"""`testbed verify-bundle`: whether a bundle is whole, and follows from its raw files."""

from __future__ import annotations

from typing import Annotated

import typer

from testbed.bundle import find_bundle
from testbed.commands.options import JsonOption, print_json
from testbed.printed import as_typed

__all__ = ["verify_bundle"]


def verify_bundle(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help='A bundle, its name below runs/, or "last".')
    ],
    as_json: JsonOption = False,
) -> None:
    """Check a bundle: its runs are complete, no file was changed, lost or added, and the derived
    files are the same, byte for byte, when they are rebuilt from the raw files.

    This is no verdict: `testbed report` and `testbed ledger verify` give one. Derived files are
    compared only by the version that made them. Exit code 1 if something is wrong.
    """
    from testbed.manifest import code_sha256  # noqa: PLC0415 - see below
    from testbed.report import verify  # noqa: PLC0415 - loads what draws

    bundle = find_bundle(run)
    problems = list(verify.verify_bundle(bundle))
    rebuilt = bundle.manifest.code_sha256 == code_sha256()
    if as_json:
        told = {"bundle": str(bundle.path), "ok": not problems, "problems": problems}
        print_json(told | {"rebuilt": rebuilt})
    else:
        for problem in problems:
            typer.echo(as_typed(problem))
        if not rebuilt:
            typer.echo("made by another version: derived files were not rebuilt here")
        typer.echo(f"{bundle.path}: {'NOT whole' if problems else 'whole'}")
    if problems:
        raise typer.Exit(1)
