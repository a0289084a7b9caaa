"""Text files whose cells are apart by spaces, with their names in the first line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.analysis.sources.duckdb_expressions import identifier, text_literal

if TYPE_CHECKING:
    from engine.analysis.sources.duckdb_expressions import View
    from engine.analysis.sources.engines import DuckDB

_SPLIT = """
SELECT {columns} FROM (
    SELECT regexp_split_to_array(trim(column0), '\\s+') AS cells
    FROM read_csv({file}, header = false, skip = 1, delim = '', quote = '', columns = {{'column0': 'VARCHAR'}})
)
"""


def plain_text_table(engine: DuckDB, file: str) -> View | None:
    """A text file whose cells are apart by spaces, with their names in the first line; None for any other."""
    if not file.endswith(".txt") or not Path(file).is_file():
        return None
    with Path(file).open(encoding="utf-8", errors="replace") as lines:
        first = lines.readline()
    names = first.split()
    if len(names) < 2 or any(mark in first for mark in ",;\t|") or any(name[0].isdigit() for name in names):
        return None
    columns = ", ".join(f"cells[{at}] AS {identifier(name)}" for at, name in enumerate(names, 1))
    return engine.view(file, _SPLIT.format(columns=columns, file=text_literal(file)))
