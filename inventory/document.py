"""YAML text to plain data, with the place (line, column) of every value.

Here: syntax, duplicate keys, and the limits that keep a hostile file cheap. `load` and the models
interpret the data. ruamel.yaml composes the nodes, which carry positions; its constructors are not
used.

Scalars resolve as in the YAML 1.2 core schema, without dates, octal and `.inf`. So `yes` and
`2024-01-01` are text. Tags, merge keys (`<<`) and second documents are refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

__all__ = [
    "Loc",
    "Position",
    "YamlDocument",
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
_UNTAGGED: Final = Tag(suffix="untagged")


@dataclass(frozen=True)
class Position:
    """Where something stands in the file; both count from 1."""

    line: int
    column: int


@dataclass
class YamlDocument:
    """Plain data (dict, list, str, int, float, bool, None), places by path, mistakes of syntax.

    `places` has values, `key_places` the keys that name them, `spelled` the text in the file of
    each value that is no text (`0012` is the number 12). All are bounded by `nodes_max`.
    """

    data: Any = None
    places: dict[Loc, Position] = field(default_factory=dict)
    key_places: dict[Loc, Position] = field(default_factory=dict)
    spelled: dict[Loc, str] = field(default_factory=dict)
    faults: list[tuple[Position, Loc, str]] = field(default_factory=list)

    def place(self, loc: Loc, *, key: bool = False) -> Position:
        """Nearest known place of a path, looking outwards."""
        where = self.key_places if key else self.places
        for end in range(len(loc), 0, -1):
            found = where.get(loc[:end]) or self.places.get(loc[:end])
            if found:
                return found
        return self.places.get((), Position(1, 1))


class _Refused(Exception):
    def __init__(self, place: Position, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Untagged(VersionedResolver):
    """Marks what the file gives no tag; scalars are resolved here, by `_scalar`."""

    def resolve(self, _kind: Any, _value: Any, _implicit: Any) -> Tag:
        return _UNTAGGED


def parse(content: bytes) -> YamlDocument:
    """Read one YAML document; never raises for what the bytes hold, see `YamlDocument.faults`."""
    document = YamlDocument()
    try:
        if len(content) > file_bytes_max:
            raise _Refused(
                Position(1, 1),
                f"more than {file_bytes_max} bytes; split or shorten the file",
            )
        document.data = _Reader(document).plain(_composed(_text(content)), ())
    except _Refused as refused:
        document.faults.append((refused.place, (), str(refused)))
    del document.faults[faults_max:]
    return document


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _Refused(Position(line, 1), "not UTF-8 text; save the file as UTF-8") from error


def _composed(text: str) -> Node:
    yaml = YAML(typ="safe", pure=True)
    yaml.Resolver = _Untagged
    yaml.max_depth = depth_max + 1
    yaml.composer.warn_double_anchors = False  # allowed by YAML; the later one counts
    try:
        root: Node | None = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)
        if isinstance(error, MaxDepthExceededError):
            raise _Refused(place, f"nested deeper than {depth_max} levels") from error
        parts = (error.context, error.problem)
        raise _Refused(place, "not YAML: " + ", ".join(p for p in parts if p)) from error
    except Exception as error:  # the parser lets several builtin errors escape on odd input
        reason = str(error).partition("\n")[0]
        raise _Refused(Position(1, 1), f"not YAML: {reason or type(error).__name__}") from error
    if root is None:
        raise _Refused(Position(1, 1), "file is empty; see the sample files for the shape")
    return root


class _Reader:
    """Nodes to plain data. Counts what aliases multiply, so a bomb stops at `nodes_max`."""

    def __init__(self, document: YamlDocument) -> None:
        self._document = document
        self._nodes = 0

    def plain(self, node: Node, loc: Loc) -> Any:
        place = _place(node)
        self._nodes += 1
        if self._nodes > nodes_max:
            raise _Refused(place, f"more than {nodes_max} values once aliases expand; split it")
        if len(loc) > depth_max:
            raise _Refused(place, f"aliases nest deeper than {depth_max} levels")
        self._document.places[loc] = place
        if node.ctag != _UNTAGGED:
            self._fault(node, loc, f"tag {node.ctag} is not allowed; write the plain value")
        if isinstance(node, ScalarNode):
            return self._scalar(node, loc)
        if isinstance(node, MappingNode):
            return self._mapping(node, loc)
        return [self.plain(child, (*loc, i)) for i, child in enumerate(node.value)]

    def _mapping(self, node: MappingNode, loc: Loc) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            if not isinstance(key_node, ScalarNode):
                raise _Refused(_place(key_node), "a key must be a plain word")
            key = self._bounded(key_node, loc)
            if key == "<<":
                self._fault(key_node, loc, "merge keys are not supported; write the keys out")
            elif key in found:
                first = self._document.key_places[(*loc, key)].line
                message = f"duplicate key, first on line {first}; remove one of the two"
                self._fault(key_node, (*loc, key), message)
            else:
                self._document.key_places[(*loc, key)] = _place(key_node)
                found[key] = self.plain(value, (*loc, key))
        return found

    def _scalar(self, node: ScalarNode, loc: Loc) -> Any:
        text = self._bounded(node, loc)
        if node.style in ("'", '"', "|", ">"):
            return text
        value = _resolved(text)
        if not isinstance(value, str):
            self._document.spelled[loc] = text
        return value

    def _bounded(self, node: ScalarNode, loc: Loc) -> str:
        text = str(node.value)
        if len(text) > scalar_chars_max:
            raise _Refused(_place(node), f"text longer than {scalar_chars_max} characters")
        if any("\ud800" <= char <= "\udfff" for char in text):
            self._fault(node, loc, "a lone surrogate is no character; remove the escape")
            return ""
        return text

    def _fault(self, node: Node, loc: Loc, message: str) -> None:
        self._document.faults.append((_place(node), loc, message))


def _resolved(text: str) -> Any:
    """The value of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and math.isfinite(number := float(text)):
        return number
    return text


def _place(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)
