"""The time that a replica's work takes: prices by kind of message, and the cores that do the work.

`testbed.model.calibration` measures prices; `priced` is the machine that uses them.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from testbed.simulate.timeline import Timeline

__all__ = ["Cores", "Costs", "Price"]


_US_MAX = 1e9
_Us = Annotated[float, Meta(ge=0, le=_US_MAX)]
_KINDS_MAX, _DELAYS_MAX, _CORES_MAX = 100, 10_000, 1024


class Price(msgspec.Struct, frozen=True):
    """Microseconds of work for one message of a kind, without signatures. `open_us`: to decode it.
    `handle_us`: for core, endorser and store until its effects are known."""

    open_us: _Us
    handle_us: _Us


_UNKNOWN = Price(60.0, 60.0)


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """Microseconds of a replica's work, on one core.

    `kinds` has a price for each class of message, and for four more: "Request" (each request that
    is submitted or proposed), "Prepared" (to make a COMMIT and keep it, when a vote has completed
    the quorum), "Block" and "Record" (to execute a block, and each record in it). `delays_us`:
    delays of a link; each value is equally likely.
    """

    kinds: Annotated[dict[str, Price], Meta(max_length=_KINDS_MAX)]
    check_us: _Us  # one signature
    sign_us: _Us
    sync_us: _Us
    send_us: _Us  # one write of frames to a party: encrypt, write, wake the receiver, read
    delays_us: Annotated[
        tuple[Annotated[int, Meta(ge=0, le=int(_US_MAX))], ...],
        Meta(min_length=1, max_length=_DELAYS_MAX),
    ]
    # Cores of each replica, for signature checks; or of the host that all share.
    cores: Annotated[int, Meta(ge=1, le=_CORES_MAX)] = 1
    shared: bool = False  # all replicas run on one host
    superfluous_checked: bool = False  # as if votes beyond a quorum were verified and handled
    commits_checked: bool = False  # as if each COMMIT's signature were verified

    def price(self, kind: str) -> Price:
        return self.kinds.get(kind, _UNKNOWN)

    def delay_us(self, random: Random) -> int:
        return random.choice(self.delays_us)


class Cores:
    """Processors that several machines may share. A machine keeps a core until it gives it back.
    The next machine is drawn at random. A queue would always favour the replica that wakes first,
    because replicas send to each other in the order of their ids."""

    def __init__(self, timeline: Timeline, count: int) -> None:
        self._timeline = timeline
        self._free = count
        self._waiting: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._random = Random("cores")  # noqa: S311 - must repeat

    def take(self, action: Callable[..., None], *arguments: Any) -> None:
        """Calls `action` when a core is free: now, or when this machine is drawn."""
        if self._free:
            self._free -= 1
            action(*arguments)
        else:
            self._waiting.append((action, arguments))

    def give(self) -> None:
        if self._waiting:
            place = self._random.randrange(len(self._waiting))
            action, arguments = self._waiting.pop(place)
            self._timeline.after(0, action, *arguments)
        else:
            self._free += 1
