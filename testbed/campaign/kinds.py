"""The vocabulary of faults and attacks: one `Kind` per dotted name that a campaign can `do`.

A kind says what it is called, which parameters it takes and which replicas it makes faulty. What
it *does* stands in `testbed/faults/` and `testbed/attacks/`. Each module there calls `register`
when it is imported, and `kinds()` imports every module of the two packages: a new kind is a new
file. Keep these modules light to import, because `testbed plan` loads all of them, and `testbed
report` those of attacks: import what carries an attack out when it is made. A kind with much of
that is a package, as `testbed/attacks/replay`.

Parameters are a pydantic model. Field types carry meaning for the schedule:

- `SelectorField` (named on, from_, to): resolved to names, found in the event's `targets`;
- `DurationField` / `SpanField`: resolved to whole ms, found in `params` as `<name>_ms`, except
  `for_`, which is the event's own `for_ms`: how long until it is healed;
- anything else: found in `params` as it is.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict

from testbed.campaign.event import Category, Disturbed, Layer
from testbed.campaign.injection import AttackMaker, Equip, FaultMaker, Judge

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = ["Kind", "Params", "attack_kinds", "equip", "kinds", "register"]

_FAULTS: Final = "testbed.faults"
_ATTACKS: Final = "testbed.attacks"


class Params(BaseModel):
    """Base of every kind's parameters: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Kind:
    """`impairs`, `lies` and `disturbs` are as in `event.Event`.

    `make` builds the fault or the attack on a scene (`injection`). `equip` is what processes need
    before they start, for a fault that could not be applied to them otherwise. `judge` says what
    came of an attack: what counts as a success is the kind's own. `seen` says in words how it is
    seen to take effect.
    """

    name: str
    params: type[Params]
    category: Category
    layer: Layer
    summary: str
    make: FaultMaker | AttackMaker
    judge: Judge | None = None
    impairs: tuple[str, ...] = ()
    lies: bool = False
    disturbs: tuple[Disturbed, ...] = ()
    equip: Equip | None = None
    seen: str = ""

    def parameters(self) -> tuple[str, ...]:
        """As a campaign file names them; those that may be left out in brackets."""
        fields = self.params.model_fields.items()
        return tuple(
            (each.alias or name) if each.is_required() else f"[{each.alias or name}]"
            for name, each in fields
        )


_registry: dict[str, Kind] = {}


def register(kind: Kind) -> Kind:
    """Make a kind known. The same kind twice is no harm; two kinds of one name are our bug."""
    assert _registry.get(kind.name, kind) == kind, f"two kinds are called {kind.name}"
    assert kind.category == "fault" or kind.judge, f"{kind.name} needs a judge"
    _registry[kind.name] = kind
    return kind


def kinds() -> Mapping[str, Kind]:
    """Every kind by name, sorted, those of `testbed/faults` and `testbed/attacks` included."""
    _import(_FAULTS)
    _import(_ATTACKS)
    return MappingProxyType(dict(sorted(_registry.items())))


def attack_kinds() -> Mapping[str, Kind]:
    """The attacks among them, for judging: imports no fault."""
    _import(_ATTACKS)
    return MappingProxyType({k.name: k for k in _registry.values() if k.category == "attack"})


def equip(names: Iterable[str], deployment: Deployment) -> None:
    """Between set-up and start: prepares a network for all that these kinds will do to it."""
    needed = (kinds()[name].equip for name in sorted(names))
    for work in dict.fromkeys(work for work in needed if work is not None):
        work(deployment)


@cache
def _import(package: str) -> None:
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        importlib.import_module(module.name)
