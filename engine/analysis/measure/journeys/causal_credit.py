"""Causal credit of an offer on a channel: the effect of showing it, from logged propensities.

In the decisions in which an offer could be shown, doubly robust scores compare it with what else could be: with one
named offer, with silence where the placement holds out, or with an even choice among the other candidates. The reward
model is the mean of each offer by placement and channel on the other half of the customers. The standard error is over
customers, since their decisions depend on each other; the interval is corrected for skewness
(`offpolicy.estimators.Spread`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.journeys.choices import create_choices
from engine.analysis.offpolicy.estimators import Spread
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.vocabulary import SILENCE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.measure.sources import EventSource

LEAST_CUSTOMERS: Final = 30
# Choices from the same candidates share what the model expects of each, so that no decision's arms are sorted.
# With the chosen arm's error e, the contrast of an arm is `base + e * weight`.
_EFFECTS = """
WITH model AS (
    SELECT key, channel, offer, 1 - fold AS fold, avg(orders) AS orders, avg(revenue) AS revenue
    FROM choices GROUP BY ALL
), common AS (SELECT avg(orders) AS orders, avg(revenue) AS revenue FROM choices),
pools AS (
    SELECT row_number() OVER () AS pool, * FROM (SELECT DISTINCT key, channel, fold, candidates FROM choices)
), arms AS (
    SELECT pool, arm, pools.channel, len(candidates) AS size, list_contains(candidates, {reference}) AS has_reference,
        coalesce(model.orders, common.orders) AS orders, coalesce(model.revenue, common.revenue) AS revenue
    FROM (SELECT *, unnest(candidates) AS arm FROM pools) AS pools CROSS JOIN common
    LEFT JOIN model ON model.key = pools.key AND model.channel = pools.channel AND model.offer = pools.arm
        AND model.fold = pools.fold
), sums AS (
    SELECT pool, sum(orders) AS orders, sum(revenue) AS revenue, sum(CASE WHEN arm = {reference} THEN orders END)
        AS reference_orders, sum(CASE WHEN arm = {reference} THEN revenue END) AS reference_revenue
    FROM arms GROUP BY ALL
), bases AS (
    SELECT pool, arm, channel, size, has_reference,
        arms.orders - CASE WHEN has_reference THEN reference_orders ELSE (sums.orders - arms.orders) / (size - 1) END
            AS orders,
        arms.revenue
            - CASE WHEN has_reference THEN reference_revenue ELSE (sums.revenue - arms.revenue) / (size - 1) END
            AS revenue
    FROM arms JOIN sums USING (pool) WHERE arm <> {silence} AND NOT (has_reference AND arm = {reference})
), scored AS (
    SELECT arms.pool, hash(customer) AS person, offer AS chosen, (choices.orders - arms.orders) / propensity AS orders,
        (choices.revenue - arms.revenue) / propensity AS revenue
    FROM choices JOIN pools USING (key, channel, fold, candidates)
    JOIN arms ON arms.pool = pools.pool AND arms.arm = choices.offer
), contrasts AS (
    SELECT arm, channel, person, chosen = arm AS is_shown, bases.orders, bases.revenue,
        CASE WHEN chosen = arm THEN 1.0 WHEN NOT has_reference THEN -1.0 / (size - 1)
            WHEN chosen = {reference} THEN -1.0 ELSE 0.0 END AS weight,
        scored.orders AS order_error, scored.revenue AS revenue_error
    FROM scored JOIN bases USING (pool)
), people AS MATERIALIZED (
    SELECT arm, channel, sum(orders + weight * order_error) AS orders, sum(revenue + weight * revenue_error) AS revenue,
        count(*) AS decisions, count(*) FILTER (is_shown) AS shown
    FROM contrasts GROUP BY arm, channel, person
), means AS (
    SELECT arm, channel, sum(orders) / sum(decisions) AS orders, sum(revenue) / sum(decisions) AS revenue,
        sum(decisions) AS decisions, sum(shown) AS shown, count(*) AS customers
    FROM people GROUP BY ALL
)
SELECT arm, channel, any_value(means.decisions), any_value(means.shown), any_value(customers),
    any_value(means.orders), sum(pow(people.orders - means.orders * people.decisions, 2)),
    sum(pow(people.orders - means.orders * people.decisions, 3)),
    any_value(means.revenue), sum(pow(people.revenue - means.revenue * people.decisions, 2)),
    sum(pow(people.revenue - means.revenue * people.decisions, 3))
FROM people JOIN means USING (arm, channel) GROUP BY ALL ORDER BY 4 DESC, arm, channel
"""


class CausalCredit(msgspec.Struct, frozen=True, kw_only=True):
    """The effect of showing an offer on a channel on orders and revenue, per showing and in total.

    The effect is over all decisions in which it could be shown; `credit` is it times the showings.
    """

    offer: str
    channel: str
    shown: int
    decisions: int
    orders: Effect | NotEstimable
    revenue: Effect | NotEstimable
    credit: Effect | NotEstimable
    money: Effect | NotEstimable


def causal_credits(
    source: EventSource, *, window_days: float, against: str | None = None, alpha: float = 0.05
) -> list[CausalCredit]:
    """The causal credit of each offer on each channel of a log, most shown first.

    Args:
        source: of a log.
        window_days: what is ordered within so many days after a decision is its outcome.
        against: the offer to compare with where it was a candidate, silence if none is named; elsewhere the others.
        alpha: one minus the intervals' coverage.
    """
    if not create_choices(source, window_days):
        return []
    rows = source.rows(_EFFECTS, reference=text_literal(against or SILENCE), silence=text_literal(SILENCE))
    effects = []
    for arm, channel, *cells in rows:
        decisions, shown, customers, *moments = (float(str(cell)) for cell in cells)
        counts = decisions, shown, customers
        orders, revenue = _effect(counts, moments[:3], alpha), _effect(counts, moments[3:], alpha)
        effects.append(
            CausalCredit(
                offer=str(arm),
                channel=str(channel),
                shown=int(shown),
                decisions=int(decisions),
                orders=orders,
                revenue=revenue,
                credit=_times(orders, int(shown)),
                money=_times(revenue, int(shown)),
            )
        )
    return effects


def _effect(counts: tuple[float, float, float], moments: Sequence[float], alpha: float) -> Effect | NotEstimable:
    """The effect with its interval; `moments` are the mean, and the sums of squares and cubes over customers."""
    (decisions, shown, customers), (mean, squares, cubes) = counts, moments
    if min(customers, shown, decisions - shown) < LEAST_CUSTOMERS:
        return NotEstimable(
            f"shown {shown:.0f} times of {decisions:.0f} to {customers:.0f} customers; an effect "
            f"needs {LEAST_CUSTOMERS} of each"
        )
    sd = (squares / (customers - 1)) ** 0.5
    if sd <= 0:
        return NotEstimable("no customer ordered after any of these decisions")
    skewness = cubes / customers / sd**3
    spread = Spread(sd * customers**0.5 / decisions, skewness, int(customers), customers - 1)
    low, high = spread.interval(mean, alpha)
    return Effect(estimate=mean, low=low, high=high, se=spread.se, p=spread.p_value(mean))


def _times(effect: Effect | NotEstimable, shown: int) -> Effect | NotEstimable:
    if isinstance(effect, NotEstimable):
        return effect
    ends = (effect.estimate * shown, effect.low * shown, effect.high * shown, effect.se * shown)
    return Effect(estimate=ends[0], low=ends[1], high=ends[2], se=ends[3], p=effect.p)
