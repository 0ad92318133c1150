"""Hosts of this machine that behave like boards over SSH."""

from __future__ import annotations

from collections.abc import Sequence
from signal import Signals
from typing import Any

from testbed.hosts.local import LocalHost
from testbed.hosts.port import CommandResult, NodeCommand, Unit, Unreachable

__all__ = ["Outliving"]


class Outliving(LocalHost):
    """This machine as a board over SSH is: what runs there does not end with this program."""

    lost = False

    def run(self, argv: Sequence[str], **options: Any) -> CommandResult:
        if self.lost:
            raise Unreachable(self.name, "run", "no connection")
        return super().run(argv, **options)

    def start_command(self, unit: Unit) -> NodeCommand | None:
        return NodeCommand(("true",))

    def signal_command(self, name: str, signal: Signals) -> NodeCommand | None:
        return NodeCommand(("true",))
