"""The values of one table for each exposed customer, by one query in the table's own engine.

The exposures are a table beside it (`EXPOSED`), a row for each identifier of a customer: the customer's number `n`, the
`id`, and the moments between which each metric counts. So the query compares times and adds up, which every engine
does alike. Names of tables and columns are quoted and texts escaped by Ibis and SQLGlot; nothing is pasted into SQL.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, assert_never
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    import ibis.expr.types as ir

    from engine.analysis.design.question import MeasuredMetric, MeasuredTable

EXPOSED = "counterpoint_exposed"
TIME = "timestamp('UTC', 6)"
DAY_SECONDS = 86_400
_TESTS: Mapping[str, Callable[[Any, Any], ir.BooleanValue]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda value, operand: value.isin(operand),
    "$nin": lambda value, operand: value.notin(operand),
}


@dataclass(frozen=True, kw_only=True)
class RowSum:
    """One sum over a customer's rows, under `name`, from the moment `begins` up to `ends`, columns of EXPOSED.

    With `is_below` it is the denominator of a ratio, which has a column and a filter of its own.
    """

    name: str
    spec: MeasuredMetric
    begins: str
    ends: str
    is_below: bool = False

    @property
    def filter(self) -> Mapping[str, object]:
        """The condition on the rows that are added up."""
        return self.spec.denominator_filter if self.is_below else self.spec.filter

    def value_of(self, table: MeasuredTable) -> str | None:
        """The column that is added up; None if rows are counted."""
        return table.denominator if self.is_below else table.value


def spelled_identifier(column: ir.Value, kind: str | None) -> ir.StringValue:
    """An identifier column as text; e-mail addresses and phone numbers in canonical form."""
    text = column.cast("string")
    if kind == "email":
        return text.strip().lower()
    if kind == "phone":
        for mark in " -()/.":
            text = text.replace(mark, "")
    return text


def unbound_columns(names: Sequence[str], table: str, place: Sequence[str] = ()) -> ir.Table:
    """A table with these columns, of engine-specific types, in the schema (and database) `place`."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it
    import ibis.expr.datatypes as dt  # noqa: PLC0415

    schema = dict.fromkeys(names, dt.unknown)
    catalog, database = [None, None, *place][-2:]
    return ibis.table(schema, name=table, catalog=catalog, database=database)


def exposed_table(moments: Sequence[str]) -> ir.Table:
    """The exposures in the form that the query reads."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.table({"n": "int64", "id": "string", **dict.fromkeys(moments, TIME)}, name=EXPOSED)


def list_table_columns(tables: Sequence[MeasuredTable], filters: Sequence[Mapping[str, object]]) -> list[str]:
    """The columns of a table that its metrics read, each once."""
    named = [(one.customer, one.time, one.value, one.denominator, one.currency, one.event) for one in tables]
    return list(
        dict.fromkeys([*(name for row in named for name in row if name), *(key for one in filters for key in one)])
    )


def sum_rows(
    rows: ir.Table, sums: Sequence[RowSum], tables: Sequence[MeasuredTable], span: tuple[datetime, datetime]
) -> ir.Table:
    """The query: `n`, a column per sum, and as `NAME_unknown` its rows in a currency without a rate.

    Args:
        rows: the table, as of `unbound_columns`.
        sums: with the columns of EXPOSED that bound them.
        tables: the columns of each sum, in the same order.
        span: the first and the last moment at which any row counts.
    """
    exposed = exposed_table(list(dict.fromkeys(name for one in sums for name in (one.begins, one.ends))))
    first = tables[0]
    columns = {"id": spelled_identifier(rows[first.customer], first.identifier), "at": rows[first.time].cast(TIME)}
    for one, table in zip(sums, tables, strict=True):
        columns |= _read_columns(rows, one, table)
    joined = exposed.join(rows.select(**columns), "id")
    values: dict[str, ir.Value] = {}
    for one, table in zip(sums, tables, strict=True):
        inside = (joined["at"] >= joined[one.begins]) & (joined["at"] < joined[one.ends]) & joined[f"{one.name}_is"]
        values[one.name] = _sum(joined, one, inside, span)
        if table.currency:
            unknown = inside & joined[f"{one.name}_v"].notnull() & joined[f"{one.name}_r"].isnull()
            values[f"{one.name}_unknown"] = unknown.ifelse(1.0, 0.0).sum()
    return joined.group_by("n").aggregate(**values)


def _read_columns(rows: ir.Table, one: RowSum, table: MeasuredTable) -> dict[str, ir.Value]:
    """A row's parts that a sum reads: whether it `is` counted, its value and its currency's rate."""
    found: dict[str, ir.Value] = {f"{one.name}_is": meets_filter(rows, one.filter)}
    value = one.value_of(table)
    if value is not None:
        found[f"{one.name}_v"] = rows[value].cast("float64")
    if table.currency is not None:
        code = rows[table.currency].cast("string").strip().upper()
        found[f"{one.name}_r"] = code.cases(*table.rates.items(), else_=None)
    return found


def meets_filter(rows: ir.Table, condition: Mapping[str, object]) -> ir.BooleanValue:
    """Whether a row meets a filter on the columns of its table."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    taken = ibis.literal(value=True)
    for column, wanted in condition.items():
        taken = taken & _meets(rows[column], wanted)
    return taken


def _meets(column: ir.Value, wanted: object) -> ir.BooleanValue:
    """Whether a column meets a filter's condition, whose form `check` has accepted."""
    met = None
    for name, operand in (wanted if isinstance(wanted, Mapping) else {"$eq": wanted}).items():
        example = operand[0] if isinstance(operand, list) and operand else operand
        kind = "boolean" if isinstance(example, bool) else "string" if isinstance(example, str) else "float64"
        test = _TESTS[name](column.cast(kind), operand)
        met = test if met is None else met & test
    return met


def _sum(joined: ir.Table, one: RowSum, inside: ir.BooleanValue, span: tuple[datetime, datetime]) -> ir.FloatingValue:
    counted = inside.ifelse(1.0, 0.0)
    match one.spec.rules.event_adds:
        case "presence":
            return counted.max()
        case "days":
            return _local_day(joined["at"], one.spec.zone, span).nunique(where=inside).cast("float64")
        case "one":
            return counted.sum()
        case "amount":
            if f"{one.name}_v" not in joined.columns:
                return counted.sum()
            value = joined[f"{one.name}_v"]
            if f"{one.name}_r" in joined.columns:
                value = value * joined[f"{one.name}_r"]
            return inside.ifelse(value, 0.0).sum()
        case other:
            assert_never(other)


def _local_day(at: ir.TimestampValue, zone: str, span: tuple[datetime, datetime]) -> ir.IntegerValue:
    """The start of a moment's day in a zone, in seconds since 1970.

    Engines differ in the time zones that they know, so the offsets within the span are constants of the query.
    """
    seconds = at.epoch_seconds()
    steps = _offsets(zone, *span)
    local = seconds + steps[0][1]
    for begins, offset in steps[1:]:
        local = (seconds >= begins).ifelse(seconds + offset, local)
    return local - local % DAY_SECONDS


def _offsets(zone: str, first: datetime, last: datetime) -> list[tuple[int, int]]:
    """A zone's offsets from UTC in a span: the second at which each begins, and the offset in seconds."""
    info = ZoneInfo(zone)
    found: list[tuple[int, int]] = []
    hour = first.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    while hour <= last:
        offset = int((hour.astimezone(info).utcoffset() or timedelta()).total_seconds())
        if not found or found[-1][1] != offset:
            found.append((int(hour.timestamp()), offset))
        hour += timedelta(hours=1)
    return found
