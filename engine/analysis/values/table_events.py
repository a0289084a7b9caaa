"""The single rows of tables outside the log, for metrics that are no sums: quantiles and funnels.

The table's engine joins and filters as for sums (`table_rows`), and the rows that count come back: for a quantile the
value of each, for a funnel its time and the steps that it may be. The engine of the log does the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from engine.analysis.values.funnels import FunnelValue, passed_members
from engine.analysis.values.table_rows import TIME, exposed_table, meets_filter, spelled_identifier
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.question import MeasuredMetric, MeasuredTable
    from engine.analysis.sources.engines import Cell, DuckDB
    from engine.analysis.values.connections import Connection, Exposures

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def fetch_values(
    source: DuckDB, connection: Connection, exposures: Exposures, spec: MeasuredMetric, rows: ir.Table
) -> ir.Table:
    """The `n` of a customer and the value `x` of each row that a quantile counts; rows without a value are left out.

    Args:
        source: the engine of the log.
        connection: the engine of the table.
        exposures: with the moments `t0` and `t1` between which rows count.
        spec: the metric, with a table.
        rows: the table, as of `Connection.table`.

    Raises:
        BadInput: if the table cannot be read, or a row has a currency without a rate.
    """
    table = _table_of(spec)
    fetched = connection.fetch(select_values(rows, spec, table), exposures)
    unknown = sum(row[2] is None for row in fetched) if table.currency else 0
    if unknown:
        raise BadInput(
            f"metric {spec.name}: {unknown:,} rows of {table.table} have a currency in {table.currency} without a "
            f"rate; rates has {', '.join(sorted(table.rates))}; add theirs to metrics.yaml"
        )
    values = [(row[0], _number(row[1]) * (_number(row[2]) if table.currency else 1.0)) for row in fetched]
    return _load(source, f"values_of_{spec.name}", ["x"], values)


def fetch_passed(
    source: DuckDB, connection: Connection, exposures: Exposures, spec: MeasuredMetric, rows: ir.Table, *, name: str
) -> ir.Table:
    """The `n` of the customers who passed a funnel, and 1.0 under `name`; arguments and errors as above."""
    query = select_steps(rows, spec, _table_of(spec))
    flags = query.columns[2:]
    fetched = [
        (row[0], float(_microseconds(row[1])), *map(_number, row[2:])) for row in connection.fetch(query, exposures)
    ]
    events = _load(source, f"steps_of_{name}", ["at", *flags], fetched)
    events = events.select(unit="n", customer="n", at=events["at"].cast("int64"), **{f: events[f] > 0.5 for f in flags})
    funnel = FunnelValue(
        name=name,
        steps=[events[flag] for flag in flags],
        events=[(step.event,) for step in spec.steps],
        within=spec.within,
        refunds=None,
    )
    return passed_members(events, funnel).select(n="unit", **{name: name})


def select_values(rows: ir.Table, spec: MeasuredMetric, table: MeasuredTable) -> ir.Table:
    """The rows that a quantile counts, as the table's engine is asked: `n, x`, and `rate` of a currency."""
    joined, inside = _join(rows, spec, table, value=rows[table.value or table.time].cast("float64"))
    value = joined["value"]
    columns = {"n": joined["n"], "x": value}
    if table.currency:
        columns["rate"] = joined["rate"]
    return joined.filter(inside & value.notnull()).select(**columns)


def select_steps(rows: ir.Table, spec: MeasuredMetric, table: MeasuredTable) -> ir.Table:
    """The rows that may be a step of a funnel, as the table's engine is asked: `n, at`, and 1.0 for each such step."""
    kind = rows[table.event or table.time].cast("string")
    flags = {f"s{at}": (kind == step.event) & meets_filter(rows, step.filter) for at, step in enumerate(spec.steps)}
    joined, inside = _join(rows, spec, table, **flags)
    taken = joined["s0"]
    for flag in list(flags)[1:]:
        taken = taken | joined[flag]
    numbers = {flag: joined[flag].ifelse(1.0, 0.0) for flag in flags}
    return joined.filter(inside & taken).select(n=joined["n"], at=joined["at"].cast("string"), **numbers)


def _join(
    rows: ir.Table, spec: MeasuredMetric, table: MeasuredTable, **columns: ir.Value
) -> tuple[ir.Table, ir.BooleanValue]:
    """The rows of exposed customers with these columns, and whether a row counts."""
    own = {"id": spelled_identifier(rows[table.customer], table.identifier), "at": rows[table.time].cast(TIME)}
    own |= {"is": meets_filter(rows, spec.filter), **columns}
    if table.currency:
        own["rate"] = rows[table.currency].cast("string").strip().upper().cases(*table.rates.items(), else_=None)
    joined = exposed_table(["t0", "t1"]).join(rows.select(**own), "id")
    return joined, (joined["at"] >= joined["t0"]) & (joined["at"] < joined["t1"]) & joined["is"]


def _table_of(spec: MeasuredMetric) -> MeasuredTable:
    if spec.source is None:
        raise ValueError(f"metric {spec.name} has no table")
    return spec.source


def _number(value: Cell) -> float:
    return float(str(value))


def _microseconds(value: Cell) -> int:
    """A time in microseconds since 1970, from the text that an engine makes of it; without a zone it is UTC."""
    at = datetime.fromisoformat(str(value).replace(" Z", "Z").replace(" +", "+"))
    delta = (at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _load(source: DuckDB, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> ir.Table:
    """Fetched rows, `n` and numbers, as a table of the log's engine."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it
    import pyarrow as pa  # noqa: PLC0415 # as above

    arrays = [pa.array([int(str(row[0])) for row in rows], pa.int64())]
    arrays += [pa.array([row[at] for row in rows], pa.float64()) for at in range(1, 1 + len(columns))]
    source.connection.register("fetched", pa.table(arrays, names=["n", *columns]))
    kept = f"counterpoint_{name}".replace('"', "")
    source.run(f'CREATE OR REPLACE TEMP TABLE "{kept}" AS FROM fetched')
    source.connection.unregister("fetched")
    return ibis.table({"n": "int64", **dict.fromkeys(columns, "float64")}, name=kept)
