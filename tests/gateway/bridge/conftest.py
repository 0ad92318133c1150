"""What every test of the bridge starts from: a world with a chain, and a gate at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chain.world import World
from tests.gateway.bridge.gate import Gate


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def gate(tmp_path: Path, world: World) -> Gate:
    return Gate(tmp_path, world)
