"""The command line `testbed`: finds a command, runs it, turns errors into messages and exit codes.

Each command is one module of `testbed/commands/`, and one line of `SECTIONS`. It is imported only
when it is called: `testbed --help` imports none of them.

Exit codes: 0 passed, 1 a property failed (a command raises `typer.Exit(1)`), 2 usage or
configuration, 3 infrastructure, 4 partial, 5 locked, 6 restore incomplete, 130 interrupted.
Errors go to stderr as one message; with `--json` they are `{"error": ...}` on stdout. Tracebacks
only with TESTBED_DEBUG=1.
"""

from __future__ import annotations

import atexit
import errno
import gc
import importlib
import io
import json
import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, Final, cast

import typer
from typer.core import TyperCommand, TyperGroup

from testbed.errors import TestbedError
from testbed.printed import as_typed, using
from testbed.terminal import guarded

__all__ = ["COMMANDS", "app_of", "main"]

# The sections of `testbed --help`: its commands, and what it says of each.
SECTIONS: Final = {
    "Campaigns": {
        "run": "Run a campaign and write a result bundle.",
        "watch": "Follow a campaign that another terminal runs.",
        "abort": "List the active faults of a run, or heal one now.",
        "resume": "Continue a campaign that was interrupted.",
        "plan": "Print the exact schedule of a campaign; change nothing.",
        "campaign": "List and check campaign files.",
    },
    "Results": {
        "report": "Rebuild the report of a run from its raw files.",
        "compare": "Compare results: ratios with confidence intervals.",
        "verify-bundle": "Check that a bundle is complete and unchanged.",
        "ledger": "Verify and show stored ledgers, prove certificates.",
    },
    "Lab": {
        "inventory": "Check and show the file that describes a lab.",
        "doctor": "Check every host and board, and print the fixes.",
        "provision": "Install on the hosts everything that a run needs.",
        "flash": "Write firmware and key to sensor boards.",
        "board": "Show the sensor boards and their state.",
        "power": "Switch a host off and on.",
        "status": "Show who uses the hosts, and the state of each process.",
        "ssh": "Log in to a host, or run one command there.",
        "console": "Talk with a board over its serial line.",
        "logs": "Print the logs of a lab's processes.",
        "restore": "Bring hosts back to a clean state, after any trouble.",
        "quarantine": "Exclude a host from every campaign, or take it back.",
        "lock": "Reserve hosts for yourself.",
        "unlock": "Release hosts, or take them over from somebody else.",
        "deprovision": "Remove everything of the testbed from the hosts.",
    },
    "Running lab": {
        "up": "Deploy a lab and keep it running.",
        "device": "List, admit, renew and revoke devices of a running lab.",
        "admin": "List and add administrators and manufacturers' roots of a running lab.",
        "restart": "Start a process of a running lab again.",
        "collect": "Write a result bundle of a running lab, while it goes on.",
        "refusals": "Try every known attack; print the layer that refused it.",
        "soak": "Disturb a running lab for a while; check that nothing is lost.",
        "down": "Stop a running lab.",
    },
    "Without a lab": {
        "simulate": "Attack the consensus in a deterministic simulation.",
        "model": "Compute the risk of small groups, and time to consensus over N.",
        "bench": "Measure speed, as a ratio to a limit measured in the same run.",
        "emulate": "Make a lab of emulated hosts with SSH servers on this machine.",
    },
}
COMMANDS: Final = {name: text for commands in SECTIONS.values() for name, text in commands.items()}

_USAGE: Final = 2
_INFRASTRUCTURE: Final = 3
_INTERRUPTED: Final = 130


class _LazyGroup(TyperGroup):
    """Knows the commands by name; imports the one that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, summary in COMMANDS.items():
            self.commands[name] = TyperCommand(name, help=summary)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        if name in COMMANDS:
            app = app_of(name)
            app.rich_markup_mode = None  # plain help starts in half the time, and works in pipes
            command = typer.main.get_command(app)
            command.name = name
            for sub in getattr(command, "commands", {}).values():
                sub.short_help = sub.short_help or _first_sentence(sub.help or "")
        return name, command, rest


def app_of(name: str) -> typer.Typer:
    """The program of one command. Imports its module."""
    word = name.replace("-", "_")
    module = importlib.import_module(f"testbed.commands.{word}")
    if hasattr(module, "app"):
        return cast(typer.Typer, module.app)
    app = typer.Typer(add_completion=False)
    app.command()(getattr(module, word))
    return app


def _first_sentence(text: str) -> str:
    """The whole first sentence, for lists of commands. Typer would cut it off at the end of the
    line."""
    return re.split(r"(?<=[.!?])\s", " ".join(text.split()), maxsplit=1)[0]


_program = typer.Typer(cls=_LazyGroup, no_args_is_help=True, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("m2m-testbed"))
        raise typer.Exit


@_program.callback()
def _root(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """A testbed for blockchain-based device authentication under pBFT."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code and lets no exception out."""
    if arguments is None:
        _collect_little()
    args = list(sys.argv[1:] if arguments is None else arguments)
    _end_cleanly_on_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):  # any terminal can show these
        sys.stdout.reconfigure(errors="replace")
    with guarded():
        return _main(args)


def _main(args: list[str]) -> int:
    as_json = "--json" in args
    using(args, COMMANDS)
    try:
        command = typer.main.get_command(_program)
        code = command.main(args=args, prog_name="testbed", standalone_mode=False)
    except Exception as error:
        if os.environ.get("TESTBED_DEBUG") == "1":
            raise
        code, report = _judge(error)
        report["message"] = as_typed(report["message"])
        if not (as_json and _printed_as_json({"error": {"exit_code": code, **report}})):
            prefix = "" if report["message"].startswith("Usage: ") else "testbed: "
            typer.echo(prefix + report["message"], err=True)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        typer.echo("testbed: interrupted", err=True)
    return code if isinstance(code, int) else 0


def _collect_little() -> None:
    """A program starts and ends faster so: what it imports is no garbage, and at its end the system
    frees everything at once."""
    gc.set_threshold(50_000)
    atexit.register(gc.freeze)


def _end_cleanly_on_signals() -> None:
    """SIGTERM (a cancelled CI job) cleans up as Ctrl-C does, and Ctrl-C works in the background
    too, where shells start programs with it ignored."""
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)


def _printed_as_json(report: dict[str, Any]) -> bool:
    try:
        typer.echo(json.dumps(report))
    except OSError:  # stdout is a file on a full disk, so only stderr is left
        return False
    return True


def _disk_full(error: BaseException) -> BaseException | None:
    """The error of a full disk in this error: itself, one of a group, or its cause."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return error
    if isinstance(error, sqlite3.Error) and _primary_code(error) == sqlite3.SQLITE_FULL:
        return error
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    origins = (each for each in (*inner, error.__cause__, error.__context__) if each is not None)
    return next((full for each in origins if (full := _disk_full(each)) is not None), None)


def _primary_code(error: sqlite3.Error) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def _judge(error: Exception) -> tuple[int, dict[str, Any]]:
    """Exit code of an error, and what is printed: `message`, and `problems` of a file."""
    if (full := _disk_full(error)) is not None:
        where = f" for {full.filename}" if isinstance(full, OSError) and full.filename else ""
        message = f"no space left on this machine's disk{where}: free some, and try again"
        return _INFRASTRUCTURE, {"message": message}
    if isinstance(error, TestbedError):
        return error.exit_code, {"message": str(error)}
    if isinstance(error, typer.Abort):
        return _INTERRUPTED, {"message": "aborted"}
    if isinstance(error, typer.TyperException):
        text = error.format_message()
        context: Any = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "testbed"
        helps = text.startswith("Usage: ")  # called without arguments: the message is the help text
        return _USAGE, {"message": text if helps else f"{text}\nsee {path} --help"}
    # Imported only now, because the type of this error is slow to import.
    from inventory.load import InvalidFile  # noqa: PLC0415

    if isinstance(error, InvalidFile):
        count = len(error.problems)
        lines = "\n".join(error.lines())
        message = f"{error.file}: {count} mistake{'s' if count > 1 else ''}\n{lines}"
        return _USAGE, {"message": message, "problems": error.as_json()}
    problem = f"internal error, {type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.filename and error.strerror:
        problem = f"{error.filename}: {error.strerror}; make that usable, or name another place"
    return _INFRASTRUCTURE, {"message": f"{problem}\nset TESTBED_DEBUG=1 for the traceback"}


if __name__ == "__main__":
    sys.exit(main())
