"""Makes the processes of a deployment write traces (`nodes.trace_file`), by their configs.

Only campaigns do this, before the processes start. `collect` brings the files home.
"""

from __future__ import annotations

from testbed.fleet import at_once
from testbed.provision.configs import TRACE
from testbed.provision.deployment import Deployment

__all__ = ["trace"]


def trace(deployment: Deployment, every: int) -> None:
    """One in `every` requests is traced, the same ones in all processes; 0: none."""
    if not every:
        return

    traced = [each for each in deployment.nodes if each.role in deployment.system.traced]
    at_once(lambda node: deployment.configure(node, trace=TRACE, trace_every=every), traced)
