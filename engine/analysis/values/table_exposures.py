"""Uses exposures from a table outside the log as the decisions and exposures of an experiment's report.

The table's engine finds each customer's first exposure to each variant, in one query. Its identifiers become customers
of the log where the log knows them, and stay who they are where it does not. What the log has of the experiment itself
does not count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.analysis.sources.log import ASSIGNED, loaded_rows, read_log_table
from engine.analysis.values.connections import NOBODY, connect
from engine.analysis.values.identifiers import find_identifiers
from engine.analysis.values.table_rows import TIME, spelled_identifier

if TYPE_CHECKING:
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import ExperimentQuestion, MeasuredExposures
    from engine.analysis.sources.engines import DuckDB

MICROSECONDS = 1_000_000
_DECISIONS = """
CREATE OR REPLACE TEMP TABLE table_decisions AS
SELECT log_columns.* REPLACE ('t' || row_number() OVER () AS decision_id, seen.time AS time,
    coalesce(names.customer, seen.id) AS customer, 'experiment' AS kind, {} AS key, seen.variant AS variant,
    {} AS reason, '{{}}' AS context, false AS crossover, '' AS version, '' AS plan,
    1.0 AS propensity, 'table' AS channel)
FROM (SELECT id, variant, time FROM table_exposures_read) AS seen
LEFT JOIN identifiers AS names USING (id)
LEFT JOIN log_columns ON false
"""


def load_table_exposures(source: DuckDB, log_dir: Path, question: ExperimentQuestion) -> None:
    """Replaces the log's exposures by those of the question's table, if any, for this engine.

    Raises:
        BadInput: if the table cannot be read.
    """
    given = question.exposures
    if given is None:
        return
    connection = connect(given.connection, source)
    names = [given.customer, given.time, given.variant, *([given.experiment] if given.experiment else [])]
    query = _first_exposures(connection.table(given.table, names), given, question.key)
    rows = [row for row in connection.fetch(query, NOBODY) if all(cell is not None for cell in row)]
    find_identifiers(source, log_dir)
    times = [str(round(float(str(at)) * MICROSECONDS)) for *_, at in rows]
    columns = {"id": [str(row[0]) for row in rows], "variant": [str(row[1]) for row in rows], "time": times}
    loaded = source.load("table_exposures_text", **columns)
    source.keep("table_exposures_read", loaded.mutate(time=loaded["time"].cast("int64")))
    source.keep("log_columns", read_log_table(source, log_dir, "decisions").limit(0))
    source.run(_DECISIONS, question.key, ASSIGNED[0])
    source.run(
        "CREATE OR REPLACE TEMP TABLE table_exposures AS SELECT decision_id, time, key, customer FROM table_decisions"
    )
    source.made[loaded_rows(log_dir, "decisions")] = "table_decisions"
    source.made[loaded_rows(log_dir, "exposures")] = "table_exposures"


def _first_exposures(rows: ir.Table, given: MeasuredExposures, key: str) -> ir.Table:
    """Each identifier's first exposure to each variant, in seconds since 1970: `id, variant, at`."""
    if given.experiment is not None:
        rows = rows.filter(rows[given.experiment].cast("string") == (given.key or key))
    named = rows.select(
        id=spelled_identifier(rows[given.customer], given.identifier),
        variant=rows[given.variant].cast("string"),
        at=rows[given.time].cast(TIME),
    )
    return named.group_by("id", "variant").aggregate(at=named["at"].min().epoch_seconds())
