"""The table of `make mutation`, and the sentences that excuse survivors."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.testbed.mutants import tool
from tests.testbed.mutants.tool import GROUPS, Change, Verdict, table

TOP = Path(tool.__file__).parents[3]


def test_each_mutant_counts_once() -> None:
    excused, left = Change("chain.a.f", "return 1"), Change("chain.a.g", "return 2")
    verdicts = [
        Verdict("chain.a", "killed", None),
        Verdict("chain.a", "timeout", None),
        Verdict("chain.a", "caught by type check", None),
        Verdict("chain.a", "survived", excused),
        Verdict("chain.a", "no tests", left),
        Verdict("chain.b", "not checked", None),
    ]
    lines = table(verdicts, {excused: "why"}).splitlines()
    assert lines[2:] == [
        "| `chain.a` | 5 | 2 | 1 | 1 | 1 | 0 |",
        "| `chain.b` | 1 | 0 | 0 | 0 | 0 | 1 |",
    ]


def test_each_excuse_is_of_a_module_that_is_tried_and_says_why() -> None:
    path = Path(tool.__file__).with_name("equivalent.toml")
    modules = tuple(module for group in GROUPS.values() for module in group.modules)
    entries = tomllib.loads(path.read_text())["mutant"]
    places = [(each["function"], each["line"]) for each in entries]
    assert len(places) == len(set(places))
    for each in entries:
        assert each["function"].startswith(modules)
        assert each["because"].endswith(".")


def test_the_modules_and_tests_of_the_groups_exist() -> None:
    for group in GROUPS.values():
        for module in group.modules:
            assert (TOP / (module.replace(".", "/") + ".py")).is_file()
        for test in group.tests:
            assert (TOP / test).is_file()
