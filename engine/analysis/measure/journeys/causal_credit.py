"""Causal credit of an offer on a channel: what showing it changed, from the logged propensities.

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
    from engine.analysis.measure.sources import EventSource

LEAST_CUSTOMERS: Final = 30
_EFFECTS = """
WITH model AS (
    SELECT key, channel, offer, 1 - fold AS fold, avg({outcome}) AS expected FROM choices GROUP BY ALL
), common AS (SELECT avg({outcome}) AS expected FROM choices),
arms AS (
    SELECT decision_id, key, position, channel, customer, propensity, choices.offer AS chosen, {outcome} AS outcome,
        fold, len(candidates) AS size, unnest(candidates) AS arm, {has_reference} AS has_reference
    FROM choices
), scored AS (
    SELECT arms.*, coalesce(model.expected, common.expected) AS expected,
        CASE WHEN arm = chosen THEN (outcome - coalesce(model.expected, common.expected)) / propensity ELSE 0 END
            AS error
    FROM arms CROSS JOIN common
    LEFT JOIN model ON model.key = arms.key AND model.channel = arms.channel AND model.offer = arms.arm
        AND model.fold = arms.fold
), valued AS (
    SELECT *, expected + error AS value,
        sum(expected + error) OVER decision AS every,
        sum(CASE WHEN arm = {reference} THEN expected + error END) OVER decision AS of_reference
    FROM scored WINDOW decision AS (PARTITION BY decision_id, key, position)
), contrasts AS (
    SELECT arm, channel, customer, chosen = arm AS is_shown,
        value - CASE WHEN has_reference THEN of_reference ELSE (every - value) / (size - 1) END AS contrast
    FROM valued WHERE arm <> {silence} AND NOT (has_reference AND arm = {reference})
), people AS (
    SELECT arm, channel, customer, sum(contrast) AS contrast, count(*) AS decisions,
        count(*) FILTER (is_shown) AS shown
    FROM contrasts GROUP BY ALL
), means AS (
    SELECT arm, channel, sum(contrast) / sum(decisions) AS mean, sum(decisions) AS decisions, sum(shown) AS shown,
        count(*) AS customers
    FROM people GROUP BY ALL
)
SELECT arm, channel, any_value(mean), any_value(means.decisions), any_value(means.shown), any_value(customers),
    sum(pow(contrast - mean * people.decisions, 2)), sum(pow(contrast - mean * people.decisions, 3))
FROM people JOIN means USING (arm, channel) GROUP BY ALL ORDER BY 5 DESC, arm, channel
"""


class CausalCredit(msgspec.Struct, frozen=True, kw_only=True):
    """What showing an offer on a channel changed, per showing and for all of them, in orders and in revenue.

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
    """The causal credit of each offer on each channel of a log, the most shown first.

    Args:
        source: of a log.
        window_days: what is ordered within so many days after a decision is its outcome.
        against: the offer to compare with where it was a candidate, silence if none is named; elsewhere the others.
        alpha: one minus the intervals' coverage.
    """
    if not create_choices(source, window_days):
        return []
    reference = text_literal(against or SILENCE)
    named = {
        "reference": reference,
        "has_reference": f"list_contains(candidates, {reference})",
        "silence": text_literal(SILENCE),
    }
    found: list[list[tuple[object, ...]]] = [
        list(source.rows(_EFFECTS, outcome=outcome, **named)) for outcome in ("orders", "revenue")
    ]
    money = {(str(row[0]), str(row[1])): row for row in found[1]}
    effects = []
    for row in found[0]:
        offer, channel = str(row[0]), str(row[1])
        shown, decisions = int(str(row[4])), int(str(row[3]))
        orders, revenue = _effect(row, alpha), _effect(money[offer, channel], alpha)
        effects.append(
            CausalCredit(
                offer=offer,
                channel=channel,
                shown=shown,
                decisions=decisions,
                orders=orders,
                revenue=revenue,
                credit=_times(orders, shown),
                money=_times(revenue, shown),
            )
        )
    return effects


def _effect(row: tuple[object, ...], alpha: float) -> Effect | NotEstimable:
    mean, decisions, shown, customers, squares, cubes = (float(str(cell)) for cell in row[2:])
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
