"""Where the processes of a lab give metrics, for Prometheus."""

from __future__ import annotations

from typing import NamedTuple

from inventory.model import Lab
from testbed.provision.configs import METRICS_ROLES, metrics_address
from testbed.provision.layout import layout

__all__ = ["Target", "metrics_targets"]

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


class Target(NamedTuple):
    """`address` as HOST:PORT."""

    address: str
    labels: dict[str, str]


def metrics_targets(lab: Lab) -> list[Target]:
    """Who listens on every address of its host is reached over the management network."""
    nodes = layout(lab)
    targets = []
    for node in nodes:
        at = metrics_address(node, nodes, lab)
        if at is not None and node.role in METRICS_ROLES:
            host = lab.login_address(node.host) if at.host in _ANYWHERE else at.host
            labels = {"lab": lab.lab, "host": node.host, "role": node.role}
            targets.append(Target(f"{host}:{at.port}", labels))
    return targets
