"""Explains the mistakes in a file to the person who edits it: place, path, mistake, fix.

Here: pydantic's errors in plain words. Reading and checking are in `load`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

from pydantic_core import ErrorDetails

from inventory.document import Loc, YamlDocument
from inventory.schema import Schema, keys_at

__all__ = ["Problem", "actual", "explained", "path_text", "problem"]

shown_chars_max: Final = 60


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake: `what` reads "what is wrong; fix"."""

    line: int
    column: int
    where: str
    what: str


def problem(document: YamlDocument, loc: Loc, what: str, *, key: bool = False) -> Problem:
    """A mistake at the value of `loc`, or at the key that names it."""
    place = document.place(loc, key=key)
    return Problem(place.line, place.column, path_text(loc), what)


def path_text(loc: Loc) -> str:
    """`hosts.pi01.roles[1]`: how a path is printed."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return text.lstrip(".").encode("unicode_escape").decode()[:200]


def actual(loc: Loc, data: Any) -> Loc:
    """The path in the file: pydantic's, without the union tags and `[key]` that it inserts."""
    out: list[str | int] = []
    last = len(loc) - 1
    for i, step in enumerate(loc):
        if isinstance(data, list):
            data = dict(enumerate(data))
        if isinstance(data, dict) and step in data:
            data = data[step]
        elif i < last or step == "[key]" or not isinstance(data, dict):
            continue  # not of the file; only a last step may be a key that is missing there
        out.append(step)
    return tuple(out)


def explained(document: YamlDocument, schema: Schema, detail: ErrorDetails) -> Problem:
    """One pydantic error. `schema` is that of the model, for the names of known keys."""
    kind, context = detail["type"], detail.get("ctx", {})
    loc, given = actual(detail["loc"], document.data), detail["input"]
    key = kind in ("missing", "extra_forbidden") or detail["loc"][-1:] == ("[key]",)
    if detail["loc"][-1:] == ("[key]",):
        what = f"not a valid name; {_advice(detail)}"
    elif kind == "missing":
        what = "is missing; add it"
    elif kind == "extra_forbidden":
        what = f"unknown key; {_hint(str(loc[-1]), keys_at(schema, loc[:-1], document.data))}"
    elif kind == "union_tag_not_found":
        what = f"lacks {context['discriminator']}; add it"
    elif kind == "union_tag_invalid":
        loc = (*loc, context["discriminator"].strip("'"))
        what = f"is {_shown(context['tag'])}; {_choice(context['tag'], context['expected_tags'])}"
    elif kind == "literal_error":
        what = f"is {_shown(given)}; {_choice(given, context['expected'])}"
    elif kind == "string_type" and loc in document.spelled:
        text = document.spelled[loc]
        what = f"is {text or 'empty'}, {_kind(given)} in YAML; write {json.dumps(text)}"
    else:
        what = f"is {_shown(given)}; {_advice(detail)}"
    return problem(document, loc, what, key=key)


_ADVICE: Final = {
    "string_type": "must be text; put it in quotes",
    "int_type": "must be a whole number, without quotes or unit",
    "float_type": "must be a number, without quotes or unit",
    "bool_type": "must be true or false",
    "string_pattern_mismatch": "must fit {pattern}",
    "value_error": "{error}",
    "model_type": "must be a mapping (key: value)",
    "dict_type": "must be a mapping (key: value)",
    "tuple_type": "must be a list",
}


def _advice(detail: ErrorDetails) -> str:
    if detail["type"] in _ADVICE:
        return _ADVICE[detail["type"]].format_map(detail.get("ctx", {}))
    text = detail["msg"].removeprefix("Input ")
    return text[:1].lower() + text[1:]


def _choice(given: Any, expected: str) -> str:
    """`expected` lists alternatives as pydantic prints them: 'a', 'b' or 'c'."""
    parts = expected.replace(" or ", ", ").split(", ")
    return _hint(str(given), [part.strip("'") for part in parts])


def _hint(given: str, known: Iterable[str]) -> str:
    options = list(known)
    close = get_close_matches(given, options, n=1)
    guess = f"did you mean {close[0]}? " if close else ""
    return f"{guess}use one of {', '.join(options)}" if options else "remove it"


def _kind(value: Any) -> str:
    """What YAML takes a word without quotes for."""
    if value is None:
        return "nothing"
    return "true or false" if isinstance(value, bool) else "a number"


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= shown_chars_max else text[: shown_chars_max - 3] + "..."
