"""The vocabulary of faults and attacks: one `Kind` per dotted name that a campaign can `do`.

A kind has a name, parameters, the replicas that it makes faulty, and the mechanisms that can do it.
`testbed/faults/` and `testbed/attacks/` carry it out. Each module
there calls `register` when it is imported, and `kinds()` imports every module of the two packages:
a new kind is a new file. Keep these modules light to import, because `testbed plan` loads all of
them, and `testbed report` those of attacks. So import the code that carries an attack out only when
the attack is made. A kind with much such code is a package, like `testbed/attacks/replay`.

Parameters are a pydantic model; its docstring is the kind's documentation. Field types carry
meaning for the schedule:

- `SelectorField` (named on, from_, to): resolved to processes, found in the event's `targets`;
- `HostField`: the same, resolved to hosts;
- `DurationField` / `SpanField`: resolved to whole ms, found in `params` as `<name>_ms`, except
  `for_`, which is the event's own `for_ms`: how long until it is healed;
- anything else: found in `params` as it is.

A **mechanism** is one way to do a kind. Its `available` returns the reason why it cannot be done on
some hosts of a lab. The schedule names the first available mechanism. An event that has none is
skipped, with the reasons. The plan, the table of kinds against stages and the run all use the same
function (`choose`).
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, NoneType
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from inventory.entries import Strict
from inventory.model import Lab
from testbed.campaign.event import Category, Disturbed, Layer, SystemName
from testbed.campaign.injection import Equip, Judge, Maker
from testbed.campaign.quantities import Duration, SpanField, duration_ms_max
from testbed.campaign.selectors import Selector, SelectorField, is_symbolic
from testbed.systems.system import System

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = [
    "Available",
    "Impairs",
    "Kind",
    "Mechanism",
    "OnProcesses",
    "Params",
    "Targets",
    "anywhere",
    "attack_kinds",
    "equip",
    "kinds",
    "nobody",
    "register",
    "those",
]

_FAULTS: Final = "testbed.faults"
_ATTACKS: Final = "testbed.attacks"

Targets = Mapping[str, tuple[str, ...]]
Available = Callable[[Lab, tuple[str, ...]], str | None]
"""Says from the inventory why it cannot be done on these hosts of a lab; None if it can."""
Impairs = Callable[[Lab, Targets, Mapping[str, JsonValue]], tuple[str, ...]]
"""Returns the replicas that count as faulty: names, `primary` or `backup(K)`."""


class Params(Strict):
    """Base of every kind's parameters: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(defer_build=True)


class OnProcesses(Params):
    """What most faults take: the processes that they hit, and how long."""

    on: SelectorField
    for_: SpanField = Field(alias="for")


def anywhere(_lab: Lab, _hosts: tuple[str, ...]) -> str | None:
    """`available` of a mechanism that works in every stage."""
    return None


def nobody(_lab: Lab, _targets: Targets, _params: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """`impairs` of a kind that makes no replica faulty."""
    return ()


def those(*keys: str) -> Impairs:
    """`impairs` of a kind that makes its targets faulty: the replicas among the targets of these
    selectors. A host counts as the replica on it."""

    def impaired(lab: Lab, targets: Targets, _: Mapping[str, JsonValue]) -> tuple[str, ...]:
        names = [name for key in keys for name in targets.get(key, ())]
        replicas = lab.replicas()
        return tuple(name for name in names if name in replicas or is_symbolic(name))

    return impaired


@dataclass(frozen=True)
class Mechanism:
    """One way to do a kind. `make` builds the injection on a scene. `equip` prepares processes
    before they start, if the mechanism needs that. `systems` are those that it is made for; empty
    if it fits all that have the kind's layer (`System.lacks`).
    """

    name: str
    make: Maker
    available: Available = anywhere
    equip: Equip | None = None
    systems: tuple[SystemName, ...] = ()

    def why_not(self, layer: Layer, system: System, lab: Lab, hosts: tuple[str, ...]) -> str | None:
        """The reason why it cannot be done on these hosts; None if it can."""
        if self.systems and system.name not in self.systems:
            return f"it is made for the {' and the '.join(self.systems)}"
        if not self.systems and layer in system.lacks:
            return system.lacks[layer]
        if self.equip is not None and not system.has_switch:
            return f"the processes of the {system.name} have no switch for it"
        return self.available(lab, hosts)


@dataclass(frozen=True)
class Kind:
    """`impairs`, `lies` and `disturbs` are copied into `event.ScheduledEvent`.

    `summary` is one line. `judge` judges an attack, because each kind defines its own success.
    `seen` says in words how it is seen to take effect.
    """

    name: str
    params: type[Params]
    category: Category
    layer: Layer
    summary: str
    mechanisms: tuple[Mechanism, ...]
    judge: Judge | None = None
    impairs: Impairs = nobody
    lies: bool = False
    disturbs: tuple[Disturbed, ...] = ()
    seen: str = ""

    def parameters(self) -> tuple[str, ...]:
        """The parameters' names in a campaign file; optional ones are in brackets."""
        fields = self.params.model_fields.items()
        return tuple(
            (each.alias or name) if each.is_required() else f"[{each.alias or name}]"
            for name, each in fields
        )

    @property
    def about(self) -> str:
        """One paragraph: what it does."""
        return " ".join((inspect.getdoc(self.params) or "").split())

    def unfit(self, params: Mapping[str, JsonValue]) -> str | None:
        """Why a schedule's `params` do not fit this kind; None if they do. A stored schedule may
        come from a stranger, or from another version."""
        left = dict(params)
        for name, field in self.params.model_fields.items():
            types = _types(field.annotation)
            if name == "for_":
                continue
            if types & {Selector, Duration}:
                if NoneType in types and name in left and left[name] is None:
                    del left[name]
                elif Duration in types:
                    value = left.pop(f"{name}_ms", None)
                    if type(value) is not int or not 0 <= value <= duration_ms_max:
                        return f"{name}_ms is no whole number of ms up to {duration_ms_max:g}"
            elif name not in left:
                return f"{name} is missing"
            else:
                wanted: Any = Annotated[field.annotation, field]
                try:
                    TypeAdapter(wanted).validate_json(json.dumps(left.pop(name)), strict=True)
                except ValidationError as error:
                    return f"{name}: {error.errors(include_url=False)[0]['msg']}"
        return f"{', '.join(sorted(left))}: not known" if left else None

    def mechanism(self, name: str) -> Mechanism | None:
        """The mechanism of this name in a schedule; None if this version has none."""
        return next((each for each in self.mechanisms if each.name == name), None)

    def choose(
        self, lab: Lab, hosts: tuple[str, ...], system: System
    ) -> tuple[Mechanism | None, str]:
        """The first mechanism that is available on these hosts; or None and the reasons."""
        reasons = []
        for each in self.mechanisms:
            reason = each.why_not(self.layer, system, lab, hosts)
            if reason is None:
                return each, ""
            reasons.append(f"{each.name}: {reason}" if len(self.mechanisms) > 1 else reason)
        return None, "; ".join(reasons)


def _types(annotation: Any) -> set[Any]:
    """The types of which an annotation is made."""
    parts = get_args(annotation)
    return set().union(*map(_types, parts)) if parts else {annotation}


_registry: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known. Registering the same kind twice is harmless; two kinds with one name are
    our bug."""
    assert _registry.get(kind.name, kind) == kind, f"two kinds are called {kind.name}"
    assert kind.category != "attack" or kind.judge, f"{kind.name} needs a judge"
    assert kind.mechanisms, f"{kind.name} needs a mechanism"
    _registry[kind.name] = kind
    return kind


def kinds() -> Mapping[str, Kind]:
    """Every kind by name, sorted. Imports `testbed/faults` and `testbed/attacks`."""
    _import(_FAULTS)
    _import(_ATTACKS)
    return MappingProxyType(dict(sorted(_registry.items())))


def attack_kinds() -> Mapping[str, Kind]:
    """The attacks only, for judging. Imports no fault."""
    _import(_ATTACKS)
    return MappingProxyType({k.name: k for k in _registry.values() if k.category == "attack"})


def equip(needed: Iterable[tuple[str, str]], deployment: Deployment) -> None:
    """Prepares a network, between set-up and start, for all that will be done to it, given as
    (kind, mechanism)."""
    found = [kinds()[kind].mechanism(name) for kind, name in sorted(needed)]
    work = [each.equip for each in found if each is not None and each.equip is not None]
    for each in dict.fromkeys(work):
        each(deployment)


@cache
def _import(package: str) -> None:
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        importlib.import_module(module.name)
