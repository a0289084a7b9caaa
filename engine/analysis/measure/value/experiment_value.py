"""Customer lifetime value as an experiment's metric: past and expected spending since the exposure.

A customer's value is the revenue since the first exposure plus the discounted value that the model expects of the
orders so far; one without an order has none. The model is fitted to all customers and does not know the variants. So a
variant moves the value through the orders it causes, and the comparison is randomized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.analysis.measure.sources import EventSource

LEAST_EACH: Final = 30
# As in the programme: the newest version alone, without those who saw two variants.
_VARIANTS = """
WITH decided AS (
    SELECT decision_id, customer, variant, version, time FROM {decisions}
    WHERE kind = 'experiment' AND key = {key} AND variant IS NOT NULL AND reason IN ('assigned', 'sticky')
), seen AS (
    SELECT decided.customer, min(variant) AS variant, min(shown.time) AS time
    FROM decided JOIN {exposures} AS shown ON shown.decision_id = decided.decision_id AND shown.key = {key}
    WHERE version IS NOT DISTINCT FROM (SELECT arg_max(version, time) FROM decided) AND decided.customer <> ''
    GROUP BY ALL HAVING min(variant) = max(variant)
), spent AS (
    SELECT seen.customer, sum(revenue) AS revenue FROM seen JOIN {orders} AS placed
        ON placed.customer = seen.customer AND placed.time >= seen.time GROUP BY ALL
)
SELECT variant, count(*), avg(coalesce(revenue, 0) + coalesce(value, 0)),
    coalesce(var_samp(coalesce(revenue, 0) + coalesce(value, 0)), 0), avg(coalesce(value, 0))
FROM seen LEFT JOIN spent USING (customer) LEFT JOIN customer_values USING (customer) GROUP BY ALL ORDER BY variant
"""


class VariantValue(msgspec.Struct, frozen=True, kw_only=True):
    """A variant's customers, their mean value since and after the exposure, and its difference from control's."""

    variant: str
    control: str
    customers: int
    value: float
    expected: float
    """The part of it that is expected, not spent yet."""
    effect: Effect | NotEstimable


def compare_values(
    source: EventSource, key: str, control: str | None, values: Mapping[str, float], alpha: float = 0.05
) -> list[VariantValue]:
    """The customer lifetime value of each variant of a log's experiment.

    Args:
        source: of a log.
        key: of the experiment.
        control: its variant to compare with; `control`, or the first by name, if left out.
        values: what the model expects of each customer.
        alpha: one minus the intervals' coverage.

    Raises:
        BadInput: if the log has no such experiment.
    """
    source.engine.load("value_texts", customer=list(values), value=[repr(one) for one in values.values()])
    source.create("customer_values", "SELECT customer, CAST(value AS DOUBLE) AS value FROM value_texts")
    tables = {name: source.log_rows(name) for name in ("decisions", "exposures")}
    rows = {
        str(name): [float(str(cell)) for cell in cells]
        for name, *cells in source.rows(_VARIANTS, key=text_literal(key), **tables)
    }
    if not rows:
        raise BadInput(f"--experiment {key}: no customer in {source.place} was exposed to it; give a key from the log")
    first = next((name for name in (control, "control") if name in rows), min(rows))
    n, mean, spread, _ = rows[first]
    found = []
    for variant, (m, other, between, expected) in rows.items():
        effect: Effect | NotEstimable = NotEstimable("it is the control")
        if variant != first:
            se = (spread / n + between / m) ** 0.5
            effect = NotEstimable(f"{n:.0f} and {m:.0f} customers; an effect needs {LEAST_EACH} each")
            if min(n, m) >= LEAST_EACH and se > 0:
                reach, gain = critical_t(alpha, min(n, m) - 1) * se, other - mean
                effect = Effect(estimate=gain, low=gain - reach, high=gain + reach, se=se)
        found.append(
            VariantValue(
                variant=variant, control=str(first), customers=int(m), value=other, expected=expected, effect=effect
            )
        )
    return found
