"""Options and printing that commands share, so that they mean the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from inventory.duration import duration_ms
from testbed.campaign.event import SystemName
from testbed.errors import ConfigurationError

if TYPE_CHECKING:
    from testbed.standing.running_lab import RunningLab

__all__ = [
    "CheckOption",
    "InventoryOption",
    "JsonOption",
    "OutOption",
    "RunningOption",
    "SeedOption",
    "SystemOption",
    "columns",
    "figure_kind",
    "file_kind",
    "markdown",
    "print_found",
    "print_json",
    "say",
    "say_which",
    "time_option",
    "write_out",
]

InventoryOption = Annotated[
    Path | None,
    typer.Option("-i", "--inventory", metavar="FILE", help="Inventory; default: loopback."),
]
RunningOption = Annotated[
    Path | None,
    typer.Option(
        "-i", "--inventory", metavar="FILE", help="The lab that is up; needed if several are."
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(min=0, max=2**53 - 1, help="Replaces the campaign's own seed."),
]
SystemOption = Annotated[
    SystemName,
    typer.Option(help="The system under test: the chain, or the centralised baseline."),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Only say what would be done, and change nothing.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="The bundle is made in this folder; default: runs."),
]


def time_option(
    name: str, explained: str, *, least: str = "1ms", most: str = "1d", default: str | None = None
) -> Any:
    """An option that takes a duration as files do (`2h`, `500ms`) and gives milliseconds."""

    def parse(given: str | float) -> float:
        if not isinstance(given, str):
            return given  # the default
        try:
            ms = duration_ms(given)
        except ValueError as error:
            raise typer.BadParameter(f"{given} {error}") from error
        if not duration_ms(least) <= ms <= duration_ms(most):
            raise typer.BadParameter(f"{given} must be from {least} to {most}")
        return ms

    # Written here, because typer puts a default that is shown as text in parentheses.
    shown = explained if default is None else f"{explained}  [default: {default}]"
    return typer.Option(name, parser=parse, metavar="TIME", help=shown, show_default=False)


def figure_kind(path: Path | None, option: str = "--figure") -> str:
    """ "svg" or "pdf", from the name of the file. Raises ConfigurationError."""
    return file_kind(path, option, "svg", "pdf")


def file_kind(path: Path | None, option: str, *kinds: str) -> str:
    """One of `kinds`, from the name of the file; without a file the first. Raises
    ConfigurationError, also if the folder does not exist: what is drawn may take minutes."""
    kind = path.suffix[1:] if path is not None else kinds[0]
    if kind not in kinds:
        endings = " or ".join(f".{each}" for each in kinds)
        raise ConfigurationError(f"{option} {path}: the name must end with {endings}")
    if path is not None and not path.parent.is_dir():
        raise ConfigurationError(f"{option} {path}: there is no folder {path.parent}; make it")
    return kind


def say(text: str) -> None:
    """Print progress to stderr, so that it is never part of the result."""
    typer.echo(text, err=True)


def say_which(running: RunningLab, inventory: Path | None) -> None:
    """Name the lab that is up, if the user did not."""
    if inventory is None:
        say(f"up: {running.in_words}")


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    typer.echo(json.dumps(value, indent=2))


def print_found(found: object, text: str, *, as_json: bool) -> None:
    """What a command found: as JSON for machines, or as `text`."""
    if as_json:
        print_json(msgspec.to_builtins(found))
    else:
        typer.echo(text)


def write_out(path: Path, content: bytes) -> None:
    """Write a file that the user named. Raises ConfigurationError."""
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path}: {error.strerror}; choose another"
        ) from error


def columns(rows: Iterable[Sequence[object]]) -> str:
    """Rows as aligned columns."""
    table = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def one_line(cell: object) -> str:
    """A cell's text with its line breaks spelled out, because a record must not forge a row."""
    return str(cell).replace("\r", "\\r").replace("\n", "\\n")


def markdown(rows: Iterable[Sequence[object]]) -> str:
    """Rows as a table; the first is its header."""
    header, *lines = [f"| {' | '.join(map(one_line, row))} |" for row in rows]
    return "\n".join([header, "|" + "---|" * (header.count(" | ") + 1), *lines])
