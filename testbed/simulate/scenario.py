"""Everything that will happen in one run, as plain values.

A scenario is drawn before the run (`testbed.simulate.draw`), so that it can be printed, replayed,
stored as JSON and shrunk. Only the dice of the network (which frame is lost, how long it takes)
are thrown during the run, from the same seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec

from chain.genesis import Consensus
from chain.quorum import Quorum

__all__ = [
    "GATEWAY",
    "NETWORK_KINDS",
    "ORDERS",
    "Event",
    "EventKind",
    "KeptWrites",
    "Links",
    "Scenario",
    "Traitor",
    "links_among",
    "quiet",
    "request",
]

Links = tuple[tuple[int, int], ...]

# Gateways are numbered from here, replicas from 0.
GATEWAY = 1000


class EventKind(Enum):
    """What an event does. Network kinds carry `links`, the others `nodes`."""

    REQUEST = "request"  # device nodes[0] does `detail`; `amount` is its payload
    BLOCK = "block"
    LOSS = "loss"  # `amount` per cent
    DUPLICATE = "duplicate"  # `amount` per cent
    DELAY = "delay"  # up to `amount` microseconds more, and so reordering
    CRASH = "crash"  # at the `amount`-th disk operation from now on (0: at once), as `detail` says
    PAUSE = "pause"  # the process stands still, its frames wait
    SLOW = "slow"  # checking a signature takes `amount` microseconds, a client's more
    SKEW = "skew"  # the clock is wrong by `amount` microseconds
    FULL = "full"  # the disk is full from its `amount`-th operation on
    WIPE = "wipe"  # power fails and the disk comes back empty
    ADD = "add"  # an administrator orders to add nodes[0]; it starts, empty, `amount` us later
    REMOVE = "remove"  # an administrator orders to remove nodes[0]
    REVOKE = "revoke"  # an administrator orders to revoke device nodes[0]


NETWORK_KINDS = frozenset({EventKind.BLOCK, EventKind.LOSS, EventKind.DUPLICATE, EventKind.DELAY})
ORDERS = frozenset({EventKind.ADD, EventKind.REMOVE, EventKind.REVOKE})


class KeptWrites(Enum):
    """How many of the unsynced writes the disk keeps (`Event.detail`)."""

    LOST = "lost"  # nothing
    TORN = "torn"  # a part, cut anywhere
    KEPT = "kept"  # all of it


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happens. `duration_us` 0 means for good (for a request: at once)."""

    at_us: int
    kind: EventKind
    duration_us: int = 0
    nodes: tuple[int, ...] = ()
    links: Links = ()
    amount: int = 0
    detail: str = ""

    @property
    def end_us(self) -> int | None:
        """When it is over; None if never."""
        return self.at_us + self.duration_us if self.duration_us else None


def request(at_us: int, device: int, number: int, what: str = "data") -> Event:
    """`number` is the payload, and tells requests apart."""
    return Event(at_us=at_us, kind=EventKind.REQUEST, nodes=(device,), amount=number, detail=what)


def links_among(nodes: Sequence[int]) -> Links:
    """The links from each node to each other one."""
    return tuple((a, b) for a in nodes for b in nodes if a != b)


class Traitor(msgspec.Struct, frozen=True):
    """A Byzantine replica and the names of its tricks (`testbed.simulate.traitors`)."""

    replica: int
    tricks: tuple[str, ...]


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `patience_us` after `heal_us`, all `survivors` that are members at the end must have
    executed every request, and every ordered membership must be in force.

    `replicas` exist from genesis. The `joiners` that may be added have the ids after theirs.

    Until `heal_us` the chain must grow at least every `gap_us_max` (0: no such demand).

    `spread_us` is how much the delays of healthy links differ; `turn_us` how long a replica lets
    frames gather before it handles them in one step (0: each alone).
    """

    seed: int
    replicas: int
    consensus: Consensus
    gateways: int
    devices: int
    spread_us: int
    turn_us: int
    skews_us: tuple[int, ...]
    traitors: tuple[Traitor, ...]
    events: tuple[Event, ...]
    survivors: tuple[int, ...]
    heal_us: int
    patience_us: int
    es256: bool = False
    joiners: int = 0
    gap_us_max: int = 0
    keep_data_blocks: int | None = None  # None: no replica prunes
    retry_us: int = 400_000  # of gateways, the first time
    group: tuple[int, int] | None = None  # (m, k) of authentication groups; None: 2f+1, f+1

    @property
    def machines(self) -> int:
        return self.replicas + self.joiners

    @property
    def quorum(self) -> Quorum:
        return Quorum.of(self.replicas)

    @property
    def beyond_bound(self) -> bool:
        """Whether there are more traitors than the protocol tolerates. Then a fork is expected."""
        return len(self.traitors) > self.quorum.faulty

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @classmethod
    def decode(cls, data: bytes) -> Scenario:
        """Raises msgspec.DecodeError."""
        return msgspec.json.decode(data, type=cls)


def quiet(replicas: int, consensus: Consensus, *, devices: int, requests: int) -> Scenario:
    """A run without faults. Each device has so many requests from the start, and makes one after
    the other."""
    return Scenario(
        seed=1,
        replicas=replicas,
        consensus=consensus,
        gateways=1,
        devices=devices,
        spread_us=1_000,
        turn_us=0,
        skews_us=(0,) * replicas,
        traitors=(),
        events=tuple(
            request(0, device, number) for number in range(requests) for device in range(devices)
        ),
        survivors=tuple(range(replicas)),
        heal_us=1,
        patience_us=3_600_000_000,
    )
