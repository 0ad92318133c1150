"""Orders that a device carries out itself: a file in the device's directory, on its host.

They go through the host port, so they work on this machine and over SSH. `nodes.device.renewal`
carries them out; the ledger shows the result.
"""

from __future__ import annotations

import msgspec

from nodes.device.renewal import ORDER_FILE, Order
from testbed.errors import ConfigurationError
from testbed.standing.attached import hosts_of
from testbed.standing.running_lab import RunningLab

__all__ = ["deliver"]

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
    with hosts_of(running) as hosts:
        hosts[node.host].put(msgspec.json.encode(order), f"{name}/state/{ORDER_FILE}", 0o600)
