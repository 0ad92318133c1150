"""`make mutation`: mutants that nobody chose, made by mutmut, against the fast tests.

`GROUPS` says which modules are tried and by which tests. mypy comes first: what it refuses is not
run. What refusals say (`raise ...`) is no rule and not changed. SQL in letters of another case is
no other program.

Each group is worked on in a folder of `runs/mutation/`, and what was killed is not tried again,
unless its function has changed. So a run can be stopped at any time.

Each survivor needs a test that kills it, or a sentence in `equivalent.toml`: why it is no other
program. The table counts what is left. It is an error if anything is left, or if a sentence is
about a mutant that does not survive.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["Change", "Verdict", "main", "table"]


class _Group(NamedTuple):
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    without: str = ""  # pytest's expression for tests that take too long to be run so often


GROUPS = {
    "verify": _Group(("chain.pbft.verify",), ("tests/chain/pbft/test_verify.py",)),
    "rules": _Group(
        ("chain.ledger.admission", "chain.ledger.lifecycle", "chain.ledger.registry"),
        (
            "tests/chain/test_auth_group.py",
            "tests/chain/test_factory.py",
            "tests/chain/test_registry.py",
            "tests/chain/test_registry_admission.py",
            "tests/chain/test_registry_administration.py",
            "tests/chain/test_registry_edges.py",
        ),
        "altered",
    ),
    "proofs": _Group(
        tuple(f"chain.proofs.{name}" for name in ("client", "denial", "proof")),
        (
            "tests/chain/test_client.py",
            "tests/chain/test_denial.py",
            "tests/chain/test_ledger.py",
            "tests/chain/test_proof.py",
            "tests/chain/test_pruning.py",
        ),
        "altered or flipped",
    ),
    "driver": _Group(("nodes.replica.driver",), ("tests/nodes/test_driver.py",)),
    "stores": _Group(
        ("nodes.replica.ledger_file", "nodes.replica.memory_store", "nodes.replica.sqlite_store"),
        (
            "tests/nodes/test_store.py",
            "tests/nodes/test_store_damage.py",
            "tests/nodes/test_store_disk.py",
        ),
        "kill_9 or both_stores or flipped or any_file",
    ),
}
_TOP = Path(__file__).resolve().parents[3]
_EQUIVALENT = Path(__file__).with_name("equivalent.toml")
_DEAD = ("killed", "timeout", "caught by type check", "segfault")
_SQL = re.compile(r'"(BEGIN|COMMIT|DELETE|INSERT|PRAGMA|ROLLBACK|SELECT|UPDATE|WHERE)\b')
_COPIED = ("chain", "gateway", "inventory", "nodes", "testbed", "tests")
# Of a mutated `__init__` there are many copies, which all declare its attributes.
_TYPES = "-m mypy --output=json --disable-error-code=unused-ignore --disable-error-code=no-redef"


class Change(NamedTuple):
    """What a mutant changes: the first line that it has in place of others (or that it lacks)."""

    function: str
    line: str


class Verdict(NamedTuple):
    """On one mutant: "killed", "survived", "no tests", ... `change` is there for survivors."""

    module: str
    status: str
    change: Change | None


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.testbed.mutants.tool", description=__doc__)
    parser.add_argument("--only", nargs="*", choices=GROUPS, default=[*GROUPS])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="run nothing, only print")
    arguments = parser.parse_args()
    equivalent = _equivalent()
    verdicts: list[Verdict] = []
    for name in arguments.only:
        os.chdir(_prepared(name))
        known = _verdicts(GROUPS[name].modules)
        wanted = [each for each, verdict in known.items() if _is_open(verdict, equivalent)]
        if wanted and not arguments.table:
            # Tests may call other functions than when mutmut looked last.
            Path("mutants", "mutmut-stats.json").unlink(missing_ok=True)
            command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(arguments.jobs)]
            if failed := subprocess.run([*command, *wanted], check=False).returncode:
                return failed
            known = _verdicts(GROUPS[name].modules)
        verdicts += known.values()
    sys.stdout.write(table(verdicts, equivalent))
    changes = {verdict.change for verdict in verdicts if verdict.change is not None}
    left = sorted(changes - equivalent.keys())
    for change in left:
        sys.stderr.write(f"survives: {change.function}: {change.line}\n")
    modules = {verdict.module for verdict in verdicts}
    stale = [
        each
        for each in sorted(equivalent.keys() - changes)
        if not arguments.table and any(each.function.startswith(module) for module in modules)
    ]
    for change in stale:
        sys.stderr.write(f"equivalent.toml: no survivor is {change.function}: {change.line}\n")
    return 1 if left or stale else 0


def _prepared(name: str) -> Path:
    """The folder that mutmut works in: the checkout, and a configuration of this group."""
    group = GROUPS[name]
    folder = _TOP / "runs" / "mutation" / name
    folder.mkdir(parents=True, exist_ok=True)
    for each in _COPIED:
        if not (folder / each).is_symlink():
            (folder / each).symlink_to(_TOP / each)
    files = [module.replace(".", "/") + ".py" for module in group.modules]
    without = ["-k", f"not ({group.without})"] if group.without else []
    settings: dict[str, object] = {
        "source_paths": sorted({file.partition("/")[0] for file in files}),
        "only_mutate": files,
        "also_copy": list(_COPIED),
        "pytest_add_cli_args_test_selection": list(group.tests),
        "pytest_add_cli_args": ["-p", "no:cacheprovider", *without],
        "type_check_command": [sys.executable, *_TYPES.split(), *files],
        "do_not_mutate_patterns": [r"raise \w+\("],
        "track_dependencies": False,
        "use_setproctitle": False,
    }
    # What JSON says of strings, lists and truth, TOML says alike.
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in settings.items()]
    config = (_TOP / "pyproject.toml").read_text() + "\n[tool.mutmut]\n" + "".join(lines)
    if (
        not (folder / "pyproject.toml").exists()
        or (folder / "pyproject.toml").read_text() != config
    ):
        (folder / "pyproject.toml").write_text(config)
    return folder


def table(verdicts: list[Verdict], equivalent: Collection[Change]) -> str:
    """A Markdown table."""
    lines = [
        "| module | mutants | killed by tests | by types | equivalent | survivors | not tried |",
        "|---|---|---|---|---|---|---|",
    ]
    for module in dict.fromkeys(verdict.module for verdict in verdicts):
        counts = Counter(
            "equivalent" if verdict.change in equivalent else verdict.status
            for verdict in verdicts
            if verdict.module == module
        )
        types, tests = counts["caught by type check"], sum(counts[each] for each in _DEAD)
        untried = counts["not checked"]
        left = counts.total() - tests - counts["equivalent"] - untried
        lines.append(
            f"| `{module}` | {counts.total()} | {tests - types} | {types} "
            f"| {counts['equivalent']} | {left} | {untried} |"
        )
    return "\n".join(lines) + "\n"


def _equivalent() -> dict[Change, str]:
    """And why."""
    entries = tomllib.loads(_EQUIVALENT.read_text())["mutant"]
    return {Change(each["function"], each["line"]): each["because"] for each in entries}


def _is_open(verdict: Verdict, equivalent: Collection[Change]) -> bool:
    """Whether it has to be tried: it has not been, or survived and nobody said why."""
    settled = verdict.status in (*_DEAD, "equivalent")
    return not settled and verdict.change not in equivalent


# --- mutmut's side: imported late, because only `make mutation` installs it ----------------------


def _verdicts(modules: Sequence[str]) -> dict[str, Verdict]:
    """By mutmut's names of the mutants: what it knows of them so far."""
    from mutmut.mutation.data import SourceFileMutationData  # noqa: PLC0415
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # noqa: PLC0415
    from mutmut.mutation.file_mutation import mutate_file_contents  # noqa: PLC0415
    from mutmut.stats import status_by_exit_code  # noqa: PLC0415
    from mutmut.utils.format_utils import get_mutant_name  # noqa: PLC0415

    verdicts = {}
    for module in modules:
        path = Path(module.replace(".", "/") + ".py")
        made = mutate_file_contents(str(path), path.read_text())
        kept = SourceFileMutationData(path=path)
        kept.load()
        for each in made.mutant_names:
            function = each.partition("__mutmut_")[0]
            name = get_mutant_name(path, each)
            same = made.hash_by_function_name[function] == kept.hash_by_function_name.get(function)
            code = kept.exit_code_by_key.get(name) if same else None
            status = status_by_exit_code[code]
            change = None
            if code is not None and status not in _DEAD:
                diff = get_diff_for_mutant(name, path=path)
                if _is_sql_in_another_case(diff):
                    status = "equivalent"
                else:
                    change = _change(module, function, diff)
            verdicts[name] = Verdict(module, status, change)
    return verdicts


def _lines(diff: str) -> tuple[list[str], list[str]]:
    """What was removed, and what is there instead."""
    lines = diff.splitlines()[2:]
    removed = [line[1:].strip() for line in lines if line.startswith("-")]
    return removed, [line[1:].strip() for line in lines if line.startswith("+")]


def _is_sql_in_another_case(diff: str) -> bool:
    """Then it means the same, but for quoted words in it."""
    (removed, *_), (added, *_) = ([*each, ""] for each in _lines(diff))
    same = removed != added and removed.casefold() == added.casefold()
    return same and "'" not in removed and _SQL.search(removed) is not None


def _change(module: str, function: str, diff: str) -> Change:
    removed, added = _lines(diff)
    plain = function.removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
    return Change(f"{module}.{plain}", added[0] if added else f"without {removed[0]}")


if __name__ == "__main__":
    raise SystemExit(main())
