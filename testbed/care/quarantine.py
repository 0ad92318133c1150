"""Taking a host out of every campaign, and back in, by its entry in the inventory file.

The file is edited in place of two values (`state`, `reason`): every other byte stays as a person
wrote it, comments and line breaks too. The new text is loaded and compared before it takes the old
one's place, so a file is never left half changed or broken. What quarantine means for a run:
`inventory.model` (`active`, `excluded`).
"""

from __future__ import annotations

import json
import stat
import tempfile
from collections.abc import Callable, Collection
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node

from inventory.load import InvalidFile, load_lab
from inventory.model import Lab
from testbed.errors import ConfigurationError
from testbed.hosts.files import atomic_file

__all__ = ["Change", "Quorum", "quarantine", "release", "without"]


@dataclass(frozen=True, slots=True)
class Quorum:
    """Replicas in use, and how many faulty ones they bear."""

    n: int
    f: int

    def __str__(self) -> str:
        return f"n = {self.n}, f = {self.f}"


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to the file; `changed` is False if it said so already."""

    changed: bool
    before: Quorum
    after: Quorum


def quarantine(inventory: Path, host: str, reason: str, *, lower_f: bool = False) -> Change:
    """Mark a host as quarantined, for this reason.

    Raises ConfigurationError if so few replicas are left that they bear fewer faults than now;
    with `lower_f` the file then states the lower `chain.f` where it has to. InvalidFile: the file
    is wrong as it is.
    """
    if not reason.isprintable():
        raise ConfigurationError(f"the reason {reason!r} is not one line of printable text")
    before = load_lab(inventory)
    _known(before, host)
    now, (n, f) = _quorum(before), astuple(without(before, (host,)))
    if f < now.f and not lower_f:
        raise ConfigurationError(
            f"without {host} there are n = {n} replicas, fewer than 3f+1 = {3 * now.f + 1}: "
            f"f would fall from {now.f} to {f}\n  fix: add a replica first, or say --lower-f"
        )

    def edit(text: str) -> str:
        text = _set(text, ("hosts", host), {"state": "quarantined", "reason": reason})
        stated = before.chain.f is not None and before.chain.f > f
        return _set(text, ("chain",), {"f": f}) if stated or (n < 4 and f < now.f) else text

    return _edit(inventory, before, host, {"state": "quarantined", "reason": reason}, edit)


def without(lab: Lab, hosts: Collection[str]) -> Quorum:
    """What is left if these hosts are left out."""
    n = len([name for name in lab.replicas() if name not in hosts])
    return Quorum(n, min(lab.f, max(0, (n - 1) // 3)))


def release(inventory: Path, host: str) -> Change:
    """Take the mark off. `chain.f` stays as the file states it. Raises as `quarantine`."""
    before = load_lab(inventory)
    _known(before, host)
    active = {"state": "active", "reason": None}
    return _edit(inventory, before, host, active, lambda text: _unset(text, host, tuple(active)))


def _known(lab: Lab, host: str) -> None:
    if host not in lab.hosts:
        raise ConfigurationError(f"{host} is no host of this inventory: {', '.join(lab.hosts)}")


def _quorum(lab: Lab) -> Quorum:
    return Quorum(len(lab.replicas()), lab.f)


def _edit(
    inventory: Path,
    before: Lab,
    host: str,
    update: dict[str, Any],
    edit: Callable[[str], str],
) -> Change:
    target = inventory.resolve()
    old = target.read_bytes().decode()
    new = edit(old)
    after = _loaded(inventory, new)
    wanted = {**before.hosts, host: before.hosts[host].model_copy(update=update)}
    if after.hosts != wanted:
        raise ConfigurationError(
            f"{inventory} is left as it is: the entry of {host} is shared (an alias?); write"
            f" {', '.join(f'{key}: {value}' for key, value in update.items())} there by hand"
        )
    if new != old:
        with atomic_file(target, stat.S_IMODE(target.stat().st_mode)) as file:
            file.write(new.encode())
    return Change(new != old, _quorum(before), _quorum(after))


def _loaded(inventory: Path, text: str) -> Lab:
    """The lab that this text describes. Raises ConfigurationError with what would be wrong."""
    # A neighbour, so that paths relative to the file mean the same.
    where = inventory.absolute().parent
    with tempfile.NamedTemporaryFile(dir=where, prefix=f".{inventory.name}.", suffix=".try") as it:
        it.write(text.encode())
        it.flush()
        try:
            return load_lab(Path(it.name))
        except InvalidFile as error:
            wrong = "\n  ".join(f"{each.where}: {each.what}" for each in error.problems)
            problem = f"{inventory} is left as it is; it would be wrong:\n  {wrong}"
            raise ConfigurationError(problem) from error


# --- the text -----------------------------------------------------------------------------------


def _set(text: str, where: tuple[str, ...], values: dict[str, Any]) -> str:
    """These scalar values in a mapping of the document: replaced, else written at its beginning."""
    for key, value in reversed(values.items()):
        node = _mapping(text, where)
        said = value if key == "state" else json.dumps(value, ensure_ascii=False)
        if node is None:
            text = text.rstrip("\n") + f"\n{where[-1]}: {{{key}: {said}}}\n"
        elif (pair := _pair(node, key)) is not None:
            begin, end = pair[1].start_mark.index, pair[1].end_mark.index
            text = text[:begin] + str(said) + text[end:]
        else:
            text = _insert(text, node, f"{key}: {said}")
    return text


def _insert(text: str, node: MappingNode, entry: str) -> str:
    if not node.value:
        at = node.start_mark.index + 1
        return text[:at] + entry + text[at:]
    first = node.value[0][0].start_mark
    between = ", " if node.flow_style else "\n" + " " * first.column
    return text[: first.index] + entry + between + text[first.index :]


def _unset(text: str, host: str, keys: tuple[str, ...]) -> str:
    for key in keys:
        node = _mapping(text, ("hosts", host))
        pair = None if node is None else _pair(node, key)
        if node is not None and pair is not None:
            text = _without(text, node, pair)
    return text


def _without(text: str, node: MappingNode, pair: tuple[Node, Node]) -> str:
    """A pair goes with the comma, or the line, that was its own."""
    at = node.value.index(pair)
    begin, end = pair[0].start_mark.index, pair[1].end_mark.index
    if not node.flow_style:
        begin = text.rfind("\n", 0, begin) + 1
        end = text.find("\n", end) + 1 or len(text)
    elif at + 1 < len(node.value):
        end = node.value[at + 1][0].start_mark.index
    elif at > 0:
        begin = node.value[at - 1][1].end_mark.index
    return text[:begin] + text[end:]


def _mapping(text: str, where: tuple[str, ...]) -> MappingNode | None:
    """The mapping at this place of the document, with its position in the text."""
    node: Any = YAML(typ="rt", pure=True).compose(text)
    for key in where:
        pair = _pair(node, key)
        if pair is None:
            return None
        node = pair[1]
    assert isinstance(node, MappingNode), f"{where} is a mapping in every valid inventory"
    return node


def _pair(node: MappingNode, key: str) -> tuple[Node, Node] | None:
    found: list[tuple[Node, Node]] = [p for p in node.value if p[0].value == key]
    return found[0] if found else None
