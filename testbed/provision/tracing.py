"""Makes the processes of a deployment write traces (`nodes.trace_file`), by their configs.

Only campaigns do this, before the processes start. `collect` brings the files home.
"""

from __future__ import annotations

import json

from testbed.fleet import at_once
from testbed.provision.configs import CONFIG, TRACE, File
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["trace"]


def trace(deployment: Deployment, every: int) -> None:
    """One in `every` requests is traced, the same ones in all processes; 0: none."""
    if not every:
        return

    def one(node: Node) -> None:
        config = json.loads(deployment.host(node).get(node.file(CONFIG)))
        config |= {"trace": TRACE, "trace_every": every}
        deployment.put(node, File(CONFIG, json.dumps(config, indent=1).encode() + b"\n"))

    at_once(one, [each for each in deployment.nodes if each.role in deployment.system.traced])
