"""Reads files that `testbed model` wrote: a calibration, measured rounds."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from testbed.errors import ConfigurationError

__all__ = ["DOCUMENT_BYTES_MAX", "Document", "read_document"]

DOCUMENT_BYTES_MAX = 1024 * 1024


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """`schema` says what a file is. Each kind of file has one default, and no other schema is
    read."""

    schema: str


_Made = TypeVar("_Made", bound=Document)


def read_document(path: Path, kind: type[_Made], command: str) -> _Made:
    """`command` makes such a file. Raises ConfigurationError."""
    try:
        with path.open("rb") as file:
            data = file.read(DOCUMENT_BYTES_MAX + 1)
        if len(data) > DOCUMENT_BYTES_MAX:
            raise ConfigurationError(f"{path}: more than {DOCUMENT_BYTES_MAX} bytes")
        found, wanted = msgspec.json.decode(data, type=Document).schema, _schema(kind)
        if found != wanted:
            raise ConfigurationError(
                f"{path}: its schema is {found!r}, only {wanted!r} is read; fix: make it again "
                f"with `{command}`"
            )
        return msgspec.json.decode(data, type=kind)
    except OSError as error:
        raise ConfigurationError(
            f"{path}: cannot read: {error.strerror}; `{command}` makes such a file"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path}: not what `{command}` prints: {error}") from error


def _schema(kind: type[Document]) -> str:
    (field,) = (each for each in msgspec.structs.fields(kind) if each.name == "schema")
    assert isinstance(field.default, str)
    return field.default
