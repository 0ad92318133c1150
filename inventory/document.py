"""YAML text to plain data, with the place (line, column) of every value.

Here: syntax, duplicate keys, and the limits that keep a hostile file cheap. What the data means is
the business of `load` and of the models. Built on ruamel.yaml's event stream and not on its
constructors: events carry positions, and a limit can stop them before anything large is built.

Scalars resolve as in the YAML 1.2 core schema, without dates, octal and `.inf`: so `yes` and
`2024-01-01` are text. Tags, merge keys (`<<`) and second documents are refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

__all__ = [
    "Document",
    "Loc",
    "Place",
    "depth_max",
    "file_bytes_max",
    "nodes_max",
    "parse",
    "scalar_chars_max",
]

file_bytes_max: Final = 256 * 1024
depth_max: Final = 16
nodes_max: Final = 20_000  # values after aliases are expanded
scalar_chars_max: Final = 2_048
faults_max: Final = 200  # mistakes reported for one file

Loc = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, bool | None]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(frozen=True)
class Place:
    """Where something stands in the file; both count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """Plain data (dict, list, str, int, float, bool, None), places by path, mistakes of syntax.

    `places` has values, `key_places` the keys that name them. Neither repeats what an alias
    expands to more than once per use, so both are bounded by `nodes_max`.
    """

    data: Any = None
    places: dict[Loc, Place] = field(default_factory=dict)
    key_places: dict[Loc, Place] = field(default_factory=dict)
    faults: list[tuple[Place, Loc, str]] = field(default_factory=list)

    def place(self, loc: Loc, *, key: bool = False) -> Place:
        """Nearest known place of a path, looking outwards."""
        where = self.key_places if key else self.places
        for end in range(len(loc), 0, -1):
            found = where.get(loc[:end]) or self.places.get(loc[:end])
            if found:
                return found
        return self.places.get((), Place(1, 1))


@dataclass
class _Node:
    place: Place
    value: Any  # scalar | list[_Node] | dict[str, tuple[Place, _Node]]


class _Refused(Exception):
    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def parse(content: bytes) -> Document:
    """Read one YAML document; never raises for what the bytes hold, see `Document.faults`."""
    document = Document()
    try:
        if len(content) > file_bytes_max:
            raise _Refused(
                Place(1, 1),
                f"more than {file_bytes_max} bytes; split or shorten the file",
            )
        root = _Composer(document).compose(_text(content))
        document.data = _Expander(document).expand(root, ())
    except _Refused as refused:
        document.faults.append((refused.place, (), str(refused)))
    del document.faults[faults_max:]
    return document


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Refused(Place(line, 1), "not UTF-8 text; save the file as UTF-8") from error


def _events(text: str) -> Iterator[Event]:
    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except _Refused:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark else Place(1, 1)
        parts = (error.context, error.problem)
        raise _Refused(place, "not YAML: " + ", ".join(p for p in parts if p)) from error
    except Exception as error:  # the parser lets several builtin errors escape on odd input
        reason = str(error).partition("\n")[0]
        raise _Refused(Place(1, 1), f"not YAML: {reason or type(error).__name__}") from error


class _Composer:
    """Events to nodes. Aliases share their node here and are counted when expanded."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._anchors: dict[str, _Node] = {}
        self._nodes = 0

    def compose(self, text: str) -> _Node:
        root: _Node | None = None
        events = _events(text)
        for event in events:
            if isinstance(event, DocumentStartEvent) and root is not None:
                raise _Refused(_place(event), "a second document; keep one per file")
            if isinstance(event, NodeEvent):
                root = self._node(event, events, ())
        if root is None:
            raise _Refused(Place(1, 1), "file is empty; see the sample files for the shape")
        return root

    def _node(self, event: Event, events: Iterator[Event], loc: Loc) -> _Node:
        place = _place(event)
        self._nodes += 1
        if self._nodes > nodes_max:
            raise _Refused(place, f"more than {nodes_max} values; split the file")
        if len(loc) > depth_max:
            raise _Refused(place, f"nested deeper than {depth_max} levels")
        assert isinstance(event, NodeEvent), event
        if isinstance(event, AliasEvent):
            if event.anchor not in self._anchors:
                raise _Refused(place, f"alias *{event.anchor} names nothing that stands before it")
            return self._anchors[event.anchor]
        tag = getattr(event, "tag", None)
        if tag and str(tag) != "!":
            self._fault(place, loc, f"tag {tag} is not allowed; write the plain value")
        if isinstance(event, MappingStartEvent):
            node = _Node(place, self._mapping(events, loc))
        elif isinstance(event, SequenceStartEvent):
            node = _Node(place, self._sequence(events, loc))
        else:
            assert isinstance(event, ScalarEvent), event
            node = _Node(place, self._scalar(event, loc))
        if event.anchor:
            self._anchors[event.anchor] = node
        return node

    def _mapping(self, events: Iterator[Event], loc: Loc) -> dict[str, tuple[Place, _Node]]:
        found: dict[str, tuple[Place, _Node]] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            if not isinstance(event, ScalarEvent):
                raise _Refused(_place(event), "a key must be a plain word")
            place, key = _place(event), self._bounded(event, loc)
            node = self._node(next(events), events, (*loc, key))
            if key == "<<":
                self._fault(place, loc, "merge keys are not supported; write the keys out")
            elif key in found:
                first = found[key][0].line
                message = f"duplicate key, first on line {first}; remove one of the two"
                self._fault(place, (*loc, key), message)
            else:
                found[key] = (place, node)
        return found

    def _sequence(self, events: Iterator[Event], loc: Loc) -> list[_Node]:
        found: list[_Node] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            found.append(self._node(event, events, (*loc, len(found))))
        return found

    def _scalar(self, event: ScalarEvent, loc: Loc) -> Any:
        text = self._bounded(event, loc)
        quoted = event.style in ("'", '"', "|", ">")
        if quoted:
            return text
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if math.isfinite(number):
                return number
        return text

    def _bounded(self, event: ScalarEvent, loc: Loc) -> str:
        text = str(event.value)
        if len(text) > scalar_chars_max:
            raise _Refused(_place(event), f"text longer than {scalar_chars_max} characters")
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._fault(_place(event), loc, "a lone surrogate is no character; remove the escape")
            return ""
        return text

    def _fault(self, place: Place, loc: Loc, message: str) -> None:
        self._document.faults.append((place, loc, message))


class _Expander:
    """Nodes to plain data. Counts what aliases multiply, so a bomb stops at `nodes_max`."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0

    def expand(self, node: _Node, loc: Loc) -> Any:
        self._nodes += 1
        if self._nodes > nodes_max:
            raise _Refused(node.place, f"aliases expand to more than {nodes_max} values")
        if len(loc) > depth_max:
            raise _Refused(node.place, f"aliases nest deeper than {depth_max} levels")
        self._document.places[loc] = node.place
        if isinstance(node.value, dict):
            for key, (place, _) in node.value.items():
                self._document.key_places[(*loc, key)] = place
            return {key: self.expand(child, (*loc, key)) for key, (_, child) in node.value.items()}
        if isinstance(node.value, list):
            return [self.expand(child, (*loc, i)) for i, child in enumerate(node.value)]
        return node.value


def _place(event: Event) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
