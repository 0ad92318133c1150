"""The command line as a whole: every command explains itself, and no text names an option or a
command that does not exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from testbed import cli

ROOT = Path(__file__).parents[2]
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
QUOTED = re.compile(
    r"`+(?:\.venv/bin/)?testbed ([^`]+)`|^(?:\$ |    )(?:\.venv/bin/)?testbed (.+)$", re.M
)
# What a program reads, and nobody would call in a script for its answer.
ANSWERS_NOTHING = {
    "up", "down", "device admit", "device grant", "device renew", "device revoke",
    "emulate down", "emulate reboot", "emulate throttle", "emulate link",
    "power", "inventory trust", "ssh", "console", "logs",
}  # fmt: skip
# They change no host: they look, write files here, or change the chain (`device`); or they make a
# lab of their own (`emulate`, `refusals`, `soak`, `bench`); or a person types there (`ssh`).
CHANGES_NO_HOST = {
    "admin", "bench", "board", "campaign", "collect", "compare", "console", "device", "doctor",
    "inventory", "ledger", "logs", "model", "plan", "refusals", "report", "simulate", "soak", "ssh",
    "emulate", "status", "verify-bundle", "watch",
}  # fmt: skip
ALWAYS_JSON = {"inventory schema", "campaign schema", "report schema", "model calibrate"}
PRINTS_A_FILE = {"campaign show"}


@cache
def commands() -> dict[str, Any]:
    """Every command that can be called, by its words; groups too."""
    found: dict[str, Any] = {}
    for name in cli.COMMANDS:
        _collect(name, typer.main.get_command(cli.app_of(name)), found)
    return found


def _collect(words: str, command: Any, found: dict[str, Any]) -> None:
    found[words] = command
    for name, sub in getattr(command, "commands", {}).items():
        _collect(f"{words} {name}", sub, found)


def options(command: Any) -> set[str]:
    found = {text for each in command.params for text in (*each.opts, *each.secondary_opts)}
    return {text for text in found if text.startswith("-")} | {"--help"}


def called() -> list[str]:
    return [words for words, each in commands().items() if not hasattr(each, "commands")]


@pytest.mark.parametrize("words", sorted(commands()))
def test_help_says_what_a_command_does_in_options_that_it_has(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*words.split(), "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: testbed {words}")
    command = commands()[words]
    if hasattr(command, "commands") and not command.invoke_without_command:
        return
    assert command.help, "it has no text"
    prose, _, listed = printed.partition("\nOptions:\n")
    known = options(command)
    assert known <= set(OPTION.findall(listed)), "an option is not listed"
    # Examples and quoted commands are held to the command that they call, below.
    for line in re.sub(r"`(?!-)[^`]*`", "", prose).splitlines():
        if "testbed " not in line:
            assert {each for each in OPTION.findall(line) if each[:2] == "--"} <= known, line
    for parameter in command.params:
        is_option = parameter.opts[0].startswith("-")
        assert parameter.help or not is_option, f"{parameter.opts[0]} has no text"


@pytest.mark.parametrize(
    "words", sorted(set(called()) - ANSWERS_NOTHING - ALWAYS_JSON - PRINTS_A_FILE)
)
def test_what_a_machine_would_read_can_be_had_as_json(words: str) -> None:
    assert "--json" in options(commands()[words])


@pytest.mark.parametrize("words", sorted(called()))
def test_every_command_that_changes_hosts_has_a_dry_run(words: str) -> None:
    changes = words.split(maxsplit=1)[0] not in CHANGES_NO_HOST or words == "inventory trust"
    assert ("--check" in options(commands()[words])) == changes


def test_every_command_stands_in_one_section() -> None:
    sorted_in = [name for names in cli.SECTIONS.values() for name in names]
    assert sorted(sorted_in) == sorted(cli.COMMANDS), "sort it into cli.SECTIONS"


def quoted() -> Iterator[tuple[str, str]]:
    """Command lines that READMEs, help texts and messages quote, with where they stand."""
    readmes = [path for path in ROOT.glob("**/README.md") if ".venv" not in path.parts]
    sources = [*ROOT.glob("testbed/**/*.py"), *ROOT.glob("inventory/**/*.py")]
    for path in [*readmes, *sources]:
        for match in QUOTED.finditer(path.read_text(encoding="utf-8")):
            line = match[1] or match[2]
            yield f"{path.relative_to(ROOT)}: testbed {line}", line


def test_every_quoted_command_line_can_be_typed() -> None:
    wrong = []
    for where, line in quoted():
        words: list[str] = []
        for word in line.split("#")[0].split():
            if " ".join([*words, word]) not in commands():
                break
            words.append(word)
        if not words:
            if line.split()[0] not in ("--help", "--version", "--install-completion"):
                wrong.append(f"{where}: no such command")
            continue
        unknown = set(OPTION.findall(line)) - options(commands()[" ".join(words)])
        if unknown:
            wrong.append(f"{where}: no such option: {', '.join(sorted(unknown))}")
    assert wrong == []


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("de", "device"), ("device ad", "admit"), ("report s", "schema"), ("soak --s", "--seed")],
)
def test_tab_completes_commands_and_options(typed: str, offered: str) -> None:
    """As bash asks, after `testbed --install-completion`."""
    words = f"testbed {typed}"
    asked = {"_TESTBED_COMPLETE": "complete_bash", "COMP_WORDS": words}
    done = subprocess.run(
        [sys.executable, "-m", "testbed.cli"],
        env=os.environ | asked | {"COMP_CWORD": str(len(typed.split()))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert offered in done.stdout.split()
