"""What tests of several rooms of `testbed` need."""

from __future__ import annotations

import pytest

from testbed.campaign.kinds import kinds


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds that a test registers are gone after it. Kinds of a process are for its lifetime,
    so nothing public takes one away."""
    monkeypatch.setattr("testbed.campaign.kinds._registry", dict(kinds()))
