"""Removes the files of an earlier run from its processes' directories on a host.

A run starts only with keys, because an old ledger, outbox or event log would count as its own. Keys
stay where they were made, and so do the files of a flashed board.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.hosts.port import Host
from testbed.programs import shell
from testbed.provision.layout import Node

__all__ = ["clean"]


def clean(host: Host, nodes: Sequence[Node]) -> None:
    """Leave only keys in the directories of these processes. None of them may run."""
    names = [node.name for node in nodes if node.host == host.name]
    if names:
        host.run(shell("provision/clean.sh", *names))
