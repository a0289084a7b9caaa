"""Writes feeds from tables outside the log, for servers that read files and have no database of products.

The file is replaced whole, and only if its bytes change: a plan's version follows from them. Rows are in the order of
the entry's key, so the same rows give the same bytes.
"""

from __future__ import annotations

import csv
import io
import os
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Literal

import msgspec

from engine.analysis.sources.engines import DuckDB
from engine.analysis.values.connections import NOBODY, connect
from engine.catalog.feeds.items import MOST_ITEMS, feed_columns
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.catalog.spec.offer import OffersSpec
    from engine.catalog.spec.sources import SourceSpec

Plain = str | int | float | bool | None


class WrittenFeed(msgspec.Struct, frozen=True, kw_only=True):
    """A feed with the number of its rows; `state` says whether the file changed."""

    feed: str
    table: str
    rows: int
    state: Literal["written", "unchanged"]


def write_feed(folder: Path, entry: OffersSpec, source: SourceSpec) -> WrittenFeed:
    """Write the feed of an entry from its table.

    Raises:
        BadInput: if the table cannot be read, or has no row or too many; the file stays as it is.
    """
    if entry.table is None or entry.feed is None:
        raise ValueError("the entry has no table, or no feed")
    columns = feed_columns(entry)
    connection = connect(source, DuckDB())
    table = connection.table(entry.table.table, columns)
    # Under names of its own each column is selected by itself: a plain selection would be `*`, of all that there are.
    query = table.select(**{f"c{at}": table[name] for at, name in enumerate(columns)})
    found = sorted(connection.fetch(query, NOBODY), key=lambda row: str(row[0]))
    if not found or len(found) > MOST_ITEMS:
        raise BadInput(
            f"{entry.feed}: the table {entry.table.table} of {source.key} has {len(found):,} rows, and a feed has 1 to "
            f"{MOST_ITEMS:,}; the file stays as it is"
        )
    data = _encode(entry.feed, columns, [[_plain(cell) for cell in row] for row in found])
    path = folder / entry.feed
    is_same = path.is_file() and path.read_bytes() == data
    if not is_same:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.draft")
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    state: Literal["written", "unchanged"] = "unchanged" if is_same else "written"
    return WrittenFeed(feed=entry.feed, table=entry.table.table, rows=len(found), state=state)


def _plain(cell: object) -> Plain:
    """A cell as feeds have it: amounts are numbers, times are texts of ISO 8601."""
    if isinstance(cell, Decimal):
        return int(cell) if cell == cell.to_integral_value() else float(cell)
    if isinstance(cell, datetime | date):
        return cell.isoformat()
    return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)


def _encode(name: str, columns: Sequence[str], rows: Sequence[Sequence[Plain]]) -> bytes:
    """The bytes of a file whose name says how: CSV, JSON Lines or Parquet."""
    if name.endswith(".csv"):
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([columns, *rows])
        return text.getvalue().encode()
    if not name.endswith(".parquet"):
        return msgspec.json.Encoder().encode_lines([dict(zip(columns, row, strict=True)) for row in rows])
    import pyarrow as pa  # noqa: PLC0415 # slow to import
    import pyarrow.parquet as pq  # noqa: PLC0415 # as above

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: [row[at] for row in rows] for at, name in enumerate(columns)}), sink)
    return bytes(sink.getvalue().to_pybytes())
