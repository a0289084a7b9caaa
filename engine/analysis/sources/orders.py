"""Sums of a metric over the events of the log, in which an order counts once.

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

from engine.analysis.sources.log import event_number, json_kind, json_text
from engine.metric_kinds import COUNTED
from engine.orders import AMOUNT_FIELDS, CENTS, ORDER_ID_FIELDS, SPACES
from engine.vocabulary import PURCHASES, REFUNDS

if TYPE_CHECKING:
    from datetime import datetime

    import ibis.expr.types as ir

    from engine.metric_kinds import EventAdds

ORDER_EVENTS = PURCHASES | REFUNDS


def with_orders(events: ir.Table) -> ir.Table:
    """The events with `order_id` (null: none), the amount `given_back` (null: the whole), and their `row`.

    `events` has `message_id, event, revenue, properties`; a table that was stored with these columns stays as it is.
    """
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    if {"order_id", "given_back", "row"} <= set(events.columns):
        return events
    order = ibis.null("string")
    for field in reversed(ORDER_ID_FIELDS):
        named = json_kind(events["properties"], field)
        is_id = named.isin(["VARCHAR", "BIGINT", "UBIGINT", "HUGEINT"])
        text = is_id.ifelse(_strip_spaces(json_text(events["properties"], field)), ibis.null("string"))
        order = named.notnull().ifelse(text, order)
    order = events["event"].isin(sorted(ORDER_EVENTS)).ifelse(order.nullif(""), ibis.null("string"))
    amount = order.isnull().ifelse(events["revenue"], ibis.null("float64"))
    for field in reversed(AMOUNT_FIELDS):
        kind = json_kind(events["properties"], field)
        is_number = kind.isin(["BIGINT", "UBIGINT", "HUGEINT", "DOUBLE"])
        number = json_text(events["properties"], field).try_cast("float64")
        amount = kind.notnull().ifelse(is_number.ifelse(number, ibis.null("float64")), amount)
    # Any event with an amount is a row too: of the statements of one row only the last stands.
    is_alone = events["event"].isin(sorted(ORDER_EVENTS)) | events["revenue"].notnull()
    alone = is_alone.ifelse("m" + events["message_id"], "")
    return events.mutate(order_id=order, given_back=amount.abs(), row=order.isnull().ifelse(alone, "o" + order))


@dataclass(frozen=True, kw_only=True)
class EventSum:
    """One sum over events: its name, which `events` it takes in its window, which `refunds`, and what an event adds.

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
        """Whether a row is an order that was placed and not wholly refunded."""
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
        """The number that each event adds; None where it is one."""
        if self.adds in COUNTED or self.value is None:
            return None
        number = event_number(events, self.value, 0.0)
        if self.bounds is None:
            return number
        low, high = self.bounds
        return (number >= high).ifelse(100.0, (number <= low).ifelse(-100.0, 0.0))


def _local_day(at: ir.IntegerValue, zone: str) -> ir.StringValue:
    """The calendar day of a time (microseconds since 1970) by the clock of a zone."""
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


def _strip_spaces(text: ir.StringValue) -> ir.StringValue:
    """A text without the spaces around it that `engine.orders` strips."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    @ibis.udf.scalar.builtin(  # type: ignore[untyped-decorator] # Ibis ships no types
        signature=(("string", "string"), "string")
    )
    def trim(text: str, characters: str) -> str: ...  # type: ignore[empty-body] # DuckDB's own

    return trim(text, SPACES)


def _rank(events: ir.Table) -> ir.Value:
    """The sort key of the statements of one order: the greatest (time, revenue) is valid."""
    import ibis  # noqa: PLC0415 # slow to import, and only reports need it

    return ibis.struct({"at": events["at"], "revenue": events["revenue"].fill_null(0.0)})
