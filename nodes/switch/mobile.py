"""`python -m nodes.switch.mobile --config FILE`: a mobile device with a switch (`orders`).

The seam `wire`: its link to the broker; `middle`, its connection to it.
"""

from __future__ import annotations

from nodes.device.mobile import make
from nodes.device.process import device_main
from nodes.edge_config import MobileConfig
from nodes.events import EventLog
from nodes.switch.edge import SwitchedDevice

__all__ = ["SwitchedMobileConfig", "main"]


class SwitchedMobileConfig(MobileConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`switch` is the directory of orders. `middle`: somebody stands between it and the broker."""

    switch: str
    middle: bool = False


def _around(config: SwitchedMobileConfig, events: EventLog) -> SwitchedDevice:
    return SwitchedDevice(config.switch, events, middle=config.middle)


def main() -> None:
    device_main("mobile", SwitchedMobileConfig, __doc__, make, _around)


if __name__ == "__main__":
    main()
