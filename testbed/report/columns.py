"""Tables of typed columns, as CSV for people and Parquet for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import msgspec
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from testbed.bundle import Bundle

__all__ = ["Cell", "Table", "read_table", "write_tables"]

Cell = str | int | float | bool | None

_TYPES = {"s": pa.string(), "i": pa.int64(), "u": pa.uint64(), "f": pa.float64(), "b": pa.bool_()}


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """`columns` are names with a type letter: s(tring), i(nteger), u(nsigned), f(loat),
    b(oolean)."""

    name: str
    columns: Mapping[str, str]
    rows: Sequence[Sequence[Cell]]


def read_table(bundle: Bundle, name: str) -> list[dict[str, Cell]]:
    """The rows of derived/<name>.parquet."""
    rows: list[dict[str, Cell]] = pq.read_table(bundle.path / f"derived/{name}.parquet").to_pylist()
    return rows


def write_tables(bundle: Bundle, made: Sequence[Table]) -> None:
    """derived/<name>.csv and .parquet; equal tables are equal bytes."""
    for table in made:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(table.columns)
        writer.writerows(table.rows)
        bundle.write(f"derived/{table.name}.csv", text.getvalue())
        schema = pa.schema([(name, _TYPES[kind]) for name, kind in table.columns.items()])
        columns = list(zip(*table.rows, strict=True)) or [()] * len(table.columns)
        arrays = [pa.array(c, t.type) for c, t in zip(columns, schema, strict=True)]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink)
        bundle.write(f"derived/{table.name}.parquet", sink.getvalue())
