"""What a remote machine's supervisor must do for us; one small class per kind of supervisor."""

from __future__ import annotations

from signal import Signals
from typing import Protocol

from testbed.hosts.port import NodeCommand, Unit, UnitStatus

__all__ = ["Units"]


class Units(Protocol):
    """The unit verbs of the port, for one machine. Raises what `Host.run` raises."""

    def start(self, unit: Unit) -> None: ...
    def stop(self, name: str, timeout_s: float) -> None: ...
    def signal(self, name: str, signal: Signals) -> None: ...
    def status(self, name: str) -> UnitStatus: ...
    def units(self) -> tuple[str, ...]: ...
    def start_command(self, unit: Unit) -> NodeCommand: ...
