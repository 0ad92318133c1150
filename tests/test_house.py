"""The house itself: who may import whom, no cycles, no blanket ignores, no machine's paths."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

from testbed.cli import COMMANDS

TOP = Path(__file__).resolve().parent.parent
FOLDERS = ("chain", "gateway", "inventory", "nodes", "testbed")
MAY_IMPORT: dict[str, set[str]] = {
    "chain": set(),
    "inventory": set(),
    "gateway": {"chain"},
    "nodes": {"chain", "gateway"},
    "testbed": {"chain", "gateway", "inventory", "nodes"},
}
# The rooms of a folder, from the ground up: a room imports only what stands before it.
ROOMS = {
    "chain": ("", "pbft", "ledger", "proofs"),
    "gateway": ("", "mqtt", "serial", "broker", "bridge"),
    "nodes": (
        "",
        "wire",
        "replica",
        "byzantine",
        "device",
        "gateway",
        "switch",
        "provider",
        "board",
    ),
}
# What the pure core must not reach for: a clock, randomness, files, sockets, threads.
IMPURE = {"asyncio", "logging", "os", "pathlib", "random", "secrets", "socket", "sqlite3", "ssl"}
IMPURE |= {"subprocess", "tempfile", "threading", "time", "uuid"}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*FOLDERS, include_external_packages=True, cache_dir=None)


def edges() -> Iterator[tuple[str, str]]:
    for module in sorted(graph().modules):
        for imported in sorted(graph().find_modules_directly_imported_by(module)):
            yield module, imported


@pytest.mark.parametrize("folder", FOLDERS)
def test_folders_import_only_what_the_architecture_allows(folder: str) -> None:
    wrong = [
        f"{module} imports {imported}"
        for module, imported in edges()
        if module.split(".")[0] == folder
        and imported.split(".")[0] in set(FOLDERS) - MAY_IMPORT[folder] - {folder}
    ]
    assert wrong == []


def room(module: str) -> str:
    """The room that a module stands in; "" is the ground floor of its folder."""
    folder, *rest = module.split(".")
    return rest[0] if rest and rest[0] in ROOMS[folder] else ""


@pytest.mark.parametrize("folder", ROOMS)
def test_rooms_import_only_rooms_below(folder: str) -> None:
    rooms = ROOMS[folder]
    wrong = [
        f"{module} imports {imported}"
        for module, imported in edges()
        if module.split(".")[0] == folder == imported.split(".")[0]
        and rooms.index(room(imported)) > rooms.index(room(module))
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", ROOMS)
def test_each_subfolder_is_a_room(folder: str) -> None:
    found = {path.parent.name for path in (TOP / folder).glob("*/__init__.py")}
    assert found == set(ROOMS[folder]) - {""}


def test_commands_import_no_commands() -> None:
    """What two commands share stands beside them (`options`, `fleet`, `judging`), or below."""
    commands = {f"testbed.commands.{name.replace('-', '_')}" for name in COMMANDS}
    wrong = [
        f"{module} imports {imported}"
        for module, imported in edges()
        if module in commands and imported in commands
    ]
    assert wrong == []


def test_a_session_does_not_know_its_screen() -> None:
    """Who shows a campaign stands above it: the session calls only `progress`."""
    assert "testbed.campaign.screen" not in graph().find_upstream_modules(
        "testbed.campaign.session"
    )


def test_no_import_cycles() -> None:
    """A newcomer can read the modules in one order from bottom to top."""
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for module, imported in edges():
        if imported.split(".")[0] in FOLDERS and not module.startswith(imported + "."):
            sorter.add(module, imported)
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_chain_touches_no_world() -> None:
    """chain/ has no socket, clock, file, randomness or thread: a seed reproduces a run."""
    wrong = [
        f"{module} imports {imported}"
        for module, imported in edges()
        if module.split(".")[0] == "chain" and imported in IMPURE
    ]
    assert wrong == []


def tracked(suffix: str) -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", f"*{suffix}"], cwd=TOP, capture_output=True, text=True, check=True
    )
    return [TOP / name for name in names.stdout.split() if (TOP / name).exists()]


def test_every_ignore_names_what_it_ignores() -> None:
    blanket = re.compile(r"# type: ignore(?!\[)|# noqa(?!:)")
    wrong = [
        f"{path.relative_to(TOP)}:{number}"
        for path in tracked(".py")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if blanket.search(line)
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_says_what_lives_there(folder: str) -> None:
    assert (TOP / folder / "README.md").is_file()


def test_modules_open_with_a_docstring() -> None:
    wrong = [
        str(path.relative_to(TOP))
        for path in tracked(".py")
        if not path.read_text().lstrip("#! \n").startswith('"""')
    ]
    assert wrong == []


def test_the_reading_order_names_files_and_functions_that_exist() -> None:
    """README, "Follow an access request": a newcomer finds each step where it says."""
    text = (TOP / "README.md").read_text()
    section = text.partition("## Follow an access request")[2].partition("\n## ")[0]
    rows = [row.split(" | ") for row in section.splitlines() if "](" in row and row[0] == "|"]
    assert len(rows) > 12
    wrong = []
    for *_, files, functions in rows:
        paths = re.findall(r"\]\(([^)]+)\)", files)
        groups = functions.strip(" |").split(";")
        wrong += [f"{path} is not there" for path in paths if not (TOP / path).is_file()]
        if len(paths) != len(groups):
            wrong.append(f"{functions}: one group of functions for each of {paths}")
        for path, group in zip(paths, groups, strict=False):
            code = (TOP / path).read_text() if (TOP / path).is_file() else ""
            for name in re.findall(r"`(\w+)`", group):
                if not re.search(rf"(def|class) {name}\b", code):
                    wrong.append(f"{path} has no {name}")
    assert wrong == []


def test_background_tasks_are_never_started_bare() -> None:
    """`gateway.tasks` starts them: a task that dies is never silent."""
    bare = re.compile(r"\b(create_task|ensure_future|TaskGroup)\b")
    wrong = [
        f"{path.relative_to(TOP)}:{number}"
        for path in tracked(".py")
        if path.relative_to(TOP).parts[0] in ("gateway", "nodes")
        and path != TOP / "gateway/tasks.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line)
    ]
    assert wrong == []
