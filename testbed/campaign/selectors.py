"""The targets of a fault: `primary`, `random(1)`, `replica(2)`, `mobile`, `board(th01)` ...

Campaigns select parts, not host names, so one file serves every lab.

    primary         the primary when the event is applied: known only then, see below
    backup(K)       the K-th replica after the primary; known only then too
    replica(I)      replica number I, from 0             all, replica      every replica
    random(K)       K distinct replicas; K may be a number, f or f+1
    gateway, broker, environment, mobile                 every host or device of that role;
                                                         mobile(I): one of them, from 0
    cap(NAME)       every host with that capability      board, board(NAME)
                    (for a process kind: all their processes)
    host(NAME)      a host by its name
    sensors(K)      K distinct sensors (mobile devices, boards), drawn     sensors: all

Everything is resolved to names when the schedule is made, except `primary` and `backup(K)`, which
stay words. The runner resolves them when it applies the event, and records the name. **In
overlapping events `primary` is the same replica**: the first event finds it. So the bound on faulty
replicas can be checked before anything runs.

If an event also has `primary`, `random(K)` draws among the backups, so that it cannot hit the
primary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Annotated, Any, Final, get_args

from pydantic import AfterValidator, PlainSerializer, PlainValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from inventory.entries import Role, caps
from inventory.model import Lab
from testbed.errors import ConfigurationError
from testbed.provision.layout import PROCESS_ROLES, Node, layout

__all__ = [
    "HostField",
    "Selector",
    "SelectorField",
    "SensorField",
    "hosts_of",
    "is_symbolic",
    "means_hosts",
    "resolve",
]

_PATTERN: Final = (
    r"(primary|all|(replica|gateway|broker|environment|mobile)(\([0-9]{1,4}\))?"
    r"|backup\([1-9][0-9]{0,3}\)|random\(([1-9][0-9]{0,3}|f|f\+1)\)"
    r"|cap\([a-z]{1,16}\)|(board(\([a-z][a-z0-9-]{0,30}\))?|host\([a-z][a-z0-9-]{0,30}\))"
    r"|sensors(\([1-9][0-9]{0,3}\))?)"
)
_SENSING: Final = r"(mobile|board|sensors)(\(.+\))?"


@dataclass(frozen=True)
class Selector:
    """`word` or `word(arg)`."""

    text: str
    word: str
    arg: str | None = None

    @classmethod
    def parse(cls, text: str) -> Selector:
        """Raises ValueError with the fix."""
        if not re.fullmatch(_PATTERN, text):
            raise ValueError(
                "must be one of primary, backup(K), all, replica(I), random(K|f|f+1), gateway, "
                "broker, environment, mobile, cap(NAME), board(NAME), host(NAME), sensors(K)"
            )
        word, _, rest = text.partition("(")
        arg = rest.rstrip(")") or None
        if word == "cap" and arg not in caps:
            raise ValueError(f"no such capability; use one of {', '.join(caps)}")
        return cls(text, word, arg)


def _validate(given: Any) -> Selector:
    if isinstance(given, Selector):
        return given
    if isinstance(given, str):
        return Selector.parse(given)
    raise ValueError("must be text such as primary or random(1)")


SelectorField = Annotated[
    Selector,
    PlainValidator(_validate),
    PlainSerializer(lambda value: value.text, return_type=str),
    WithJsonSchema({"type": "string", "pattern": f"^{_PATTERN}$"}),
]


def _with_sensor(selector: Selector) -> Selector:
    if not re.fullmatch(_SENSING, selector.text):
        raise ValueError(
            f"{selector.text} has no sensor; use mobile, mobile(I), board, board(NAME), sensors(K)"
        )
    return selector


SensorField = Annotated[
    SelectorField,
    AfterValidator(_with_sensor),
    WithJsonSchema(
        {"type": "string", "allOf": [{"pattern": f"^{each}$"} for each in (_PATTERN, _SENSING)]}
    ),
]


class _MeansHosts:
    """Marks a selector whose targets are hosts, not processes."""


HostField = Annotated[SelectorField, _MeansHosts()]


def means_hosts(field: FieldInfo) -> bool:
    """Whether a parameter is a `HostField`."""
    return any(isinstance(each, _MeansHosts) for each in field.metadata)


def is_symbolic(target: str) -> bool:
    """Whether a resolved target is still a word for the runner: `primary` or `backup(K)`."""
    return target == "primary" or target.startswith("backup(")


def resolve(
    selector: Selector,
    lab: Lab,
    rng: Random,
    *,
    beside_primary: bool = False,
    to_hosts: bool = False,
) -> tuple[str, ...]:
    """Names of the targets: processes (a replica has its host's name), or hosts with `to_hosts`.

    Raises ConfigurationError if this lab has no such part.
    """
    found = _resolve(selector, lab, rng, beside_primary=beside_primary)
    if to_hosts:
        return tuple(dict.fromkeys(n if is_symbolic(n) else hosts_of((n,), lab)[0] for n in found))
    if selector.word in ("cap", "host"):
        return tuple(process for host in found for process in _processes(host, lab))
    return found


def hosts_of(targets: Iterable[str], lab: Lab) -> tuple[str, ...]:
    """The hosts that resolved targets may mean, each once."""
    places = {node.name: node.host for node in layout(lab)} | {host: host for host in lab.active}
    found: list[str] = []
    for target in targets:
        found += [*lab.replicas()] if is_symbolic(target) else [places[target]]
    return tuple(dict.fromkeys(found))


def _processes(host: str, lab: Lab) -> tuple[str, ...]:
    """The names of a host's processes without boards; a replica has the host's name."""
    nodes = [node for node in layout(lab) if node.host == host]
    return tuple(_name(node) for role in get_args(Role) for node in nodes if node.role == role)


def _resolve(selector: Selector, lab: Lab, rng: Random, *, beside_primary: bool) -> tuple[str, ...]:
    match selector.word:
        case "primary":
            return ("primary",)
        case "backup":
            _within(selector, int(selector.arg or 0) - 1, len(lab.replicas()) - 1)
            return (selector.text,)
        case "random":
            return _random(selector, lab, rng, beside_primary=beside_primary)
        case "sensors" if selector.arg:
            return _drawn(selector, _candidates(selector, lab), int(selector.arg), "sensors", rng)
    found = _candidates(selector, lab)
    if selector.arg is None or selector.word == "cap":
        chosen = found
    elif selector.word in ("board", "host"):
        chosen = tuple(name for name in found if name == selector.arg)
    else:
        index = int(selector.arg)
        _within(selector, index, len(found))
        chosen = (found[index],)
    if not chosen:
        raise ConfigurationError(f"{selector.text}: lab {lab.lab} has none; add one or change it")
    return chosen


def _candidates(selector: Selector, lab: Lab) -> tuple[str, ...]:
    word = selector.word
    if word == "host":
        return tuple(lab.active)
    if word == "cap":
        return tuple(name for name, host in lab.active.items() if selector.arg in host.caps)
    roles = {"all": ("replica",), "sensors": ("mobile", "board")}.get(word, (word,))
    assert {*roles} <= {*PROCESS_ROLES}, f"{selector.text} passed the pattern and has no meaning"
    nodes = layout(lab)
    return tuple(_name(node) for role in roles for node in nodes if node.role == role)


def _name(node: Node) -> str:
    """Replicas have their hosts' names, because the guard counts these."""
    return node.host if node.role == "replica" else node.name


def _random(selector: Selector, lab: Lab, rng: Random, *, beside_primary: bool) -> tuple[str, ...]:
    names = tuple(lab.replicas())
    if beside_primary:
        names = tuple(f"backup({k})" for k in range(1, len(names)))
    count = {"f": lab.f, "f+1": lab.f + 1}.get(selector.arg or "")
    count = int(selector.arg or 0) if count is None else count
    return _drawn(selector, names, count, "replicas", rng)


def _drawn(
    selector: Selector, names: tuple[str, ...], count: int, what: str, rng: Random
) -> tuple[str, ...]:
    if not 1 <= count <= len(names):
        raise ConfigurationError(
            f"{selector.text}: {count} of {len(names)} {what} cannot be drawn; "
            f"use 1 to {len(names)}"
        )
    return tuple(sorted(rng.sample(names, count), key=names.index))


def _within(selector: Selector, index: int, count: int) -> None:
    if index >= count:
        raise ConfigurationError(f"{selector.text}: this lab has only {count}; use a lower number")
