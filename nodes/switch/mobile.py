"""`python -m nodes.switch.mobile --config FILE`: a mobile device with a switch (`orders`).

The seams: `wire`, its link to the broker; `middle`, its connection to it; `sensor`, its own
readings.
"""

from __future__ import annotations

from gateway.hops import Trace
from nodes.device.device import Uplink
from nodes.device.mobile import make
from nodes.device.process import Work, device_main
from nodes.edge_config import MobileConfig
from nodes.events import EventLog
from nodes.switch.edge import SwitchedDevice

__all__ = ["SwitchedMobileConfig", "main"]


class SwitchedMobileConfig(MobileConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`switch` is the directory of orders. `middle`: somebody stands between it and the broker."""

    switch: str
    middle: bool = False


class _Switched:
    edge: SwitchedDevice

    def around(self, config: SwitchedMobileConfig, events: EventLog) -> SwitchedDevice:
        self.edge = SwitchedDevice(config.switch, events, middle=config.middle)
        return self.edge

    def make(
        self, config: SwitchedMobileConfig, net: str, events: EventLog, trace: Trace
    ) -> tuple[Uplink, Work]:
        uplink, work = make(config, net, events, trace)
        return uplink, self.edge.sensor.around(work)


def main() -> None:
    switched = _Switched()
    device_main("mobile", SwitchedMobileConfig, __doc__, switched.make, switched.around)


if __name__ == "__main__":
    main()
