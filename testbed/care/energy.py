"""The power that hosts take, read from meters: one case per driver of the inventory's `meter:`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import assert_never
from urllib.request import ProxyHandler, build_opener

import msgspec

from inventory.entries import EmulatedMeter, ShellyMeter
from inventory.model import Lab
from testbed.errors import LabFault

__all__ = ["Reading", "meters_of"]

_ANSWER_S = 3.0
_ANSWER_BYTES_MAX = 64 * 1024
_direct = build_opener(ProxyHandler({}))  # a meter is in the lab, not behind a proxy


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """`total_wh` is the meter's own counter, None if it has none."""

    watts: float
    total_wh: float | None = None


def meters_of(lab: Lab) -> dict[str, Callable[[], Reading]]:
    """How to read the meter of each active host that has one. Reading raises LabFault."""
    found: dict[str, Callable[[], Reading]] = {}
    for name, host in lab.active.items():
        match host.meter:
            case None:
                continue
            case ShellyMeter():
                found[name] = partial(_shelly, name, host.meter)
            case EmulatedMeter():
                found[name] = partial(Reading, watts=host.meter.watts)
            case _:
                assert_never(host.meter)
    return found


class _Counter(msgspec.Struct):
    total: float


class _Switch(msgspec.Struct):
    apower: float
    aenergy: _Counter | None = None


def _shelly(name: str, meter: ShellyMeter) -> Reading:
    url = f"http://{meter.addr}/rpc/Switch.GetStatus?id={meter.channel}"
    try:
        with _direct.open(url, timeout=_ANSWER_S) as answer:
            said = msgspec.json.decode(answer.read(_ANSWER_BYTES_MAX), type=_Switch)
    except (OSError, ValueError) as error:  # of HTTP, and of what it said
        # Without the address: it goes into a bundle.
        raise LabFault(f"{name}: its meter: {error}") from error
    total_wh = None if said.aenergy is None else said.aenergy.total
    return Reading(watts=said.apower, total_wh=total_wh)
