"""Removing what an earlier run left in its processes' directories on a host.

A run starts from nothing but keys: an old ledger, outbox or event log would otherwise be taken for
its own. Keys stay where they were made, with what flashing a device left.
"""

from __future__ import annotations

from collections.abc import Sequence

from testbed.hosts.port import Host
from testbed.programs import shell
from testbed.provision.layout import Node

__all__ = ["clean"]


def clean(host: Host, nodes: Sequence[Node]) -> None:
    """Leave only keys in the directories of these processes, all of which stand still."""
    names = [node.name for node in nodes if node.host == host.name]
    if names:
        host.run(shell("provision/clean.sh", *names))
