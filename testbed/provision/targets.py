"""Where the processes of a lab give metrics, for Prometheus."""

from __future__ import annotations

from typing import NamedTuple

from inventory.model import Lab
from testbed.provision.configs import metrics_address
from testbed.provision.layout import layout

__all__ = ["Target", "metrics_targets"]

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


class Target(NamedTuple):
    """A process by its name, `address` as HOST:PORT."""

    process: str
    address: str
    labels: dict[str, str]


def metrics_targets(lab: Lab) -> list[Target]:
    """A process that listens on all addresses of its host is reached by the management network."""
    nodes = layout(lab)
    targets = []
    for node in nodes:
        at = metrics_address(node, nodes, lab)
        if at is not None:
            host = lab.login_address(node.host) if at.host in _ANYWHERE else at.host
            host = f"[{host}]" if ":" in host else host
            labels = {"lab": lab.lab, "host": node.host, "role": node.role}
            targets.append(Target(node.name, f"{host}:{at.port}", labels))
    return targets
