"""A command that is printed works as it is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import cli
from testbed.printed import as_typed, using


@pytest.fixture(autouse=True)
def nothing_typed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(sys, "argv", ["testbed"])
    yield
    using([], cli.COMMANDS)


def test_the_inventory_in_use_stands_for_FILE() -> None:
    using(["doctor", "-i", "my lab.yaml"], cli.COMMANDS)
    assert as_typed("fix: testbed restore -i FILE") == "fix: testbed restore -i 'my lab.yaml'"
    using(["doctor"], cli.COMMANDS)
    assert as_typed("fix: testbed restore -i FILE") == "fix: testbed restore"
    assert as_typed("name it with -i FILE") == "name it with -i FILE"
    using(["-i", "x.yaml"], cli.COMMANDS)
    many = "`testbed doctor` and testbed flash -i FILE --limit a; -i FILE"
    assert as_typed(many) == "`testbed doctor` and testbed flash -i x.yaml --limit a; -i FILE"


def test_a_program_that_is_not_on_the_path_is_named_by_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [".venv/bin/testbed"])
    using([], cli.COMMANDS)
    assert as_typed("retry: testbed run x") == "retry: .venv/bin/testbed run x"
    assert as_typed("a testbed of ours: testbed-x") == "a testbed of ours: testbed-x"


def test_sudo_stands_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    using([], cli.COMMANDS)
    for uid, down in ((1000, "sudo testbed emulate down"), (0, "testbed emulate down")):
        monkeypatch.setattr(os, "geteuid", lambda uid=uid: uid)
        assert as_typed("testbed emulate down") == down
        assert as_typed("testbed doctor") == "testbed doctor"
    monkeypatch.setenv("SUDO_USER", "pi")
    assert as_typed("testbed doctor") == "sudo testbed doctor", "as the reader typed this one"


def test_an_error_of_any_command_is_printed_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    missing = tmp_path / "lab.yaml"
    assert cli.main(["lock", "-i", str(missing)]) == 2
    assert "FILE" not in capsys.readouterr().err.replace("YAML", "")
