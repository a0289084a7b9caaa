"""One person is one unit: what the log has of a visitor who turned out to be a customer is the customer's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from engine.analysis.sources.engines import DuckDB

TABLES_OF_CUSTOMERS = frozenset(("decisions", "exposures", "events"))
SKEW = "INTERVAL 1 MINUTE"  # between the clocks of two workers
_TABLE = "became"


def merged_customers_table(source: DuckDB, log_dir: Path) -> str | None:
    """The name of a table `old, until, customer`: rows under `old` up to `until` are the `customer`'s; None if empty.

    Later ones are not: an identifier that merged once and then named too many people stands for nobody.
    """
    name = f"{_TABLE}:{log_dir}"
    if name not in source.made:
        source.made[name] = _make(source, log_dir) if next((log_dir / "events").glob("**/*.parquet"), None) else None
    return source.made[name]


def _make(source: DuckDB, log_dir: Path) -> str | None:
    path = str(log_dir / "events").replace("'", "''")
    table = f"{_TABLE}_{len(source.made)}"
    source.run(
        f"""
        CREATE TEMP TABLE {table} AS WITH RECURSIVE
        merges AS (
            SELECT properties ->> '$.from' AS old, arg_min(properties ->> '$.into', received) AS customer,
                min(received) + {SKEW} AS until
            FROM read_parquet('{path}/**/*.parquet', union_by_name = true, hive_partitioning = false)
            WHERE event = '$merge' GROUP BY old
        ),
        way AS (
            FROM merges UNION
            SELECT way.old, merges.customer, way.until
            FROM way JOIN merges ON way.customer = merges.old AND merges.until >= way.until - {SKEW}
        )
        FROM way ANTI JOIN merges ON way.customer = merges.old AND merges.until >= way.until - {SKEW}
        """  # noqa: S608 # quoted above
    )
    return table if source.run(f"SELECT 1 FROM {table} LIMIT 1") else None  # noqa: S608 # a name of ours
