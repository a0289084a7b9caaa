"""Maps a merged visitor's identifier to the customer's, so that a person is one unit of a report."""

from __future__ import annotations

from glob import escape
from typing import TYPE_CHECKING

from engine.analysis.sources.duckdb_expressions import Query

if TYPE_CHECKING:
    from pathlib import Path

    from engine.analysis.sources.engines import DuckDB

TABLES_OF_CUSTOMERS = frozenset(("decisions", "exposures", "events"))
_TABLE = "became"
# A minute is allowed for the difference between the clocks of two workers.
_MERGES = """
WITH RECURSIVE
merges AS (
    SELECT old, arg_min(target, received) AS customer, min(received) + INTERVAL 1 MINUTE AS until
    FROM {rows} GROUP BY old
),
chain AS (
    FROM merges UNION
    SELECT chain.old, merges.customer, chain.until
    FROM chain JOIN merges ON chain.customer = merges.old AND merges.until >= chain.until - INTERVAL 1 MINUTE
)
FROM chain ANTI JOIN merges ON chain.customer = merges.old AND merges.until >= chain.until - INTERVAL 1 MINUTE
"""


_LOGGED = """
(SELECT properties ->> '$.from' AS old, properties ->> '$.into' AS target, received
    FROM read_parquet({}, union_by_name = true, hive_partitioning = false) WHERE event = '$merge')
"""


def create_merged_customers(source: DuckDB, log_dir: Path, rows: str, *values: str) -> str | None:
    """Builds the table of `merged_customers_table` from the merges `old, target, received`."""
    name, table = f"{_TABLE}:{log_dir}", f"{_TABLE}_{len(source.made)}"
    source.run(f"CREATE TEMP TABLE {table} AS {_MERGES.replace('{rows}', rows)}", *values)
    source.made[name] = table if source.rows(Query(table).select(one=1.0).limit(1)) else None
    return source.made[name]


def merged_customers_table(source: DuckDB, log_dir: Path) -> str | None:
    """The table `old, until, customer`: rows of `old` up to `until` belong to `customer`; None if empty.

    Later rows of `old` do not: an identifier that was merged once may name several people later, and then names nobody.
    """
    name = f"{_TABLE}:{log_dir}"
    if name not in source.made:
        if next((log_dir / "events").glob("**/*.parquet"), None) is None:
            source.made[name] = None
        else:
            create_merged_customers(source, log_dir, _LOGGED, f"{escape(str(log_dir / 'events'))}/**/*.parquet")
    return source.made[name]
