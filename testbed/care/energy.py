"""Reads the power that hosts take from meters: one case per driver of the inventory's `meter:`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from threading import Timer
from typing import Annotated, assert_never

import msgspec

from inventory.entries import EmulatedMeter, ShellyMeter
from inventory.model import Lab
from testbed.errors import LabFault

__all__ = ["EnergySample", "meters_of"]

_ANSWER_S = 3.0
_ANSWER_BYTES_MAX = 64 * 1024
_WATTS_MAX = 100_000.0  # higher figures are taken as wrong


class EnergySample(msgspec.Struct, frozen=True, kw_only=True):
    """`total_wh` is the meter's own counter, None if it has none."""

    watts: float
    total_wh: float | None = None


def meters_of(lab: Lab) -> dict[str, Callable[[], EnergySample]]:
    """A function per active host with a meter, which reads it. It raises LabFault."""
    found: dict[str, Callable[[], EnergySample]] = {}
    for name, host in lab.active.items():
        match host.meter:
            case None:
                continue
            case ShellyMeter():
                found[name] = partial(_shelly, name, host.meter)
            case EmulatedMeter():
                found[name] = partial(EnergySample, watts=host.meter.watts)
            case _:
                assert_never(host.meter)
    return found


class _Counter(msgspec.Struct):
    total: float


class _Switch(msgspec.Struct):
    apower: Annotated[float, msgspec.Meta(ge=-_WATTS_MAX, le=_WATTS_MAX)]
    aenergy: _Counter | None = None


def _shelly(name: str, meter: ShellyMeter) -> EnergySample:
    try:
        said = msgspec.json.decode(
            _get(meter.addr, f"/rpc/Switch.GetStatus?id={meter.channel}"), type=_Switch
        )
    except (OSError, ValueError, HTTPException) as error:  # and of wrong answers
        # Without the address: it goes into a bundle.
        raise LabFault(f"{name}: its meter: {error}") from error
    total_wh = None if said.aenergy is None else said.aenergy.total
    return EnergySample(watts=said.apower, total_wh=total_wh)


def _get(address: str, path: str) -> bytes:
    """Fetches the answer, without proxy or redirect to another host. It takes at most `_ANSWER_S`,
    even if single bytes keep coming."""
    is_ipv6 = address.count(":") > 1
    server = f"[{address}]" if is_ipv6 else address
    with closing(HTTPConnection(server, timeout=_ANSWER_S)) as connection:
        connection.connect()
        late = Timer(_ANSWER_S, _hang_up, (connection.sock,))
        late.start()
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != HTTPStatus.OK:
                raise HTTPException(f"HTTP status {answer.status}")
            return answer.read(_ANSWER_BYTES_MAX)
        finally:
            late.cancel()


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):  # it is closed already
        sock.shutdown(socket.SHUT_RDWR)
