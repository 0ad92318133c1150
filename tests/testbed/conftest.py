"""What tests of several rooms of `testbed` need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.campaign.kinds import kinds
from tests.testbed.hosts_support import SshServer


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds that a test registers are gone after it. Kinds of a process are for its lifetime,
    so nothing public takes one away."""
    monkeypatch.setattr("testbed.campaign.kinds._registry", dict(kinds()))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SshServer]:
    with SshServer(tmp_path / "sshd") as running:
        yield running
