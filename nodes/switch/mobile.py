"""`python -m nodes.switch.mobile --config FILE`: a mobile device with a switch (`orders`).

The seams: `wire`, its link to the broker; `middle`, its connection to it; `sensor`, its own
readings.
"""

from __future__ import annotations

from gateway.hops import Trace
from nodes.device.mobile import make
from nodes.device.process import Parts, device_main
from nodes.edge_config import MobileConfig
from nodes.events import EventLog
from nodes.switch.edge import SwitchedDevice

__all__ = ["SwitchedMobileConfig", "main"]


class SwitchedMobileConfig(MobileConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`switch` is the directory of orders. `middle`: somebody stands between it and the broker."""

    switch: str
    middle: bool = False


def _switched(config: SwitchedMobileConfig, net: str, events: EventLog, trace: Trace) -> Parts:
    edge = SwitchedDevice(config.switch, events, middle=config.middle)
    honest = make(config, net, events, trace)
    return Parts(honest.uplink, edge.sensor.around(honest.work), edge)


def main() -> None:
    device_main("mobile", SwitchedMobileConfig, __doc__, _switched)


if __name__ == "__main__":
    main()
