"""The published JSON Schema of a model, generated from the model that the loader uses.

A schema describes the shape of a file. It cannot say how values must fit together (`checks`). The
loader refuses every file that the schema refuses.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from inventory.model import Lab

__all__ = ["keys_at", "lab_schema", "schema_of"]

Schema = dict[str, Any]


def lab_schema() -> Schema:
    """JSON Schema (draft 2020-12) of an inventory file."""
    return schema_of(Lab)


@lru_cache(maxsize=8)  # every mistake in a file asks for it
def schema_of(model: type[BaseModel]) -> Schema:
    """JSON Schema of any strict model, closed where pydantic leaves named maps open. Read only."""
    schema: Schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **model.model_json_schema(by_alias=True),
    }
    _close(schema)
    return schema


def _close(part: Any) -> None:
    """Refuse keys that match none of `patternProperties`, as the loader does."""
    if isinstance(part, dict):
        if "patternProperties" in part:
            part.setdefault("additionalProperties", False)
        for child in part.values():
            _close(child)
    elif isinstance(part, list):
        for child in part:
            _close(child)


def keys_at(schema: Schema, loc: tuple[str | int, ...], data: Any) -> tuple[str, ...]:
    """Keys that the schema knows in the mapping at `loc` of `data`; empty where any key may be."""
    here = schema
    for step in loc:
        here = _choose(schema, here, data)
        data = _child(data, step)
        if isinstance(step, int):
            here = here.get("items", {})
        else:
            named = here.get("properties", {}).get(step)
            anywhere = list(here.get("patternProperties", {}).values())
            here = named or (anywhere[0] if anywhere else {})
    return tuple(_choose(schema, here, data).get("properties", {}))


def _child(data: Any, step: str | int) -> Any:
    try:
        return data[step]
    except (KeyError, IndexError, TypeError):
        return None


def _choose(root: Schema, part: Schema, data: Any) -> Schema:
    """Follow references, and of alternatives take the one whose tag `data` carries."""
    while True:
        if "$ref" in part:
            part = root["$defs"][part["$ref"].rpartition("/")[2]]
            continue
        options = part.get("oneOf") or part.get("anyOf")
        if not options:
            return part
        mapping = part.get("discriminator", {})
        tag = data.get(mapping.get("propertyName", "")) if isinstance(data, dict) else None
        chosen = mapping.get("mapping", {}).get(tag) if isinstance(tag, str) else None
        if chosen:
            part = {"$ref": chosen}
        else:
            objects = [o for o in options if o.get("type", "object") == "object"]
            if not objects or mapping:
                return {}
            part = objects[0]
