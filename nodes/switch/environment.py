"""`python -m nodes.switch.environment --config FILE`: an environmental device with a switch.

The seams: `wire`, its link to the broker; `middle`, its connection to it; `relay`, the messages
that it carries for others; `sensor`, the readings of its boards.
"""

from __future__ import annotations

from gateway.hops import Trace
from nodes.device.environment import with_boards
from nodes.device.process import Parts, device_main
from nodes.edge_config import EnvironmentConfig
from nodes.events import EventLog
from nodes.switch.edge import SwitchedDevice
from nodes.switch.relay import SEAM, RelayOrder, SwitchedRelay

__all__ = ["SwitchedEnvironmentConfig", "main"]


class SwitchedEnvironmentConfig(
    EnvironmentConfig, frozen=True, forbid_unknown_fields=True, kw_only=True
):
    """`switch` is the directory of orders. `middle`: somebody stands between it and the broker."""

    switch: str
    middle: bool = False


def _switched(config: SwitchedEnvironmentConfig, net: str, events: EventLog, trace: Trace) -> Parts:
    edge = SwitchedDevice(config.switch, events, middle=config.middle)
    uplink = SwitchedRelay(net, events, trace)
    edge.orders.add(SEAM, RelayOrder, uplink.take)
    return Parts(uplink, edge.sensor.around(with_boards(config, events)), edge)


def main() -> None:
    device_main("environment", SwitchedEnvironmentConfig, __doc__, _switched)


if __name__ == "__main__":
    main()
