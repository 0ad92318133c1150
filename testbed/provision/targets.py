"""Where the processes of a lab give metrics, for Prometheus."""

from __future__ import annotations

from inventory.model import Lab
from testbed.provision.configs import METRICS_ROLES, metrics_address
from testbed.provision.layout import layout

__all__ = ["metrics_targets"]

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def metrics_targets(lab: Lab) -> list[dict[str, object]]:
    """As `file_sd_configs` reads it. A process that listens on every address of its host is reached
    over the management network."""
    nodes = layout(lab)
    targets: list[dict[str, object]] = []
    for node in nodes:
        at = metrics_address(node, nodes, lab)
        if at is not None and node.role in METRICS_ROLES:
            host = lab.login_address(node.host) if at.host in _ANYWHERE else at.host
            labels = {"lab": lab.lab, "host": node.host, "role": node.role}
            targets.append({"targets": [f"{host}:{at.port}"], "labels": labels})
    return targets
