"""The values of metrics whose events are rows of tables outside the log, by one query per table.

The customers' identifiers and the moments of their exposures go to the table's engine, which joins and adds up; a row
for each customer comes back.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from engine.analysis.design.log_times import SECOND
from engine.analysis.values.connections import Exposures, connect
from engine.analysis.values.identifiers import find_identifiers
from engine.analysis.values.table_events import fetch_passed, fetch_values
from engine.analysis.values.table_rows import RowSum, list_table_columns, sum_rows
from engine.errors import BadInput
from engine.orders import CENTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import ibis.expr.types as ir

    from engine.analysis.design.question import MeasuredMetric, MeasuredTable
    from engine.analysis.sources.engines import DuckDB
    from engine.analysis.values.connections import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class TableMetric(NamedTuple):
    """A metric with the name of its column; its covariate is `NAME_pre`, the denominator of either `…_den`."""

    name: str
    spec: MeasuredMetric
    table: MeasuredTable

    @property
    def terms(self) -> tuple[tuple[str, ...], ...]:
        """The columns of its value and its covariate, if any, each with its denominator."""
        names = (self.name, f"{self.name}_pre") if self.spec.covariate_window else (self.name,)
        return tuple((name, f"{name}_den") if self.spec.rules.has_denominator else (name,) for name in names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its values."""
        return tuple(column for term in self.terms for column in term)


def measure_tables(
    source: DuckDB,
    log_dir: Path,
    *,
    exposed: ir.Table,
    metrics: Sequence[TableMetric],
    as_of: int,
) -> ir.Table:
    """The `unit, customer` of everyone exposed, with each metric's columns; 0 for customers without rows.

    Args:
        source: the engine of the log.
        log_dir: the folder of the log.
        exposed: `unit, customer, first, ever`, the first exposure and the first one ever in microseconds.
        metrics: of any tables and connections.
        as_of: the date of the report in microseconds.

    Raises:
        BadInput: if a table cannot be read, or has amounts in a currency without a rate.
    """
    numbered, named = _name_exposed(source, log_dir, exposed)
    groups: dict[tuple[object, ...], list[TableMetric]] = {}
    for metric in metrics:
        if metric.spec.rules.has_steps:
            continue
        table = metric.table
        key = (table.connection.key, table.table, table.customer, table.time, table.identifier)
        groups.setdefault(key, []).append(metric)
    found = numbered
    for at, group in enumerate(groups.values()):
        values = _measure_table(source, named, group, as_of, f"table_values_{at}")
        found = found.left_join(values, "n").drop("n_right")
    for metric in metrics:
        for name, before in zip(metric.columns if metric.spec.rules.has_steps else (), (False, True), strict=False):
            passed = _measure_funnel(source, named, metric, as_of, name=name, before=before)
            found = found.left_join(passed, "n").drop("n_right")
    columns = {}
    for metric in metrics:
        for name in metric.columns:
            value = found[name].fill_null(0.0)
            least = metric.spec.at_least
            columns[name] = value if least is None else (value.round(CENTS) >= round(least, CENTS)).cast("float64")
    return found.select("unit", "customer", **columns)


def table_values(source: DuckDB, log_dir: Path, exposed: ir.Table, spec: MeasuredMetric, as_of: int) -> ir.Table:
    """The `unit` and the value `x` of each row that a quantile metric counts; arguments and errors as above."""
    numbered, named = _name_exposed(source, log_dir, exposed)
    moments: dict[tuple[str, int, int | None], str] = {}
    _span_of(moments, spec, as_of)
    exposures = _read_exposures(source, named, moments)
    connection, rows = _open(source, spec)
    values = fetch_values(source, connection, exposures, spec, rows)
    return values.join(numbered.select("n", "unit"), "n").select("unit", "x")


def _measure_funnel(
    source: DuckDB, named: ir.Table, metric: TableMetric, as_of: int, *, name: str, before: bool
) -> ir.Table:
    """The customers, by their number, who passed a funnel after the exposure, or `before` it."""
    moments: dict[tuple[str, int, int | None], str] = {}
    _span_of(moments, metric.spec, as_of, before=before)
    connection, rows = _open(source, metric.spec)
    return fetch_passed(source, connection, _read_exposures(source, named, moments), metric.spec, rows, name=name)


def _open(source: DuckDB, spec: MeasuredMetric) -> tuple[Connection, ir.Table]:
    """The engine of a metric's table, and the table with the columns that the metric reads."""
    table = spec.source
    if table is None:
        raise ValueError(f"metric {spec.name} has no table")
    connection = connect(table.connection, source)
    filters = [spec.filter, *(step.filter for step in spec.steps)]
    return connection, connection.table(table.table, list_table_columns([table], filters))


def _span_of(
    moments: dict[tuple[str, int, int | None], str], spec: MeasuredMetric, as_of: int, *, before: bool = False
) -> tuple[str, str]:
    """The columns of the moments between which a metric counts, or its covariate; new ones are added to `moments`."""

    def moment(since: str, shift: float, latest: int | None = None) -> str:
        return moments.setdefault((since, int(shift * SECOND), latest), f"t{len(moments)}")

    if before:
        return moment("ever", -(spec.covariate_window or 0.0)), moment("ever", 0.0)
    begins = moment("first", spec.delay)
    if spec.window is None:
        return begins, moment("end", 0.0, as_of + 1)
    return begins, moment("first", spec.delay + spec.window, as_of + 1)


def _name_exposed(source: DuckDB, log_dir: Path, exposed: ir.Table) -> tuple[ir.Table, ir.Table]:
    """The exposed customers with a number `n`, and a row for each identifier of each of them."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    numbered = source.keep("numbered", exposed.mutate(n=ibis.row_number().over(order_by=["unit", "customer"])))
    names = find_identifiers(source, log_dir, numbered.select("customer").distinct())
    # A table of exposures may have customers that the log does not know.
    themselves = numbered.select(id="customer", customer="customer")
    names = ibis.union(names, themselves, distinct=True)
    named = source.keep("named_units", numbered.join(names, "customer").select("n", "id", "first", "ever"))
    return numbered, named


def _measure_table(source: DuckDB, named: ir.Table, group: Sequence[TableMetric], as_of: int, kept: str) -> ir.Table:
    """The columns of a table's metrics by the number `n` of a customer, from one query."""
    moments: dict[tuple[str, int, int | None], str] = {}
    sums, tables = [], []
    for metric in group:
        spec = metric.spec
        spans = [_span_of(moments, spec, as_of)]
        if spec.covariate_window:
            spans.append(_span_of(moments, spec, as_of, before=True))
        for (since, up_to), term in zip(spans, metric.terms, strict=True):
            for name in term:
                is_below = name != term[0]
                sums.append(RowSum(name=name, spec=spec, begins=since, ends=up_to, is_below=is_below))
                tables.append(metric.table)
    exposures = _read_exposures(source, named, moments)
    columns = list(dict.fromkeys(name for one in group for name in one.columns))
    if not exposures.rows:
        return _load(source, kept, ["n", *columns], [])
    times = [time for row in exposures.rows for time in row[2:] if isinstance(time, datetime)]
    connection = connect(group[0].table.connection, source)
    rows = connection.table(group[0].table.table, list_table_columns(tables, [one.filter for one in sums]))
    query = sum_rows(rows, sums, tables, (min(times), max(times)))
    fetched = [dict(zip(query.columns, row, strict=True)) for row in connection.fetch(query, exposures)]
    for one, table in zip(sums, tables, strict=True):
        unknown = sum(int(float(row.get(f"{one.name}_unknown") or 0)) for row in fetched)
        if unknown:
            raise BadInput(
                f"metric {one.spec.name}: {unknown:,} rows of {table.table} have a currency in {table.currency} "
                f"without a rate; rates has {', '.join(sorted(table.rates))}; add theirs to metrics.yaml"
            )
    return _load(source, kept, ["n", *columns], [[row[name] for name in ("n", *columns)] for row in fetched])


def _read_exposures(source: DuckDB, named: ir.Table, moments: dict[tuple[str, int, int | None], str]) -> Exposures:
    """The exposures with a column per moment, each bounded by its latest allowed time."""
    times = {}
    for (since, shift, latest), name in moments.items():
        at = named["first"] * 0 + latest if since == "end" else named[since] + shift
        times[name] = at if latest is None else at.clip(upper=latest)
    rows = source.rows(named.select("n", "id", **times))
    return Exposures(
        ["n", "id", *times],
        [(n, name, *(_EPOCH + timedelta(microseconds=int(at or 0)) for at in values)) for n, name, *values in rows],
    )


def _load(source: DuckDB, kept: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> ir.Table:
    """The fetched rows as a table of the log's engine."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it
    import pyarrow as pa  # noqa: PLC0415 # as above

    numbers = [pa.array([int(str(row[0])) for row in rows], pa.int64())]
    for at in range(1, len(columns)):
        values = [None if row[at] is None else float(str(row[at])) for row in rows]
        numbers.append(pa.array(values, pa.float64()))
    source.connection.register("fetched", pa.table(numbers, names=list(columns)))
    source.run(f'CREATE OR REPLACE TEMP TABLE "{kept}" AS FROM fetched')
    source.connection.unregister("fetched")
    return ibis.table({columns[0]: "int64", **dict.fromkeys(columns[1:], "float64")}, name=kept)
