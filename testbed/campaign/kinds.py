"""The vocabulary of faults and attacks: one `Kind` per dotted name that a campaign can `do`.

A kind says what it is called, which parameters it takes and which replicas it makes faulty. What
it *does* stands in `testbed/faults/` and `testbed/attacks/`, one small module each. A module there
calls `register` when it is imported, and `kinds()` imports every module of the two packages: a new
kind is a new file. So keep those modules light to import: `testbed plan` loads all of them.

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
from testbed.campaign.injection import AttackMaker, Equip, FaultMaker

if TYPE_CHECKING:
    from testbed.provision.deployment import Deployment

__all__ = ["Kind", "Params", "equip", "kinds", "register"]

_PACKAGES: Final = ("testbed.faults", "testbed.attacks")


class Params(BaseModel):
    """Base of every kind's parameters: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Kind:
    """`impairs`, `lies` and `disturbs` are as in `event.Event`.

    `make` builds the fault or the attack on a scene (`injection`). `equip` is what processes need
    before they start, for a fault that could not be applied to them otherwise. `seen` tells, in
    words, how it is seen to take effect.
    """

    name: str
    params: type[Params]
    category: Category
    layer: Layer
    summary: str
    make: FaultMaker | AttackMaker
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
    _registry[kind.name] = kind
    return kind


def kinds() -> Mapping[str, Kind]:
    """Every kind by name, sorted, those of `testbed/faults` and `testbed/attacks` included."""
    _import_all()
    return MappingProxyType(dict(sorted(_registry.items())))


def equip(names: Iterable[str], deployment: Deployment) -> None:
    """Between set-up and start: prepares a network for all that these kinds will do to it."""
    needed = (kinds()[name].equip for name in sorted(names))
    for work in dict.fromkeys(work for work in needed if work is not None):
        work(deployment)


@cache
def _import_all() -> None:
    for package in _PACKAGES:
        try:
            found = importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            continue
        for module in pkgutil.iter_modules(found.__path__, f"{package}."):
            importlib.import_module(module.name)
