"""Finds a system by its name."""

from __future__ import annotations

from testbed.campaign.event import SystemName
from testbed.systems.baseline import BASELINE
from testbed.systems.chain import CHAIN
from testbed.systems.system import System

__all__ = ["SYSTEMS", "find_system"]

SYSTEMS: tuple[System, ...] = (CHAIN, BASELINE)


def find_system(name: SystemName) -> System:
    """The system that a schedule names."""
    return next(each for each in SYSTEMS if each.name == name)
