"""Faults of links: `net.*`, between replicas and between devices, gateways and the broker.

`testbed.links` shapes links; `partitions` finds the ways that a partition cuts. Each kind takes the
first backend that the lab has: nft and tc on hosts, the emulated lab's switch, or the wire inside
our processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, Self
from weakref import WeakKeyDictionary

import msgspec
from pydantic import Field, JsonValue, model_validator

from gateway.shaping import CUT, NO_SHAPE, Shape
from inventory.entries import Cap
from inventory.model import Lab
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, Targets, nobody, register
from testbed.campaign.quantities import Duration, DurationField, SpanField
from testbed.campaign.selectors import Selector, SelectorField, is_symbolic
from testbed.faults.heard import Heard
from testbed.faults.partitions import PartitionShape, apart, cut_off, cut_ways
from testbed.faults.repeating import Repeating
from testbed.faults.switch import equip
from testbed.links.emulated import EmulatedLinks, why_not_emulated
from testbed.links.on_host import HostLinks, why_not_on_host
from testbed.links.port import Links, RuleInForce, Way
from testbed.links.wire import WireLinks
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["Flap", "LinkFault"]

SEVERE_SHARE: Final = 0.5
SEVERE_KBIT: Final = 64
"""A slower link counts as cut."""

Share = Annotated[float, Field(gt=0, le=1)]
Raw = Mapping[str, JsonValue]


class OnLinks(Params):
    """From each `from` to each `to`; with `both` also back. A link counts as cut, and makes
    replicas faulty, if it delays by half the view timeout, loses half of its messages or has less
    than 64 kbit/s."""

    from_: SelectorField = Field(alias="from")
    to: SelectorField
    both: bool = False
    for_: SpanField = Field(alias="for")


class Delay(OnLinks):
    """What is sent arrives `by` later."""

    by: DurationField


class Jitter(OnLinks):
    """What is sent arrives up to twice `by` later, each time differently."""

    by: DurationField


class Loss(OnLinks):
    """A share of what is sent is lost."""

    share: Share


class Reorder(OnLinks):
    """All messages are delayed `by`, except a share that overtakes the rest."""

    share: Share
    by: DurationField = Duration.parse("20ms")


class Duplicate(OnLinks):
    """A share of what is sent arrives twice."""

    share: Share


class Corrupt(OnLinks):
    """A bit is flipped in a share of what is sent."""

    share: Share


class Rate(OnLinks):
    """The link carries `kbit` kilobits a second."""

    kbit: float = Field(gt=0, le=1e9)


class SlowLink(Params):
    """All links of a replica to and from other replicas and gateways are slow."""

    on: SelectorField = Selector.parse("primary")
    by: DurationField
    for_: SpanField = Field(alias="for")


class Partition(Params):
    """`one-way` and `two-way` cut `from` off from `to`. `split` cuts `from` (a minority or a
    majority) off from all other replicas and the gateways. `bridge` leaves two halves that are
    connected only through `from`. In a `ring` each replica hears only its two neighbours. The side
    without a quorum counts as faulty."""

    shape: PartitionShape
    from_: SelectorField | None = Field(default=None, alias="from")
    to: SelectorField | None = None
    for_: SpanField = Field(alias="for")

    @model_validator(mode="after")
    def _has_what_its_shape_needs(self) -> Self:
        given = {"from": self.from_, "to": self.to}
        apart(self.shape, [key for key, value in given.items() if value is not None])
        return self


class Flap(Params):
    """Links between `from` and `to` are cut and repaired in turns, each for half of `period`."""

    from_: SelectorField = Field(alias="from")
    to: SelectorField
    period: SpanField
    for_: SpanField = Field(alias="for")


# --- from a campaign to rules -------------------------------------------------------------------


def _ms(params: Raw, name: str = "by") -> float:
    return float(str(params[f"{name}_ms"]))


def _share(params: Raw) -> float:
    return float(str(params["share"]))


def _cut(_: Raw) -> Shape:
    return CUT


_SHAPES: dict[str, Callable[[Raw], Shape]] = {
    "net.delay": lambda p: Shape(delay_ms=_ms(p)),
    "net.jitter": lambda p: Shape(delay_ms=_ms(p), jitter_ms=_ms(p)),
    "net.loss": lambda p: Shape(loss=_share(p)),
    "net.reorder": lambda p: Shape(delay_ms=_ms(p), reorder=_share(p)),
    "net.duplicate": lambda p: Shape(duplicate=_share(p)),
    "net.corrupt": lambda p: Shape(corrupt=_share(p)),
    "net.rate": lambda p: Shape(rate_kbit=float(str(p["kbit"]))),
    "net.slow-link": lambda p: Shape(delay_ms=_ms(p)),
    "net.partition": _cut,
    "net.flap": _cut,
}


def _is_severe(shape: Shape, view_timeout_ms: float) -> bool:
    return (
        shape.delay_ms >= view_timeout_ms / 2
        or max(shape.loss, shape.corrupt) >= SEVERE_SHARE
        or 0 < shape.rate_kbit < SEVERE_KBIT
    )


def _ways(name: str, replicas: tuple[str, ...], targets: Targets, params: Raw) -> Any:
    """The ways that an event affects, from the names of its targets."""
    from_, to = targets.get("from", ()), targets.get("to", ())
    if name == "net.partition":
        shape: Any = params["shape"]
        return cut_ways(shape, replicas, from_, to)
    if name == "net.slow-link":
        return cut_ways("split", replicas, targets["on"], ())
    both = name == "net.flap" or params.get("both")
    return cut_ways("two-way" if both else "one-way", replicas, from_, to)


def _impaired(lab: Lab, targets: Targets, params: Raw, *, name: str) -> tuple[str, ...]:
    if not _is_severe(_SHAPES[name](params), lab.chain.view_timeout_ms):
        return nobody(lab, targets, params)
    replicas = tuple(lab.replicas())
    if any(map(is_symbolic, (name for found in targets.values() for name in found))):
        replicas = ("primary", *(f"backup({k})" for k in range(1, len(replicas))))
    known = {*replicas, *lab.replicas()}
    ways = _ways(name, replicas, targets, params)
    return cut_off(way for way in ways if known >= {*way})


# --- the injections -----------------------------------------------------------------------------


class LinkFault(Injection):
    """Sets the rules, reads them back, observes, clears them, and checks that none is left and
    everyone has caught up.

    Seen when the rules are read back as they were given and have met messages, and when nobody
    hears a source that is cut off.
    """

    def __init__(self, scene: Scene, make: Callable[[Scene], Links]) -> None:
        super().__init__(scene)
        self._links = make(scene)
        self._owner = scene.event.id
        self._shape = _SHAPES[scene.event.kind](scene.event.params)
        self._rules: dict[Way, Shape] = {}
        self._heard: Heard | None = None
        self._tip = 0

    def arm(self) -> None:
        self._links.arm(self._owner, self._candidates(), self.scene.undo_after_s)

    def apply(self) -> None:
        pairs = self._pairs()
        self._heard = Heard(self.scene.watch, pairs if self._shape.is_cut else ())
        self._rules = dict.fromkeys(self._links.ways(pairs), self._shape)
        self._links.shape(self._owner, self._rules)

    def observe(self, within_s: float) -> Seen | None:
        return self.scene.poll(self._look, within_s)

    def _look(self) -> Seen | None:
        read = self._links.read_back(self._rules)
        stands = all(_alike(read[way].shape, shape) for way, shape in self._rules.items())
        touched = sum(each.touched for each in read.values())
        if not (stands and touched and self._heard is not None and self._heard.nothing()):
            return None
        quiet = ", and nobody hears them" if self._heard.pairs else ""
        return Seen(f"the rules stand and met {touched} messages{quiet}", _said(read))

    def heal(self) -> None:
        self._tip = self.scene.watch.tip()
        self._links.clear(self._owner)

    def verify(self, within_s: float) -> bool:
        """Whether no rule is left, and every replica is as high as the highest was at healing."""
        watch, until_s = self.scene.watch, time.monotonic() + within_s
        if not watch.wait_for(lambda: all(r.height >= self._tip for r in watch.replicas), within_s):
            return False
        return self.scene.poll(self._is_clear, until_s - time.monotonic())

    def _is_clear(self) -> bool:
        read = self._links.read_back(self._rules)
        return all(each.shape == NO_SHAPE for each in read.values())

    def _pairs(self) -> list[tuple[Node, Node]]:
        event, deployment = self.scene.event, self.scene.deployment
        replicas = tuple(node.name for node in deployment.with_role("replica"))
        named = {key: tuple(node.name for node in self.scene.nodes(key)) for key in event.targets}
        ways = list(_ways(event.kind, replicas, named, event.params))
        if event.kind == "net.slow-link" or event.params.get("shape") == "split":
            for gateway in deployment.with_role("gateway"):
                for name in named.get("on", named.get("from", ())):
                    ways += [(gateway.name, name), (name, gateway.name)]
        return [(deployment.node(a), deployment.node(b)) for a, b in ways]

    def _candidates(self) -> list[Node]:
        """All processes with links that may be affected."""
        found = [node for key in self.scene.event.targets for node in self.scene.candidates(key)]
        if self.scene.event.kind in ("net.partition", "net.slow-link"):
            for role in ("replica", "gateway"):
                found += self.scene.deployment.with_role(role)
        return list(dict.fromkeys(found))


class FlapFault(LinkFault):
    """Cuts and repairs by turns. Seen when the rules met messages in two cuts."""

    def __init__(self, scene: Scene, make: Callable[[Scene], Links]) -> None:
        super().__init__(scene, make)
        self._met: list[dict[Way, RuleInForce]] = []
        self._is_cut = True
        self._turns = Repeating("flap", self._turn)

    def apply(self) -> None:
        self._rules = dict.fromkeys(self._links.ways(self._pairs()), CUT)
        self._links.shape(self._owner, self._rules)
        half_s = _ms(self.scene.event.params, "period") / 2000
        self._turns.start(lambda: half_s)

    def _turn(self) -> None:
        if self._is_cut:
            read = self._links.read_back(self._rules)
            if any(each.touched for each in read.values()):
                self._met.append(read)
            self._links.shape(self._owner, dict.fromkeys(self._rules, NO_SHAPE))
        else:
            self._links.shape(self._owner, self._rules)
        self._is_cut = not self._is_cut

    def observe(self, within_s: float) -> Seen | None:
        self._turns.check()
        if not self.scene.poll(lambda: len(self._met) > 1, within_s):
            return None
        return Seen("two cuts met messages", _said(self._met[-1]))

    def heal(self) -> None:
        self._turns.end()
        super().heal()

    def verify(self, within_s: float) -> bool:
        self._turns.check()
        return super().verify(within_s)


def _alike(read: Shape, given: Shape) -> bool:
    """Whether the shapes are equal up to the rounding of kernels."""
    fields = Shape.__struct_fields__
    return all(
        abs(getattr(read, f) - getattr(given, f)) <= 0.01 * getattr(given, f) for f in fields
    )


def _said(read: Mapping[Way, RuleInForce]) -> dict[str, object]:
    return {
        str(way): {**msgspec.to_builtins(each.shape), "touched": each.touched}
        for way, each in read.items()
    }


# --- registered ---------------------------------------------------------------------------------

_shared: WeakKeyDictionary[Deployment, dict[type[Links], Links]] = WeakKeyDictionary()


def _of_deployment(scene: Scene, backend: type[Links]) -> Links:
    """One object per deployment, because events that overlap share hosts and thus their rules."""
    deployment = scene.deployment
    return _shared.setdefault(deployment, {}).setdefault(backend, backend(deployment))


def _mechanisms(fault: type[LinkFault], cap: Cap) -> tuple[Mechanism, ...]:
    on_host = partial(fault, make=partial(_of_deployment, backend=HostLinks))
    emulated = partial(fault, make=partial(_of_deployment, backend=EmulatedLinks))
    return (
        Mechanism("nft" if cap == "nft" else "tc", on_host, partial(why_not_on_host, cap=cap)),
        Mechanism("lab-switch", emulated, why_not_emulated),
        Mechanism("wire", partial(fault, make=WireLinks), equip=equip),
    )


def _register(
    name: str,
    params: type[Params],
    summary: str,
    *,
    cap: Cap = "netem",
    fault: type[LinkFault] = LinkFault,
    seen: str = "the rules are read back and have met messages",
) -> None:
    register(
        Kind(
            name,
            params,
            category="fault",
            layer="network",
            summary=summary,
            mechanisms=_mechanisms(fault, cap),
            impairs=partial(_impaired, name=name),
            seen=seen,
        )
    )


_register("net.delay", Delay, "messages arrive late")
_register("net.jitter", Jitter, "messages arrive late, each by a different time")
_register("net.loss", Loss, "a share of messages is lost", cap="nft")
_register("net.reorder", Reorder, "a share of messages overtakes the rest")
_register("net.duplicate", Duplicate, "a share of messages arrives twice")
_register("net.corrupt", Corrupt, "a bit of a share of messages is flipped")
_register("net.rate", Rate, "a link carries few kilobits a second")
_register("net.slow-link", SlowLink, "all links of a replica (the primary) are slow")
_register(
    "net.partition",
    Partition,
    "links are cut: one-way, two-way, split, bridge, ring",
    cap="nft",
    seen="the rules are read back, have met messages, and replicas hear the others no more",
)
_register(
    "net.flap",
    Flap,
    "links are cut and repaired in turns",
    cap="nft",
    fault=FlapFault,
    seen="two cuts have met messages",
)
