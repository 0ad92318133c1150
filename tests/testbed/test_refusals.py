"""Everything that must be refused is, by the layer that gateway/README.md says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from testbed.cli import main

README = Path(__file__).parents[2] / "gateway" / "README.md"


@pytest.mark.timeout(240)
def test_the_table_of_refusals_is_what_happens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["refusals", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) > 40
    readme = README.read_text()
    for row in found:
        assert "| {tried} | {layer} | {reason} |".format(**row) in readme
