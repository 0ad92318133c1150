"""The run that the tests of its report start from, and a copy of it that each may spoil."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed.bundle import RunFolder
from tests.testbed.bundles import Story


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story"))


@pytest.fixture
def run(story: Story, tmp_path: Path) -> RunFolder:
    return story.copy(tmp_path)
