"""The usual figures of the three tiers from the log, which every shop has beside its own tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.model import CellUnit
from engine.analysis.measure.satisfaction import measure_satisfaction
from engine.analysis.measure.seen_channels import used_channels
from engine.analysis.measure.shares import ShareEstimate, wilson_share
from engine.analysis.measure.value.clv import measure_clv
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import critical_t
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.vocabulary import CLICK, QUESTIONS, SILENCE

if TYPE_CHECKING:
    from engine.analysis.measure.model import MoneyFigure
    from engine.analysis.measure.sources import EventSource
    from engine.catalog.spec.metrics import KpiTier

LEAST: Final = 30
_REACH = """
WITH seen AS (
    SELECT DISTINCT customer FROM {used}
), shown AS (
    SELECT DISTINCT seen.customer FROM {exposures} AS seen
    JOIN {decisions} AS decided ON decided.decision_id = seen.decision_id AND decided.key = seen.key
    WHERE decided.kind = 'offer' AND decided.variant <> {silence}
), ordered AS (SELECT DISTINCT customer FROM {orders} WHERE is_order)
SELECT count(*), count(shown.customer), count(ordered.customer)
FROM seen LEFT JOIN shown USING (customer) LEFT JOIN ordered USING (customer)
"""
# Showings of one customer depend on each other: the error of the ratio is over customers.
_SHOWINGS = """
WITH shown AS (
    SELECT decided.decision_id, any_value(decided.customer) AS customer
    FROM {exposures} AS seen JOIN {decisions} AS decided
        ON decided.decision_id = seen.decision_id AND decided.key = seen.key
    WHERE decided.kind = 'offer' AND decided.variant <> {silence} GROUP BY ALL
), answered AS (
    SELECT decision_id, max(CASE WHEN event = {click} THEN 1 ELSE 0 END) AS clicked,
        sum(cost) AS cost
    FROM {responses} WHERE decision_id IS NOT NULL GROUP BY ALL
), people AS (
    SELECT customer, count(*) AS views, sum(coalesce(clicked, 0)) AS clicks, sum(cost) AS cost
    FROM shown LEFT JOIN answered USING (decision_id) GROUP BY ALL
), ratios AS (
    SELECT sum(clicks) / sum(views) AS rate, sum(coalesce(cost, 0)) / sum(views) AS price, sum(views) AS views
    FROM people
)
SELECT count(*), any_value(ratios.views), any_value(rate), sqrt(sum(pow(clicks - rate * people.views, 2))),
    count(cost), any_value(price), sqrt(sum(pow(coalesce(cost, 0) - price * people.views, 2)))
FROM people CROSS JOIN ratios
"""
_WORTH = """
SELECT count(*), avg(revenue), coalesce(var_samp(revenue), 0) FROM (
    SELECT customer, sum(revenue) AS revenue FROM {orders} GROUP BY ALL HAVING bool_or(is_order)
)
"""
_UP = """
SELECT count(*), avg(gain), coalesce(var_samp(gain), 0) FROM (
    SELECT customer, avg(revenue) FILTER (place > 1) - any_value(revenue) FILTER (place = 1) AS gain FROM (
        SELECT customer, revenue, row_number() OVER (PARTITION BY customer ORDER BY time) AS place
        FROM {orders} WHERE is_order
    ) GROUP BY ALL HAVING count(*) > 1
)
"""
_CROSS = """
SELECT count(*), count(*) FILTER (categories > 1) FROM (
    SELECT customer, count(DISTINCT category) AS categories FROM {responses}
    WHERE event IN ({placed}) AND category IS NOT NULL GROUP BY ALL
)
"""


class KpiLevel(msgspec.Struct, frozen=True, kw_only=True):
    """A tier's current figure with its interval; `unit` is a share, money or a score."""

    tier: KpiTier
    name: str
    unit: CellUnit
    level: Effect | NotEstimable


def read_levels(source: EventSource, placed: str, alpha: float) -> list[KpiLevel]:
    """The figures of all tiers.

    Args:
        source: of a log.
        placed: the names of orders, as SQL.
        alpha: one minus the intervals' coverage.
    """
    tables = {name: source.log_rows(name) for name in ("exposures", "decisions")} | {"silence": text_literal(SILENCE)}
    (seen, shown, ordered), *_ = source.rows(_REACH, used=used_channels(source), **tables)
    counts = [int(str(one)) for one in (seen, shown, ordered)]
    (row, *_) = source.rows(_SHOWINGS, click=text_literal(CLICK), **tables)
    people, views, rate, rate_error, costs, price, price_error = (float(str(one or 0)) for one in row)
    click = _ratio(rate, rate_error / views if views else 0.0, int(people), alpha)
    cost: Effect | NotEstimable = NotEstimable("no event after a showing states a `cost`")
    if costs:
        cost = _ratio(price, price_error / views, int(people), alpha)
    cross = [int(str(one)) for one in source.rows(_CROSS, placed=placed)[0]]
    worth, up = (_mean([float(str(one or 0)) for one in source.rows(sql)[0]], alpha) for sql in (_WORTH, _UP))
    found: list[tuple[KpiTier, str, CellUnit, Effect | NotEstimable]] = [
        ("implementation", "reach", "share", _share(counts[1], counts[0], "customers were seen")),
        ("implementation", "click-through", "share", click),
        ("implementation", "cost per view", "money", cost),
        ("implementation", "funnel conversion", "share", _share(counts[2], counts[0], "customers were seen")),
        *(
            ("strategy", name.upper(), "score" if name == QUESTIONS[0] else "share", level)
            for name, level in _answers(source)
        ),
        ("business", "customer lifetime value", "money", _value(source)),
        ("business", "revenue per customer", "money", worth),
        ("business", "cross-sell", "share", _share(cross[1], cross[0], "customers ordered with a `category`")),
        ("business", "up-sell", "money", up),
    ]
    return [KpiLevel(tier=tier, name=name, unit=unit, level=level) for tier, name, unit, level in found]


def _answers(source: EventSource) -> list[tuple[str, Effect | NotEstimable]]:
    scores = {
        row.question: row
        for row in source.once("satisfaction", lambda: measure_satisfaction(source)).scores
        if row.by == "all"
    }
    found: list[tuple[str, Effect | NotEstimable]] = []
    for name in QUESTIONS:
        row = scores.get(name)
        if row is None:
            found.append((name, NotEstimable("nobody answered")))
        elif isinstance(row.score, NotEstimable):
            found.append((name, row.score))
        else:
            shown = row.score.estimate if row.raw is None else row.raw
            found.append((name, _of_share(shown, row.score)))
    return found


def _value(source: EventSource) -> Effect | NotEstimable:
    report, _ = source.once("clv", lambda: measure_clv(source, with_traits=False))
    money: MoneyFigure | NotEstimable = report.money
    if isinstance(money, NotEstimable):
        return money
    ends = [(money.estimate if one is None else one) / report.customers for one in (money.low, money.high)]
    se = (ends[1] - ends[0]) / 2 / normal_quantile(0.975)
    return Effect(estimate=money.estimate / report.customers, low=ends[0], high=ends[1], se=se)


def _share(successes: int, n: int, what: str) -> Effect | NotEstimable:
    if n < LEAST:
        return NotEstimable(f"{n} {what}; a share needs {LEAST}")
    share = wilson_share(successes, n)
    return NotEstimable("there is nobody") if share is None else _of_share(share.estimate, share)


def _of_share(shown: float, share: ShareEstimate) -> Effect:
    return Effect(estimate=shown, low=share.low, high=share.high, se=(share.high - share.low) / 2 / 1.959964)


def _ratio(value: float, error: float, people: int, alpha: float) -> Effect | NotEstimable:
    if people < LEAST:
        return NotEstimable(f"{people} customers were shown an offer; a rate needs {LEAST}")
    if not error > 0:
        return NotEstimable("all customers have the same rate, so its spread is unknown")
    reach = critical_t(alpha, people - 1) * error
    return Effect(estimate=value, low=max(0.0, value - reach), high=value + reach, se=error)


def _mean(numbers: list[float], alpha: float) -> Effect | NotEstimable:
    n, mean, variance = numbers
    if n < LEAST:
        return NotEstimable(f"{n:.0f} customers; a mean needs {LEAST}")
    se = (variance / n) ** 0.5
    if not se > 0:
        return NotEstimable("all customers have the same value, so its spread is unknown")
    reach = critical_t(alpha, n - 1) * se
    return Effect(estimate=mean, low=mean - reach, high=mean + reach, se=se)
