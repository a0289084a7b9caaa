"""What the log holds of a person, handed out."""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.journal import publish
from engine.journal.parquet import Table

OF_A_CUSTOMER: tuple[Table, ...] = ("decisions", "exposures", "events")
UNREADABLE = {"trace"}


def rows_of(log: Path, ids: set[str]) -> dict[str, list[dict[str, object]]]:
    """The rows of the customers `ids`, by table, oldest day first; times as RFC 3339. Empty where there is no log."""
    found: dict[str, list[dict[str, object]]] = {}
    if not log.is_dir():
        return found
    with publish.reading(log):
        for table in OF_A_CUSTOMER:
            rows: list[dict[str, object]] = []
            for file in sorted((log / table).glob("day=*/*.parquet")):
                read = pq.read_table(file, filters=pc.field("customer").isin(sorted(ids)), partitioning=None)
                rows += [_plain(row) for row in read.to_pylist()]
            found[table] = rows
    return found


def _plain(row: dict[str, object]) -> dict[str, object]:
    return {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in row.items()
        if name not in UNREADABLE
    }
