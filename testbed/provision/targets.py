"""The addresses at which the processes of a lab give metrics, for Prometheus."""

from __future__ import annotations

from typing import NamedTuple

from inventory.addresses import normal
from inventory.model import Lab
from testbed.provision.configs import metrics_address
from testbed.provision.layout import layout

__all__ = ["metrics_targets"]

_ANYWHERE = ("0.0.0.0", "::")  # noqa: S104 - only compared with


class Target(NamedTuple):
    """One process: its name, and `address` as HOST:PORT."""

    process: str
    address: str
    labels: dict[str, str]


def metrics_targets(lab: Lab) -> list[Target]:
    """All processes with metrics. If one listens on all addresses of its host, the address on the
    management network is given."""
    nodes = layout(lab)
    targets = []
    for node in nodes:
        at = metrics_address(node, nodes, lab)
        if at is not None:
            host = lab.login_address(node.host) if normal(at.host) in _ANYWHERE else at.host
            host = f"[{host}]" if ":" in host else host
            labels = {"lab": lab.lab, "host": node.host, "role": node.role}
            targets.append(Target(node.name, f"{host}:{at.port}", labels))
    return targets
