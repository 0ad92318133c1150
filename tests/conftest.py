"""Options for all tests."""

from __future__ import annotations

import atexit
import gc
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# No example is timed: how fast it is says more about the machine than about us. With CI set the
# examples are always the same, so that a verdict is about the commit; everywhere else they are new.
settings.register_profile(
    "testbed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    print_blob=True,
)
# `make soak` draws new ones, and ten times as many where a test names no number of its own.
settings.register_profile(
    "soak", settings.get_profile("testbed"), max_examples=1000, derandomize=False
)
settings.load_profile("testbed")

# What is imported stays: the collector need not walk it while tests are collected, nor ever after.
gc.disable()
atexit.register(gc.freeze)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden",
        action="store_true",
        help="write golden transcripts again instead of comparing; review the difference as code",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on hosts of their own come first: they wait more than they compute. So one worker has
    them one after the other, beside what computes, and none of them begins when all else is done.
    """
    items.sort(key=lambda item: item.get_closest_marker("lab") is None)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The SQLite connections that are opened during the test, in order. Some PRAGMAs are those of
    one connection: no other one can show or change them."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def noted(*args: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*args, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    return opened


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compares a text with the file of this name in the folder `golden` beside the test."""

    def compare(name: str, text: str) -> None:
        path = Path(str(request.node.path)).parent / "golden" / name
        if request.config.getoption("--rewrite-golden"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"{path} is missing: run pytest --rewrite-golden and review it"
        assert text == path.read_text(encoding="utf-8"), (
            f"{path} differs: if that is meant, run pytest --rewrite-golden and review the change"
        )

    return compare
