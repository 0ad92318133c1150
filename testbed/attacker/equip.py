"""Makes a gateway log each refusal, for attacks in which every message is judged. Normally it logs
some thousand in a burst and then one a second, because strangers can cause them. Both arms of a
campaign get this."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = ["log_refusals"]

REFUSALS_LOGGED_MAX = 200_000


def log_refusals(deployment: Deployment) -> None:
    from testbed.provision.configs import CONFIG, File  # noqa: PLC0415 - only a run needs it

    for node in deployment.with_role("gateway"):
        config = json.loads(deployment.host(node).get(node.file(CONFIG)))
        config["limits"] = config.get("limits", {}) | {"events_burst": REFUSALS_LOGGED_MAX}
        deployment.put(node, File(CONFIG, json.dumps(config, indent=1).encode() + b"\n"))
