"""Taking a host out of every campaign, and back in, by its entry in the inventory file.

ruamel.yaml changes two values (`state`, `reason`) and keeps comments, quotes and order. Only spaces
and line breaks inside brackets may change. The new text is loaded and compared before it replaces
the old one, so a file is never left half changed or broken. What quarantine means for a run:
`inventory.model` (`active`, `excluded`).
"""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from inventory.checks import errors
from inventory.document import file_bytes_max
from inventory.load import InvalidFile, load_lab
from inventory.model import Lab
from nodes.disk import write_atomically
from testbed.errors import ConfigurationError

__all__ = ["FaultTolerance", "QuarantineChange", "blocked", "quarantine", "release", "without"]


class FaultTolerance(NamedTuple):
    """Replicas in use, and how many faulty ones they tolerate."""

    n: int
    f: int

    def __str__(self) -> str:
        return f"n = {self.n}, f = {self.f}"


@dataclass(frozen=True, slots=True)
class QuarantineChange:
    """What was changed in the file, or would be. `changed` is False if the file had these values
    already."""

    changed: bool
    before: FaultTolerance
    after: FaultTolerance


def quarantine(
    inventory: Path, host: str, reason: str, *, lower_f: bool = False, check: bool = False
) -> QuarantineChange:
    """Mark a host as quarantined, for this reason. With `check` nothing is written.

    Raises ConfigurationError if the replicas that are left tolerate fewer faults than now; with
    `lower_f` the lower `chain.f` is written into the file if that is needed. Raises InvalidFile if
    the file is wrong already.
    """
    if not reason.isprintable():
        raise ConfigurationError(f"the reason {reason!r} is not one line of printable text")
    before = load_lab(inventory)
    _known(before, host)
    n, f = without(before, (host,))
    if f < before.f and not lower_f:
        raise ConfigurationError(
            f"without {host} there are n = {n} replicas, fewer than 3f+1 = {3 * before.f + 1}: "
            f"f would fall from {before.f} to {f}\n  fix: add a replica first, or say --lower-f"
        )

    stated = before.chain.f is not None and before.chain.f > f
    lowered = f if stated or (n < 4 and f < before.f) else None
    return _edit(
        inventory, before, host, {"state": "quarantined", "reason": reason}, lowered, check=check
    )


def without(lab: Lab, hosts: Collection[str]) -> FaultTolerance:
    """The quorum without these hosts."""
    n = len([name for name in lab.replicas() if name not in hosts])
    return FaultTolerance(n, min(lab.f, max(0, (n - 1) // 3)))


def blocked(lab: Lab, hosts: Collection[str]) -> str:
    """Why no campaign can run without these hosts, or ""."""
    left = without(lab, hosts)
    if left.f < min(1, lab.f):
        return f"n = {left.n} tolerates no faulty replica"
    marked = {"state": "quarantined", "reason": "unfit"}
    rest = {n: h.model_copy(update=marked) if n in hosts else h for n, h in lab.hosts.items()}
    chain = lab.chain.model_copy(update={"f": left.f})
    mistakes = errors(lab.model_copy(update={"hosts": rest, "chain": chain}))
    return next((mistake.message.partition(";")[0] for mistake in mistakes), "")


def release(inventory: Path, host: str, *, check: bool = False) -> QuarantineChange:
    """Remove the mark. `chain.f` stays as the file states it. Otherwise like `quarantine`."""
    before = load_lab(inventory)
    _known(before, host)
    return _edit(inventory, before, host, {"state": "active", "reason": None}, None, check=check)


def _known(lab: Lab, host: str) -> None:
    if host not in lab.hosts:
        raise ConfigurationError(f"{host} is no host of this inventory: {', '.join(lab.hosts)}")


def _edit(
    inventory: Path,
    before: Lab,
    host: str,
    update: dict[str, Any],
    lowered_f: int | None,
    *,
    check: bool,
) -> QuarantineChange:
    target = inventory.resolve()
    old = target.read_bytes().decode()
    new = _edited(old, host, update, lowered_f)
    after = _loaded(inventory, new)
    wanted = {**before.hosts, host: before.hosts[host].model_copy(update=update)}
    if after.hosts != wanted:
        raise ConfigurationError(
            f"{inventory} is left as it is: the entry of {host} is shared (an alias?); write"
            f" {', '.join(f'{key}: {value}' for key, value in update.items())} there by hand"
        )
    changed = after != before
    if changed and not check:
        write_atomically(target, new.encode(), stat.S_IMODE(target.stat().st_mode))
    return QuarantineChange(changed, without(before, ()), without(after, ()))


def _edited(text: str, host: str, update: dict[str, Any], lowered_f: int | None) -> str:
    """The text with new values in a host's entry, and in `chain.f`."""
    yaml = YAML(typ="rt", pure=True)
    yaml.preserve_quotes = True
    yaml.width = file_bytes_max  # no line is wrapped
    document = yaml.load(text)
    entry = document["hosts"][host]
    for key, value in update.items():
        if value in ("active", None):
            entry.pop(key, None)
        elif entry.get(key) != value:
            entry[key] = value if key == "state" else DoubleQuotedScalarString(value)
    if lowered_f is not None:
        document.setdefault("chain", {})["f"] = lowered_f
    new = StringIO()
    yaml.dump(document, new)
    return new.getvalue()


def _loaded(inventory: Path, text: str) -> Lab:
    """The lab that this text describes. Raises ConfigurationError that says what would be wrong."""
    # In the same directory, so that relative paths in the file stay valid.
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
