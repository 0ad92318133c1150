"""Draws a scenario from a seed: load, faults and traitors within a profile.

Each seed enables only a random part of its profile (swarm testing: a fault that is always there
hides bugs that need its absence). Every third seed heals only one quorum and leaves the rest broken
for good, because uniform faults miss livelocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from random import Random
from typing import TypedDict

import msgspec

from chain.genesis import Consensus
from chain.quorum import REPLICAS_MIN, Quorum
from testbed.errors import ConfigurationError
from testbed.simulate.draw_change import MembershipChange, draw_change
from testbed.simulate.draw_power import draw_power
from testbed.simulate.draw_stops import draw_stops
from testbed.simulate.scenario import (
    GATEWAY,
    Event,
    EventKind,
    KeptWrites,
    Links,
    Scenario,
    Traitor,
    links_among,
    request,
)
from testbed.simulate.strategies import STRATEGIES
from testbed.simulate.traitors import APART, TRICKS

__all__ = ["PROFILES", "Options", "draw"]

_OF_LINKS = ("partition", "loss", "duplicate", "delay", "far")
_OF_PROCESSES = ("crash", "outage", "pause")
PROFILES: dict[str, tuple[str, ...]] = {
    "none": (),
    "network": _OF_LINKS,
    "crash": _OF_PROCESSES,
    "disk": ("crash", "outage", "full", "wipe"),
    "membership": ("partition", "loss", "crash", "outage", "byzantine", "wipe", "member"),
    "clock": ("skew",),
    "cpu": ("partition", "loss", "crash", "pause"),
    "byzantine": ("byzantine",),
    "stop": (),
    "views": ("alone",),
    "power": ("crash", "loss", "power"),
    "all": (*_OF_LINKS, *_OF_PROCESSES, "skew", "byzantine", "full", "wipe", "member"),
}

# How often a kind is enabled if the profile has it. The default is half the time; kinds here make a
# run longer. A profile that is named after a kind always has it.
_ENABLED = {"full": 0.3, "wipe": 0.25, "member": 0.15}

# A slow processor uses dice of its own, so the other faults of a seed do not change.
_SLOW = {"cpu": 1.0, "all": 0.1}
# Time to check a signature; a client's takes `scheme.CLIENT_CHECKS` times as long.
_WORK_US = {"cpu": (2_000, 12_000), "all": (500, 6_000)}

_FAULTS_US = 5_000_000  # faults begin before this time
_FAULT_US_MIN = 50_000
_FAULT_US_MAX = 2_500_000
_PATIENCE_US = 90_000_000
_SKEW_US_MAX = 100_000  # of clocks that count as right
_GATEWAYS = 2
_DEVICES_MAX = 4
_REQUESTS_MIN = 8
_REQUESTS_MAX = 28
_OPERATIONS = ("data", "again", "forged", "stranger", "old-counter", "renew", "revoke")
_OPERATION_WEIGHTS = (70, 8, 5, 4, 5, 4, 4)


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for. `strategy` is one of `STRATEGIES`. `byzantine` has tricks
    ("a+b": both) and the number of replicas that play them; `es256` uses the product's signatures
    instead of the cheap ones.
    """

    replicas: int = 4
    faults: str = "all"
    strategy: str = "random"
    byzantine: tuple[tuple[str, int], ...] = ()
    es256: bool = False

    def check(self) -> None:
        """Raises ConfigurationError."""
        if self.replicas < REPLICAS_MIN:
            raise ConfigurationError(f"n = {self.replicas} tolerates no fault; pBFT needs 4")
        _must_be_one("fault profile", self.faults, PROFILES)
        _must_be_one("strategy", self.strategy, STRATEGIES)
        for trick, count in self.byzantine:
            for name in trick.split("+"):
                _must_be_one("trick", name, TRICKS)
            if not 0 < count <= self.replicas:
                raise ConfigurationError(f"{trick}:{count} of {self.replicas} replicas")


def _must_be_one(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigurationError(f"no {what} {name!r}; there are {', '.join(known)}")


def draw(options: Options, seed: int) -> Scenario:
    """The scenario of a seed: equal options and seed give equal scenarios, anywhere."""
    options.check()
    dice = Random(f"{seed}/{options.replicas}/{options.faults}/{options.byzantine}")  # noqa: S311
    n = options.replicas
    quorum = Quorum.of(n)
    kinds = [
        kind for kind in PROFILES[options.faults] if dice.random() < _enabled(options.faults, kind)
    ]
    traitors = _traitors(dice, options, quorum, "byzantine" in kinds)
    treacherous = frozenset(traitor.replica for traitor in traitors)
    change = MembershipChange()
    if "member" in kinds and len(traitors) <= quorum.faulty:
        change = draw_change(dice, n, treacherous, _FAULTS_US)
    total = n + change.joiners
    honest = [r for r in range(total) if r not in treacherous]
    devices = dice.randint(1, _DEVICES_MAX)
    heal_us = _FAULTS_US + dice.randrange(3_000_000)
    events = [*_requests(dice, devices, heal_us), *change.events]
    for kind in kinds:
        for _ in range(dice.randint(1, 4) if kind in _FAULT_DRAWS else 0):
            events += _FAULT_DRAWS[kind](dice, total, heal_us)
    if "alone" in kinds:
        events += _alone(dice, n, heal_us)
    if "power" in kinds:
        asked = [event.at_us for event in events if event.kind is EventKind.REQUEST]
        events += draw_power(dice, n, treacherous, asked, heal_us)
    survivors = tuple(r for r in honest if r not in change.lost)
    events += _permanent(dice, total, change.lost, heal_us)
    spare = min(Quorum.of(size).faulty for size in (n, *change.sizes)) - len(traitors)
    spare -= len(change.lost)
    if "wipe" in kinds and spare > 0:
        unsafe = [r for r in survivors if r < n]
        events += _wipes(dice, dice.sample(unsafe, dice.randint(1, spare)), heal_us)
    elif kinds and not traitors and not change.sizes and dice.random() < 0.33:
        survivors = tuple(sorted(dice.sample(honest, quorum.strong)))
        events += _permanent(dice, n, sorted(set(honest) - set(survivors)), heal_us)
    # If every message takes longer for good, each block costs some views (seed 1210, N = 4).
    slow_for_good = sum(event.kind is EventKind.DELAY and event.end_us is None for event in events)
    events += _slow(options, seed, total, heal_us)
    skew_us_max = _SKEW_US_MAX if dice.random() < 0.5 else 0
    scenario = Scenario(
        seed=seed,
        replicas=n,
        consensus=_consensus(dice, n, (2, 4) if change.sizes else (2, 4, 8)),
        gateways=_GATEWAYS,
        devices=devices,
        spread_us=dice.choice((1_000, 5_000, 20_000)),
        turn_us=dice.choice((0, 500, 5_000)),
        skews_us=tuple(dice.randint(-skew_us_max, skew_us_max) for _ in range(total)),
        traitors=traitors,
        events=tuple(sorted(events, key=lambda event: event.at_us)),
        survivors=survivors,
        heal_us=heal_us,
        patience_us=_PATIENCE_US * (1 + slow_for_good),
        es256=options.es256,
        joiners=change.joiners,
        keep_data_blocks=_keep_data_blocks(seed),
    )
    scenario = draw_stops(dice, scenario) if options.faults == "stop" else scenario
    return STRATEGIES[options.strategy](dice, scenario)


def _keep_data_blocks(seed: int) -> int | None:
    """Three networks in ten prune, so that most blocks that a wiped replica fetches are pruned. It
    uses dice of its own, so that seeds that are named somewhere keep their faults."""
    dice = Random(f"{seed}/prune")  # noqa: S311
    return dice.randint(1, 8) if dice.random() < 0.3 else None


def _enabled(profile: str, kind: str) -> float:
    always = (profile, kind) in (("membership", "member"), ("views", "alone"), ("power", "power"))
    return 1.0 if always else _ENABLED.get(kind, 0.5)


def _consensus(dice: Random, n: int, intervals: Sequence[int]) -> Consensus:
    fit = [k for k in intervals if Consensus(checkpoint_interval=k).replicas_max >= n]
    return Consensus(
        checkpoint_interval=dice.choice(fit),
        pipeline_window=dice.choice((1, 2, 4, 8)),
        batch_requests_max=dice.choice((1, 2, 8)),
        view_timeout_us=dice.choice((400_000, 800_000)),
        view_timeout_us_max=4_000_000,
        status_interval_us=dice.choice((150_000, 300_000)),
        heartbeat_us=dice.choice((1_000_000, 3_000_000)),
    )


def _traitors(dice: Random, options: Options, quorum: Quorum, wanted: bool) -> tuple[Traitor, ...]:
    order = dice.sample(range(quorum.n), quorum.n)
    if options.byzantine:
        tricks = [trick for trick, count in options.byzantine for _ in range(count)]
        # If they are too many, the first primary is among them, so that there is a fork to see.
        if len(tricks) > quorum.faulty:
            order.remove(0)
            order.insert(0, 0)
        chosen = [
            Traitor(r, tuple(trick.split("+"))) for r, trick in zip(order, tricks, strict=False)
        ]
    elif options.faults == "power" and dice.random() < 0.7:
        chosen = [Traitor(r, ("hoard",)) for r in order[: quorum.faulty]]
    elif wanted:
        count = dice.randint(1, quorum.faulty)
        names = sorted({*TRICKS} - {*APART})
        chosen = [
            Traitor(r, tuple(sorted(dice.sample(names, dice.choice((1, 1, 2))))))
            for r in order[:count]
        ]
    else:
        chosen = []
    return tuple(sorted(chosen, key=lambda traitor: traitor.replica))


def _requests(dice: Random, devices: int, until_us: int) -> list[Event]:
    return [
        request(
            dice.randrange(until_us),
            dice.randrange(devices),
            number,
            dice.choices(_OPERATIONS, _OPERATION_WEIGHTS)[0],
        )
        for number in range(dice.randint(_REQUESTS_MIN, _REQUESTS_MAX))
    ]


class _Span(TypedDict):
    at_us: int
    duration_us: int


def _span(dice: Random, heal_us: int) -> _Span:
    """When a fault begins that is over when the run heals, and how long it lasts."""
    at_us = dice.randrange(_FAULTS_US)
    duration_us = min(dice.randint(_FAULT_US_MIN, _FAULT_US_MAX), heal_us - at_us)
    return _Span(at_us=at_us, duration_us=duration_us)


def _partition(dice: Random, n: int) -> Links:
    """Blocked links in one of the shapes that are known to cause trouble."""
    order = dice.sample(range(n), n)
    everyone = links_among(order)
    cut = dice.randint(1, n - 1)
    left, right = set(order[:cut]), set(order[cut:])
    shape = dice.choice(("one-way", "two-way", "isolate", "halves", "bridge", "ring", "star"))
    match shape:
        case "one-way":
            blocked = [(a, b) for a, b in everyone if a in left and b in right]
        case "two-way":
            blocked = [(a, b) for a, b in everyone if (a in left) != (b in left)]
        case "isolate":
            blocked = [link for link in everyone if order[0] in link]
        case "halves":
            half = set(order[: n // 2])
            blocked = [(a, b) for a, b in everyone if (a in half) != (b in half)]
        case "bridge":
            half = set(order[1 : 1 + n // 2])
            blocked = [
                (a, b) for a, b in everyone if order[0] not in (a, b) and (a in half) != (b in half)
            ]
        case "ring":
            place = {node: index for index, node in enumerate(order)}
            blocked = [(a, b) for a, b in everyone if (place[a] - place[b]) % n not in (1, n - 1)]
        case _:
            blocked = [link for link in everyone if order[0] not in link]
    if dice.random() < 0.25:  # a gateway is on one side too
        gateway = GATEWAY + dice.randrange(_GATEWAYS)
        blocked += [link for r in left for link in ((r, gateway), (gateway, r))]
    return tuple(sorted(blocked))


def _alone(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    """Three views for one sequence number. First only one replica hears the others, so it alone
    prepares. Then it is cut off, and the others go on in the next view. Then it is back, and the
    primary of that view is cut off. No other fault leaves one request prepared in the first view
    and another in the second."""
    lone = dice.randrange(2, n)
    everyone = links_among(range(n))
    deaf = tuple((a, b) for a, b in everyone if (b != lone and a != 0) or a == lone)
    cut, next_primary = (tuple(link for link in everyone if r in link) for r in (lone, 1))
    first_us = dice.randrange(200_000, 1_500_000)
    second_us = first_us + dice.randint(200_000, 600_000)
    third_us = second_us + dice.randint(1_000_000, 2_500_000)
    phases = (
        (first_us, second_us, deaf),
        (second_us, third_us, cut),
        (third_us, heal_us, next_primary),
    )
    for start, stop, links in phases:
        yield Event(at_us=start, kind=EventKind.BLOCK, duration_us=stop - start, links=links)


def _all_links(n: int) -> Links:
    return links_among([*range(n), *(GATEWAY + g for g in range(_GATEWAYS))])


def _some_links(dice: Random, n: int) -> Links:
    share = dice.choice((0.2, 0.5, 1.0))
    return tuple(link for link in _all_links(n) if dice.random() < share)


# (dice, replicas, time of healing) -> events
_FaultDraw = Callable[[Random, int, int], Iterator[Event]]


def _block(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    yield Event(**_span(dice, heal_us), kind=EventKind.BLOCK, links=_partition(dice, n))


def _noise(kind: EventKind, low: int, high: int) -> _FaultDraw:
    def one(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
        yield Event(
            **_span(dice, heal_us),
            kind=kind,
            links=_some_links(dice, n),
            amount=dice.randint(low, high),
        )

    return one


def _far(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    """All links are slow for good, so only longer timeouts help. Even four such faults together
    stay below the limit for a message (`Consensus.message_delay_us`)."""
    amount = dice.randint(100_000, 250_000)
    at_us = dice.randrange(heal_us)
    yield Event(at_us=at_us, kind=EventKind.DELAY, links=_all_links(n), amount=amount)


def _crash(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    yield Event(
        **_span(dice, heal_us),
        kind=EventKind.CRASH,
        nodes=(dice.randrange(n),),
        amount=dice.choice((0, *range(1, 12))),
        detail=dice.choice(list(KeptWrites)).value,
    )


def _outage(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    """Everything loses power at once, or nearly."""
    span = _span(dice, heal_us)
    spread_us = dice.choice((1, 10_000))
    for replica in range(n):
        yield Event(
            at_us=span["at_us"] + dice.randrange(spread_us),
            kind=EventKind.CRASH,
            duration_us=max(_FAULT_US_MIN, span["duration_us"] // dice.randint(1, 4)),
            nodes=(replica,),
            amount=dice.choice((0, 0, 1, 2)),
            detail=dice.choice(list(KeptWrites)).value,
        )


def _pause(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    yield Event(**_span(dice, heal_us), kind=EventKind.PAUSE, nodes=(dice.randrange(n),))


def _skew(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    yield Event(
        **_span(dice, heal_us),
        kind=EventKind.SKEW,
        nodes=(dice.randrange(n),),
        amount=dice.choice((-1, 1)) * dice.choice((300_000, 2_000_000, 3_600_000_000)),
    )


def _slow(options: Options, seed: int, n: int, heal_us: int) -> Iterator[Event]:
    """Processors that are too slow for the timeouts, for good: those of all replicas, or of one."""
    dice = Random(f"{seed}/{options.replicas}/slow")  # noqa: S311
    if dice.random() >= _SLOW.get(options.faults, 0.0):
        return
    nodes = tuple(range(n)) if dice.random() < 0.7 else (dice.randrange(n),)
    amount = dice.randint(*_WORK_US[options.faults])
    at_us = dice.randrange(heal_us)
    yield Event(at_us=at_us, kind=EventKind.SLOW, nodes=nodes, amount=amount)


def _full(dice: Random, n: int, heal_us: int) -> Iterator[Event]:
    yield Event(
        **_span(dice, heal_us),
        kind=EventKind.FULL,
        nodes=(dice.randrange(n),),
        amount=dice.randrange(12),
    )


def _wipes(dice: Random, replicas: Sequence[int], heal_us: int) -> Iterator[Event]:
    """Each of these loses its disk, once or twice."""
    for replica in replicas:
        for _ in range(dice.choice((1, 1, 2))):
            yield Event(**_span(dice, heal_us), kind=EventKind.WIPE, nodes=(replica,))


_FAULT_DRAWS: dict[str, _FaultDraw] = {
    "partition": _block,
    "loss": _noise(EventKind.LOSS, 5, 60),
    "duplicate": _noise(EventKind.DUPLICATE, 5, 60),
    "delay": _noise(EventKind.DELAY, 10_000, 600_000),
    "far": _far,
    "crash": _crash,
    "outage": _outage,
    "pause": _pause,
    "skew": _skew,
    "full": _full,
}


def _permanent(dice: Random, n: int, broken: Sequence[int], heal_us: int) -> Iterator[Event]:
    """These replicas never recover: they are dead, cut off in one or both directions, or pause
    again and again."""
    for lost in broken:
        out = tuple((lost, r) for r in range(n) if r != lost)
        into = tuple((r, lost) for r in range(n) if r != lost)
        way = dice.choice(("dead", "dumb", "deaf", "cut", "stutter", "bad-clock"))
        at_us = dice.randrange(heal_us)
        match way:
            case "dead":
                yield Event(at_us=at_us, kind=EventKind.CRASH, nodes=(lost,), detail="lost")
            case "dumb":
                yield Event(at_us=at_us, kind=EventKind.BLOCK, links=out)
            case "deaf":
                yield Event(at_us=at_us, kind=EventKind.BLOCK, links=into)
            case "cut":
                yield Event(at_us=at_us, kind=EventKind.BLOCK, links=out + into)
            case "stutter":
                yield Event(at_us=at_us, kind=EventKind.LOSS, links=out + into, amount=70)
            case _:
                yield Event(at_us=at_us, kind=EventKind.SKEW, nodes=(lost,), amount=3_600_000_000)
