"""Reads a file into a strict model. Reports every mistake at once, each with its place and fix.

`load_yaml` reads any pydantic model (campaign files too); `load_lab` reads an inventory. Elsewhere:
syntax and limits (`document`), shapes (the model), how values must fit together (`checks`).

A mistake in one value does not hide mistakes in others: a malformed value is dropped, and the rest
is checked as far as possible without it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from inventory.checks import errors
from inventory.document import Loc, YamlDocument, file_bytes_max, parse
from inventory.entries import Ssh
from inventory.explain import Problem, actual, explained, path_text, problem
from inventory.mistake import Mistake
from inventory.model import Lab
from inventory.schema import schema_of

__all__ = ["InvalidFile", "Problem", "load_lab", "load_yaml", "packaged"]

salvage_rounds_max: Final = 8
problems_max: Final = 200  # of values, reported for one file

ModelT = TypeVar("ModelT", bound=BaseModel)


class InvalidFile(ValueError):
    """A file that cannot be used; `problems` has every mistake, in file order."""

    def __init__(self, file: Path, problems: Iterable[Problem]) -> None:
        self.file = file
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(self.lines()))

    def lines(self) -> list[str]:
        """`file:line:column: path: what is wrong; fix`, one per mistake."""
        return [
            f"{self.file}:{p.line}:{p.column}: " + (f"{p.where}: " if p.where else "") + p.what
            for p in self.problems
        ]

    def as_json(self) -> list[dict[str, Any]]:
        """The problems for machines."""
        return [
            {"file": str(self.file), **dataclasses.asdict(problem)} for problem in self.problems
        ]


def packaged(name: str) -> Path:
    """Path of an inventory file that ships with this package (`loopback`, `first-lab`)."""
    return Path(str(resources.files("inventory").joinpath(f"{name}.yaml")))


def load_lab(path: Path | None = None) -> Lab:
    """Read and check an inventory; None reads the packaged loopback lab.

    Key files and known_hosts of the result are absolute paths, so that it no longer matters where
    the file stood. Raises InvalidFile.
    """
    path = path or packaged("loopback")
    stand_in = {"schema": "testbed.inventory/1", "lab": "unnamed"}
    return _absolute(load_yaml(path, Lab, errors, stand_in), path.absolute().parent)


def load_yaml(
    path: Path,
    model: type[ModelT],
    check: Callable[[ModelT], Iterable[Mistake]] | None = None,
    stand_in: Mapping[str, Any] | None = None,
) -> ModelT:
    """Read a YAML file into a strict model, then `check` how its values fit.

    `stand_in` has values for required top-level keys, used while their own are missing or
    malformed so that the rest can be checked all the same; never in what is returned.
    Raises only InvalidFile, with any content of the file.
    """
    document = parse(_read(path))
    found = [
        Problem(place.line, place.column, path_text(loc), message)
        for place, loc, message in document.faults
    ]
    if found and document.data is None:
        raise InvalidFile(path, found)
    value, problems, removed = _validate(document, model, stand_in or {})
    found += problems
    if value is not None and check is not None:
        whole = not found
        found += [
            problem(document, _in_file(mistake.loc, removed), mistake.message)
            for mistake in check(value)
            if whole or not mistake.whole
        ]
    if found or value is None:
        raise InvalidFile(path, found)
    return value


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(file_bytes_max + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = Problem(1, 1, "", f"cannot read: {reason}; give the path of a YAML file")
        raise InvalidFile(path, [where]) from error


def _validate(
    document: YamlDocument, model: type[ModelT], stand_in: Mapping[str, Any]
) -> tuple[ModelT | None, list[Problem], list[Loc]]:
    """The model, and what is wrong; with mistakes, the model of what is left without them, and the
    items of lists that were left out, in this order."""
    data = document.data
    try:
        return _model(model, data), [], []
    except ValidationError as error:
        details = error.errors(include_url=False)
    schema = schema_of(model)
    problems = [explained(document, schema, detail) for detail in details[:problems_max]]
    if len(details) > problems_max:
        more = f"and {len(details) - problems_max} more mistakes; fix these first"
        return None, [*problems, problem(document, (), more)], []
    rest = copy.deepcopy(data)
    removed: list[Loc] = []
    for _ in range(salvage_rounds_max):
        for loc in sorted((_drop(d, rest) for d in details), key=_descending, reverse=True):
            if _remove(rest, loc):
                removed.append(loc)
        if not isinstance(rest, dict):
            break
        try:
            return _model(model, {**stand_in, **rest}), problems, removed
        except ValidationError as error:
            details = error.errors(include_url=False)
    return None, problems, removed


def _model(model: type[ModelT], data: Any) -> ModelT:
    # Through JSON: pydantic is then strict about scalars and still takes lists for tuples.
    return model.model_validate_json(json.dumps(data))


def _descending(loc: Loc) -> tuple[tuple[int, str | int], ...]:
    """Sort key that puts later list items first, so that removing one keeps the others' index."""
    return tuple((0, s) if isinstance(s, int) else (1, s) for s in loc)


def _drop(detail: ErrorDetails, data: Any) -> Loc:
    loc = actual(detail["loc"], data)
    return loc[:-1] if detail["type"] == "missing" else loc


def _remove(data: Any, loc: Loc) -> bool:
    """Whether it was an item of a list: those behind it have moved."""
    for step in loc[:-1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return False
    if loc and isinstance(data, dict):
        data.pop(loc[-1], None)
    elif loc and isinstance(data, list) and isinstance(loc[-1], int) and loc[-1] < len(data):
        del data[loc[-1]]
        return True
    return False


def _in_file(loc: Loc, removed: list[Loc]) -> Loc:
    """Where in the file a place of the salvaged data stands."""
    for gone in reversed(removed):
        at = len(gone) - 1
        step, index = loc[at : at + 1], gone[at]
        if loc[:at] == gone[:at] and step and isinstance(step[0], int) and isinstance(index, int):
            loc = (*loc[:at], step[0] + (step[0] >= index), *loc[at + 1 :])
    return loc


def _absolute(lab: Lab, base: Path) -> Lab:
    """The lab with paths that no longer depend on where its file stood."""

    def ssh(given: Ssh) -> Ssh:
        changed = {
            key: str(base / Path(value).expanduser())
            for key in ("key", "known_hosts")
            if (value := getattr(given, key)) is not None
        }
        return given.model_copy(update=changed)

    defaults = lab.defaults.model_copy(update={"ssh": ssh(lab.defaults.ssh)})
    hosts = {n: h.model_copy(update={"ssh": ssh(h.ssh)}) for n, h in lab.hosts.items()}
    roots = tuple(str(base / Path(each).expanduser()) for each in lab.chain.factory_roots)
    chain = lab.chain.model_copy(update={"factory_roots": roots})
    return lab.model_copy(update={"defaults": defaults, "hosts": hosts, "chain": chain})
