"""Free TCP ports on a host, for processes whose inventory entry names none.

They are below the range that systems assign by themselves, so a process that is killed and started
again finds its port still free.
"""

from __future__ import annotations

import json
from random import SystemRandom

from testbed import programs
from testbed.hosts.port import Host, HostFault

__all__ = ["free_ports"]

PORT_MIN = 20_000
PORT_MAX = 32_000
TRIES_MAX = 400


def free_ports(host: Host, python: str, address: str, count: int) -> list[int]:
    """`count` ports on which nobody listens at `address`. Raises LabFault if there are too few."""
    if count == 0:
        return []
    candidates = SystemRandom().sample(range(PORT_MIN, PORT_MAX), TRIES_MAX)
    arguments = [address, str(count), json.dumps(candidates)]
    # On the host itself, because only the host knows which ports are taken.
    printed = host.run(programs.python(python, "provision/bindable.py", *arguments)).stdout
    found: list[int] = json.loads(printed)
    if len(found) < count:
        raise HostFault(
            host.name,
            "look for free ports",
            f"fewer than {count} of {TRIES_MAX} tried between {PORT_MIN} and {PORT_MAX} are free"
            f" at {address}",
            "name a port for this host in the inventory (port: ...)",
        )
    return found
