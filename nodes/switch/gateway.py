"""`python -m nodes.switch.gateway --config FILE`: a gateway with a switch (`orders`).

The seam `wire`: its links to the replicas and to the broker.
"""

from __future__ import annotations

from nodes.edge_config import GatewayConfig
from nodes.events import EventLog
from nodes.gateway.process import gateway_main
from nodes.switch.edge import SwitchedEdge

__all__ = ["SwitchedGatewayConfig", "main"]


class SwitchedGatewayConfig(GatewayConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`switch` is the directory of orders."""

    switch: str


def _around(config: SwitchedGatewayConfig, events: EventLog) -> SwitchedEdge:
    return SwitchedEdge(config.switch, events)


def main() -> None:
    gateway_main(SwitchedGatewayConfig, _around, __doc__)


if __name__ == "__main__":
    main()
