"""Makes a gateway log each refusal, for attacks in which every message is judged. Normally it logs
some thousand in a burst and then one a second, because strangers can cause them. Both arms of a
campaign get this."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = ["log_refusals"]

REFUSALS_LOGGED_MAX = 200_000


def log_refusals(deployment: Deployment) -> None:
    for node in deployment.with_role("gateway"):
        limits = deployment.config(node).get("limits", {})
        deployment.configure(node, limits=limits | {"events_burst": REFUSALS_LOGGED_MAX})
