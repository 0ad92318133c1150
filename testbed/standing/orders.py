"""Orders that a device carries out itself: a file in the device's directory, on its host.

They go through the host port, so they work on this machine and over SSH. `nodes.device.renewal`
carries them out; the ledger shows the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from nodes.device.renewal import ORDER_FILE, Order
from testbed.errors import ConfigurationError
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import Host
from testbed.standing.running_lab import RunningLab, RunningNode

__all__ = ["deliver", "host_of"]

_DEVICES = ("mobile", "environment")


def deliver(running: RunningLab, name: str, order: Order) -> None:
    """Raises ConfigurationError if no process of the lab has this name, and LabFault."""
    node = running.nodes.get(name)
    if node is None or node.role not in _DEVICES:
        devices = sorted(n for n, each in running.nodes.items() if each.role in _DEVICES)
        raise ConfigurationError(
            f"{name} is no process of this lab, so it cannot be ordered to do this; "
            f"these are: {', '.join(devices)}"
        )
    with host_of(running, node) as host:
        host.put(msgspec.json.encode(order), f"{name}/state/{ORDER_FILE}", 0o600)


@contextmanager
def host_of(running: RunningLab, node: RunningNode) -> Iterator[Host]:
    """The host of a running lab's process, for use from another program."""
    if node.directory is not None:
        with LocalHost(Path(node.directory).parent, name=node.host) as host:
            yield host
    else:
        with ssh_hosts(running.lab, [node.host]) as hosts:
            yield hosts[node.host]
