"""Everything that must be refused is, by the layer that gateway/README.md says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from testbed.cli import main
from testbed.commands import refusals
from testbed.errors import LabFault
from testbed.refusals.trial import Refusal

README = Path(__file__).parents[2] / "gateway" / "README.md"


def test_the_table_of_refusals_is_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refusals", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert len(table.splitlines()) > 50
    readme = README.read_text()
    assert [row for row in table.splitlines() if row not in readme] == [], (
        "testbed refusals --markdown"
    )
    assert table in readme, "a row is missing, or the order differs: testbed refusals --markdown"


def test_what_is_not_refused_is_a_property_that_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1, and the table all the same; what the lab does is 3."""

    def attacked(*found: Refusal) -> Callable[..., object]:
        return lambda *_: found

    good, bad = Refusal.of("a", "gateway", "rate"), Refusal.of("door", "broker", "accepted")
    monkeypatch.setattr(refusals, "_attack", attacked(good, bad))
    assert main(["refusals", "--json"]) == 1
    said = capsys.readouterr()
    assert [each["layer"] for each in json.loads(said.out)] == ["gateway", "nobody"]
    assert "not refused: door" in said.err
    monkeypatch.setattr(refusals, "_attack", attacked(good))
    assert main(["refusals"]) == 0

    def fails(*_: object) -> None:
        raise LabFault("no broker")

    monkeypatch.setattr(refusals, "_attack", fails)
    assert main(["refusals"]) == 3
