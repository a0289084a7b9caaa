"""Journeys to a conversion: a customer's touches in the window before an order, or without an order.

The table `steps` has a row per touch: `journey, place, length, name, age, converts, conversions, value, journeys`.
`place` counts from 1, `age` is the days before the conversion; `conversions` and `value` are the whole journey's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from engine.analysis.measure.columns import check_numbers, to_microseconds
from engine.analysis.measure.daily.customer_rows import CustomerTable, load_customer_rows
from engine.analysis.sources.duckdb_expressions import identifier, text_literal
from engine.errors import BadInput
from engine.vocabulary import PURCHASES, REFUNDS, SILENCE

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

TouchName = Literal["channel", "offer", "both"]
NAMES: Final = {
    "channel": "coalesce(channel, 'unknown')",
    "offer": "coalesce(offer, 'unknown')",
    "both": "coalesce(offer, 'unknown') || ' on ' || coalesce(channel, 'unknown')",
}
_LOG_TOUCHES = """
SELECT any_value(seen.customer) AS customer, min(seen.time) AS time, any_value(decided.channel) AS channel,
    any_value(decided.variant) AS offer
FROM {exposures} AS seen
JOIN {decisions} AS decided
    ON decided.decision_id = seen.decision_id AND decided.key = seen.key AND decided.position = seen.position
WHERE decided.kind = 'offer' AND decided.variant <> {silence} AND seen.customer <> '' {until}
GROUP BY seen.decision_id, seen.key, seen.position
"""
# A touch belongs to the customer's next order if that is within the window, else to a journey without conversion.
_STEPS = """
WITH joined AS (
    SELECT touches.customer, touches.time, {name} AS name, placed.time AS ordered, placed.revenue,
        placed.time - touches.time <= {window} AS converts
    FROM ({touches}) AS touches
    ASOF LEFT JOIN (SELECT customer, time, revenue FROM {orders} WHERE is_order) AS placed
        ON touches.customer = placed.customer AND touches.time <= placed.time
)
SELECT customer, hash(customer, ordered, coalesce(converts, false)) AS journey,
    row_number() OVER steps AS place,
    count(*) OVER (PARTITION BY customer, ordered, coalesce(converts, false)) AS length,
    name, (ordered - time) / 86400e6 AS age, coalesce(converts, false) AS converts,
    CASE WHEN converts THEN 1.0 ELSE 0.0 END AS conversions, CASE WHEN converts THEN revenue ELSE 0.0 END AS value,
    1.0 AS journeys
FROM joined WINDOW steps AS (PARTITION BY customer, ordered, coalesce(converts, false) ORDER BY time, name)
"""
_PATH_STEPS = """
WITH paths AS (
    SELECT row_number() OVER () AS journey, CAST({conversions} AS DOUBLE) AS conversions,
        CAST({value} AS DOUBLE) AS value, CAST({total} AS DOUBLE) AS total,
        list_filter(
            list_transform(string_split(CAST({path} AS VARCHAR), '>'), one -> trim(one)), one -> one <> ''
        ) AS names
    FROM {table}
), parts AS (
    SELECT journey * 2 AS journey, names, true AS converts, conversions, value, conversions AS journeys
    FROM paths WHERE conversions > 0
    UNION ALL
    SELECT journey * 2 + 1, names, false, 0, 0, total - conversions FROM paths WHERE total > conversions
)
SELECT journey, unnest(range(1, len(names) + 1)) AS place, len(names) AS length, unnest(names) AS name,
    NULL::DOUBLE AS age, converts, conversions, value, journeys
FROM parts
"""


def create_steps(source: EventSource, name: TouchName, window_days: float) -> None:
    """Creates the table `steps` from the log's offer exposures, or from a table of touches or paths.

    Raises:
        BadInput: if the table has neither paths nor touches, or a count of a path is negative.
    """
    if source.log_dir is None and source.column("path") is not None:
        _create_path_steps(source)
        return
    window = str(to_microseconds("window", window_days))
    if source.log_dir is None:
        source.create("steps", _STEPS, touches=touches_sql(source), name=NAMES[name], window=window)
        return
    sql = _STEPS
    until = "" if source.until is None else f"AND seen.time <= {source.until}"
    touches = _LOG_TOUCHES.replace("{until}", until).replace("{silence}", text_literal(SILENCE))
    for key, value in {"touches": touches, "name": NAMES[name], "window": window}.items():
        sql = sql.replace(f"{{{key}}}", value)
    table = CustomerTable(label="steps", reads=("decisions", "exposures", "orders"), sql=sql)
    load_customer_rows(source, table, "steps")


def touches_sql(source: EventSource) -> str:
    """The touches `customer, time, channel, offer`: offer exposures of a log, or table rows except orders."""
    if source.log_dir is not None:
        until = "" if source.until is None else f"AND seen.time <= {source.until}"
        tables = {"exposures": source.log_rows("exposures"), "decisions": source.log_rows("decisions")}
        return source.fill(_LOG_TOUCHES, until=until, silence=text_literal(SILENCE), **tables)
    columns = source.require("customer", "time", "event")
    names = ", ".join(text_literal(name) for name in sorted(PURCHASES | REFUNDS))
    until = "" if source.until is None else f"AND {source.time_sql()} <= {source.until}"
    return (
        f"SELECT CAST({columns['customer']} AS VARCHAR) AS customer, {source.time_sql()} AS time, "
        f"CAST({source.optional('channel')} AS VARCHAR) AS channel, "
        f"CAST({source.optional('offer')} AS VARCHAR) AS offer FROM {source.table.sql} "
        f"WHERE {columns['event']} NOT IN ({names}) {until}"  # nosec B608
    )


def _create_path_steps(source: EventSource) -> None:
    path = identifier(source.column("path") or "")
    check_numbers(source, "conversions", "total", "nulls", filled=True)
    check_numbers(source, "revenue")
    conversions = source.number_sql("conversions", "1")
    total = source.number_sql("total", conversions)
    if source.column("nulls") is not None:
        total = f"({conversions} + {source.number_sql('nulls')})"
    table = source.table.sql
    wrong = source.engine.run(
        f"SELECT count(*) FROM {table} WHERE {conversions} < 0 OR {total} < {conversions} OR {path} IS NULL"  # nosec B608
    )[0][0]
    if wrong:
        raise BadInput(f"{source.place}: {wrong} paths are empty or have fewer journeys than conversions; correct them")
    value = f"coalesce({source.number_sql('revenue', '0')}, 0)"
    values = {"path": path, "conversions": conversions, "total": total, "value": value, "table": table}
    source.create("steps", _PATH_STEPS, **values)
