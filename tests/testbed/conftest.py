"""What tests of several rooms of `testbed` need."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.bundle import RunFolder
from testbed.campaign.kinds import kinds
from testbed.care.restore import restore
from testbed.emulate.lab import EmulatedLab
from testbed.hosts.ssh import SshHost
from tests.testbed.bundles import Story
from tests.testbed.emulate_support import emulated, host
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


@pytest.fixture(scope="module")
def one_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedLab]:
    with emulated(tmp_path_factory.mktemp("lab") / "out", hosts=1) as lab:
        yield lab


@pytest.fixture
def pi01(one_host: EmulatedLab) -> Iterator[SshHost]:
    """The host of this lab; restored after the test."""
    with host(one_host, "pi01") as inside:
        inside.run(["true"])
        yield inside
        restore(inside, lambda _: None)


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A bundle that many tests only read; whoever spoils it takes a copy (`run`)."""
    return Story(tmp_path_factory.mktemp("story"))


@pytest.fixture
def run(story: Story, tmp_path: Path) -> RunFolder:
    return story.copy(tmp_path)
