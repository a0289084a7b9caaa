"""Sums of a metric over the log's events, in which an order counts once.

`engine.orders` has the rules, here in SQL. The events of one order become one row (`per_order`), which holds of each
sum the statement that stands and the refunds, within that sum's window; the rows of a customer then add up (`total`).
A purchase or a refund without an order id, and any other event with revenue, is a row of its own; the other events of
a customer are one row together.

Refunds of an order that has no statement in the window change nothing: the order was placed before the exposure. A
refund without an order id lowers a sum of revenue by its amount.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.sources.log import event_number
from engine.metric_kinds import COUNTED
from engine.orders import AMOUNT_FIELDS, CENTS, ORDER_ID_FIELDS, SPACES
from engine.vocabulary import PURCHASES, REFUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import ibis.expr.types as ir

    from engine.metric_kinds import EventAdds

ORDER_EVENTS = PURCHASES | REFUNDS
ORDER_COLUMNS = ("order_id", "given_back", "row")
"""The columns of `with_orders`."""
_IDS = ("VARCHAR", "BIGINT", "UBIGINT", "HUGEINT")
_AMOUNTS = ("BIGINT", "UBIGINT", "HUGEINT", "DOUBLE")
_STRIPPED = f"CASE WHEN regexp_full_match({{0}}, '[!-~]*') THEN {{0}} ELSE trim({{0}}, {text_literal(SPACES)}) END"
"""A text without the spaces around it. DuckDB makes a set of them for each row, so most texts are recognized first."""


def with_orders(rows: str) -> str:
    """The events of `rows` with `order_id` (null: none), `given_back` and their `row`, after FROM in DuckDB's SQL.

    `rows`, what may stand after FROM, has `message_id, event, revenue, properties`. `given_back` is the amount of a
    refund, null if it is of the whole order, and null for other events. Each step is a subquery of its own, so that a
    document is parsed in one of them alone, and once for all its fields.
    """
    orders, refunds = (f"event IN ({', '.join(map(text_literal, sorted(names)))})" for names in (ORDER_EVENTS, REFUNDS))
    order = _first_stated("id", _IDS, _STRIPPED, ("NULL", len(ORDER_ID_FIELDS)))
    unstated = "CASE WHEN order_id IS NULL THEN revenue END"
    amount = _first_stated("amount", _AMOUNTS, "try_cast({} AS DOUBLE)", (unstated, len(AMOUNT_FIELDS)))
    parsed = [*_parsed("id", "is_order", ORDER_ID_FIELDS), *_parsed("amount", "is_refund", AMOUNT_FIELDS)]
    # Any event with an amount is a row too: of the statements of one row only the last stands.
    alone = "CASE WHEN is_order OR revenue IS NOT NULL THEN 'm' || message_id ELSE '' END"
    # The text consists of names and literals of this module.
    marked = f"(SELECT *, {orders} AS is_order, {refunds} AS is_refund FROM {rows})"  # noqa: S608 # nosec B608
    read = f"(SELECT *, {', '.join(parsed)} FROM {marked})"  # noqa: S608 # nosec B608
    named = f"(SELECT *, nullif({order}, '') AS order_id FROM {read})"  # noqa: S608 # nosec B608
    return (
        "(SELECT * EXCLUDE (is_order, is_refund, id_kinds, id_texts, amount_kinds, amount_texts), "  # noqa: S608 # as above # nosec B608
        f"CASE WHEN is_refund THEN abs({amount}) END AS given_back, "
        f"CASE WHEN order_id IS NULL THEN {alone} ELSE 'o' || order_id END AS row FROM {named})"
    )


def _parsed(name: str, asked: str, fields: Sequence[str]) -> list[str]:
    """The types and texts of the properties `fields` of the `asked` events, as two list columns."""
    places = [f"/{field}" for field in fields]
    return [
        f"CASE WHEN {asked} THEN json_type(properties, {places}) END AS {name}_kinds",
        f"CASE WHEN {asked} THEN json_extract_string(properties, {places}) END AS {name}_texts",
    ]


def _first_stated(name: str, kinds: Sequence[str], value: str, rest: tuple[str, int]) -> str:
    """The first `value` in `_parsed` other than a JSON null, null if its type is not in `kinds`; else the rest."""
    known, (found, fields) = ", ".join(map(text_literal, kinds)), rest
    for at in range(fields, 0, -1):
        text = f"CASE WHEN {name}_kinds[{at}] IN ({known}) THEN {value.format(f'{name}_texts[{at}]')} END"
        found = f"CASE WHEN {name}_kinds[{at}] <> 'NULL' THEN {text} ELSE {found} END"
    return found


@dataclass(frozen=True, kw_only=True)
class EventSum:
    """One sum over events: its name, its `events` in the window, its `refunds`, and what an event adds.

    `value` is the property that it sums; `refunds` is None where they do not matter to it. With `bounds` a value adds
    -100 up to the first, 100 from the second, and 0 between them. With `at_least` a customer has 1 from that sum on,
    else 0. `zone` is the time zone of the days that are counted.
    """

    name: str
    adds: EventAdds
    value: str | None
    taken: ir.BooleanValue
    refunds: ir.BooleanValue | None
    bounds: tuple[float, float] | None = None
    at_least: float | None = None
    zone: str = "UTC"

    def per_order(self, events: ir.Table) -> dict[str, ir.Value]:
        """The columns of a row."""
        days = {}
        if self.adds == "days":
            days = {f"{self.name}_d": _local_day(events["at"], self.zone).collect(where=self.taken, distinct=True)}
        if self.refunds is None:
            return {self.name: self._plain(events), **days}
        rank, stated, value = _rank(events), self.taken.any().nullif(False).cast("float64"), self._value(events)
        return {
            **days,
            f"{self.name}_v": stated if value is None else value.argmax(rank, where=self.taken),
            f"{self.name}_r": events["revenue"].fill_null(0.0).argmax(rank, where=self.taken),
            f"{self.name}_f": events["given_back"].fill_null(0.0).sum(where=self.refunds),
            f"{self.name}_w": (self.refunds & events["given_back"].isnull()).any(),
        }

    def is_counted(self, rows: ir.Table) -> ir.BooleanValue:
        """Whether a row is a placed order that is not wholly refunded."""
        value, revenue = rows[f"{self.name}_v"], rows[f"{self.name}_r"]
        whole = rows[f"{self.name}_w"].fill_null(False)
        return value.notnull() & ~whole & ((self._refunded(rows) < revenue) | (revenue == 0.0))

    def per_row(self, rows: ir.Table) -> ir.FloatingValue:
        """The amount that a row adds to the sum."""
        if self.refunds is None:
            return rows[self.name].fill_null(0.0)
        value, revenue = rows[f"{self.name}_v"], rows[f"{self.name}_r"]
        refunded, counted = self._refunded(rows), self.is_counted(rows)
        if self.adds in COUNTED:
            return counted.ifelse(1.0, 0.0)
        left = ((revenue > 0.0) & (refunded > 0.0)).ifelse(value * ((revenue - refunded).round(CENTS) / revenue), value)
        alone = rows["row"].startswith("m") & value.isnull() if self.value == "revenue" else None
        kept = counted.ifelse(left, 0.0)
        return kept if alone is None else alone.ifelse(-refunded, kept)

    def total(self, rows: ir.Table) -> ir.FloatingValue:
        """The sum over the rows of a customer."""
        added = self.per_row(rows)
        if self.adds == "days":
            days = rows[f"{self.name}_d"].collect(where=added > 0.0)
            return days.flatten().unique().length().cast("float64")
        total = added.max() if self.adds == "presence" else added.sum()
        if self.at_least is None:
            return total
        # A sum of amounts such as 0.1 + 0.2 is compared in the digits that money has.
        return (total.round(CENTS) >= round(self.at_least, CENTS)).cast("float64")

    def _refunded(self, rows: ir.Table) -> ir.FloatingValue:
        return rows[f"{self.name}_f"].fill_null(0.0).round(CENTS)

    def _plain(self, events: ir.Table) -> ir.FloatingValue:
        if self.adds == "presence":
            return self.taken.any().cast("float64")
        value = self._value(events)
        return self.taken.ifelse(1.0 if value is None else value, 0.0).cast("float64").sum()

    def _value(self, events: ir.Table) -> ir.Value | None:
        """The number that each event adds; None if that is 1."""
        if self.adds in COUNTED or self.value is None:
            return None
        number = event_number(events, self.value, 0.0)
        if self.bounds is None:
            return number
        low, high = self.bounds
        return (number >= high).ifelse(100.0, (number <= low).ifelse(-100.0, 0.0))


def _local_day(at: ir.IntegerValue, zone: str) -> ir.StringValue:
    """The calendar day of a time (µs since 1970) in a zone."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("int64",), "timestamp('UTC')")
    )
    def make_timestamptz(microseconds: int) -> datetime: ...  # type: ignore[empty-body] # DuckDB's own

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # as above
        signature=(("string", "timestamp('UTC')"), "timestamp")
    )
    def timezone(zone: str, at: datetime) -> datetime: ...  # type: ignore[empty-body] # DuckDB's own

    return timezone(zone, make_timestamptz(at)).date()


def _rank(events: ir.Table) -> ir.Value:
    """The sort key of an order's statements, as `orders.statement_rank`: that with the greatest is valid."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    revenue = events["revenue"].fill_null(0.0)
    return ibis.struct({"stated": revenue != 0.0, "at": events["at"], "revenue": revenue})
