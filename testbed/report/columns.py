"""Tables of typed columns, as CSV for people and Parquet for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from testbed.bundle import Folder

__all__ = ["Cell", "Table", "read_table", "table", "write_tables"]

Cell = str | int | float | bool | None

_TYPES = {"s": pa.string(), "i": pa.int64(), "u": pa.uint64(), "f": pa.float64(), "b": pa.bool_()}

T = TypeVar("T")


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """`columns` are names with a type letter: s(tring), i(nteger), u(nsigned), f(loat),
    b(oolean)."""

    name: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]


def table(
    name: str, items: Iterable[T], columns: Mapping[str, tuple[str, Callable[[T], Cell]]]
) -> Table:
    """One row for each item. A column has a type letter and a function from an item to its cell."""
    return Table(
        name=name,
        columns={column: letter for column, (letter, _) in columns.items()},
        rows=[[cell(item) for _, cell in columns.values()] for item in items],
    )


def read_table(folder: Folder, name: str) -> list[dict[str, Cell]]:
    """The rows of derived/<name>.parquet."""
    rows: list[dict[str, Cell]] = pq.read_table(folder.path / f"derived/{name}.parquet").to_pylist()
    return rows


def write_tables(folder: Folder, made: Sequence[Table]) -> None:
    """Writes derived/<name>.csv and .parquet. Equal tables give equal bytes."""
    for each in made:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(each.columns)
        writer.writerows(each.rows)
        folder.write(f"derived/{each.name}.csv", text.getvalue())
        schema = pa.schema([(name, _TYPES[letter]) for name, letter in each.columns.items()])
        columns = list(zip(*each.rows, strict=True)) or [()] * len(each.columns)
        arrays = [pa.array(c, t.type) for c, t in zip(columns, schema, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        folder.write(f"derived/{each.name}.parquet", sink.getvalue())
