"""`python -m nodes.switch.environment --config FILE`: an environmental device with a switch.

The seams: `wire`, its link to the broker; `relay`, what it carries for others.
"""

from __future__ import annotations

from nodes.device.device import Uplink
from nodes.device.environment import with_boards
from nodes.device.process import Work, device_main
from nodes.edge_config import EnvironmentConfig
from nodes.events import EventLog
from nodes.switch.edge import SwitchedEdge
from nodes.switch.relay import SEAM, RelayOrder, SwitchedRelay

__all__ = ["SwitchedEnvironmentConfig", "main"]


class SwitchedEnvironmentConfig(
    EnvironmentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """`switch` is the directory of orders."""

    switch: str


class _Switched:
    edge: SwitchedEdge

    def around(self, config: SwitchedEnvironmentConfig, events: EventLog) -> SwitchedEdge:
        self.edge = SwitchedEdge(config.switch, events)
        return self.edge

    def make(
        self, config: SwitchedEnvironmentConfig, net: str, events: EventLog
    ) -> tuple[Uplink, Work]:
        uplink = SwitchedRelay(net, events)
        self.edge.orders.add(SEAM, RelayOrder, uplink.take)
        return uplink, with_boards(config, events)


def main() -> None:
    switched = _Switched()
    device_main("environment", SwitchedEnvironmentConfig, __doc__, switched.make, switched.around)


if __name__ == "__main__":
    main()
