"""The published schema and the loader give the same verdict on the shape of any file."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from inventory.document import parse
from inventory.load import InvalidFile, load_yaml, packaged
from inventory.model import Lab
from inventory.schema import keys_at, lab_schema

SCHEMA = lab_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SAMPLES: list[Any] = [parse(packaged(name).read_bytes()).data for name in ("loopback", "first-lab")]
WORDS = [*SCHEMA["properties"], "ssh", "roles", "caps", "port", "driver", "on", "off", "unix", "r1"]
# Whole floats (1.0) are left out: JSON Schema counts them as integers, the loader does not.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 70_000),
    st.floats(0.001, 9.5).filter(lambda x: not x.is_integer()),
    st.sampled_from([*WORDS, "", "replica", "netem", "uhubctl", "command", "/dev/ttyS0", "A b"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema") / "lab.yaml"


def places(data: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    pairs = data.items() if isinstance(data, dict) else enumerate(data)
    found: list[tuple[Any, Any]] = []
    for key, value in list(pairs):
        found.append((data, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A sample file with one to three values replaced, removed or added."""
    data = copy.deepcopy(draw(st.sampled_from(SAMPLES)))
    for _ in range(draw(st.integers(1, 3))):
        if not places(data):
            break
        container, key = draw(st.sampled_from(places(data)))
        how = draw(st.sampled_from(["replace", "remove", "add"]))
        if how == "remove":
            del container[key]
        elif how == "add" and isinstance(container, dict):
            container[draw(st.sampled_from(WORDS))] = draw(VALUES)
        else:
            container[key] = draw(VALUES)
    return data


@given(mutated())
def test_schema_and_loader_agree_on_any_shape(file: Path, data: Any) -> None:
    file.write_text(json.dumps(data))  # JSON is YAML
    try:
        load_yaml(file, Lab)
        accepted, found = True, ""
    except InvalidFile as error:
        accepted, found = False, str(error)
    # Lists that must not repeat are the schema's uniqueItems and the loader's `checks`.
    refused = [e for e in VALIDATOR.iter_errors(data) if e.validator != "uniqueItems"]
    assert accepted == (not refused), f"{found}\n{[e.message for e in refused]}"


def test_the_schema_names_the_known_keys_of_any_place() -> None:
    power = {"hosts": {"a": {"power": {"driver": "uhubctl"}}}}
    assert keys_at(SCHEMA, ("hosts", "a", "power"), power) == ("driver", "port")
    assert "roles" in keys_at(SCHEMA, ("hosts", "a"), power)
    assert keys_at(SCHEMA, ("hosts",), power) == ()
