"""Estimates what each offer would add if shown wherever possible, by segment, placement and channel.

For each decision a doubly robust score of the offer, less what was ordered after the offer that was shown, is what
showing it instead of today's choice adds. Scores are averaged over the decisions of a cell with a standard error over
customers. Many cells are noisy, so each is moved towards zero, the more the noisier it is: the best of many is then not
too large. Zero is the centre since today's choice is a mean of the offers' values. How far true uplifts spread around
it is the spread at which the weighted squares equal their number (empirical Bayes; Paule and Mandel 1982).

Silence, in decisions that a hold-out or a campaign leaves without an offer, is one of today's choices and no offer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from scipy.optimize import brentq

from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.bayes import Prior, update_normal
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.vocabulary import SILENCE

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

LEAST_OF_EACH: Final = 30
LEAST_DAYS: Final = 7.0
"""Days of decisions from which a month is extrapolated."""
LEAST_SPREAD: Final = 3
MONTH: Final = 30.4
_SCORES = """
WITH model AS (
    SELECT key, channel, segment, offer, 1 - fold AS fold, avg(revenue) AS expected FROM parts GROUP BY ALL
), common AS (SELECT avg(revenue) AS expected FROM parts),
pools AS (
    SELECT row_number() OVER () AS pool, * FROM (SELECT DISTINCT key, channel, segment, fold, candidates FROM parts)
), arms AS (
    SELECT pool, arm, pools.segment, pools.key, pools.channel, coalesce(model.expected, common.expected) AS expected
    FROM (SELECT *, unnest(candidates) AS arm FROM pools) AS pools CROSS JOIN common
    LEFT JOIN model ON model.key = pools.key AND model.channel = pools.channel AND model.segment = pools.segment
        AND model.offer = pools.arm AND model.fold = pools.fold
), chosen AS (
    SELECT pool, hash(customer) AS person, offer, revenue, propensity
    FROM parts JOIN pools USING (key, channel, segment, fold, candidates)
), people AS MATERIALIZED (
    SELECT segment, key, channel, arm,
        sum(expected - revenue + CASE WHEN arm = offer THEN (revenue - expected) / propensity ELSE 0 END) AS contrast,
        count(*) AS decisions, count(*) FILTER (arm = offer) AS shown
    FROM chosen JOIN arms USING (pool) WHERE arm <> {silence} GROUP BY segment, key, channel, arm, person
), means AS (
    SELECT segment, key, channel, arm, sum(contrast) / sum(decisions) AS mean, sum(decisions) AS decisions,
        sum(shown) AS shown, count(*) AS customers
    FROM people GROUP BY ALL
)
SELECT segment, key, channel, arm, any_value(mean), any_value(means.decisions), any_value(means.shown),
    any_value(customers), sum(pow(contrast - mean * people.decisions, 2))
FROM people JOIN means USING (segment, key, channel, arm) GROUP BY ALL ORDER BY 1, 2, 3, 4
"""


class OpportunityCell(msgspec.Struct, frozen=True, kw_only=True):
    """An offer in a segment, on a channel's placement, against what is shown there today.

    `eligible` are the decisions per month in which it could be shown, `measured` what showing it adds to the revenue
    after one decision, `uplift` the same after shrinking. `value` is `eligible` times `uplift` times the margin. `best`
    marks the offer with the largest uplift of its segment, placement and channel.
    """

    segment: str
    placement: str
    channel: str
    offer: str
    decisions: int
    customers: int
    eligible: float | None
    measured: Effect | NotEstimable
    uplift: Effect | NotEstimable
    value: Effect | NotEstimable
    best: bool = False

    @property
    def place(self) -> tuple[str, str, str]:
        """The segment, placement and channel."""
        return self.segment, self.placement, self.channel


def measure_cells(source: EventSource, *, days: float, margin: float, alpha: float) -> list[OpportunityCell]:
    """The cells of the table `parts`, by value in descending order.

    Args:
        source: of a log; `parts` are its choices with a `segment`.
        days: the span of the choices.
        margin: the share of revenue that is margin.
        alpha: one minus the intervals' coverage.
    """
    cells = []
    for segment, key, channel, offer, *numbers in source.rows(_SCORES, silence=text_literal(SILENCE)):
        mean, decisions, shown, customers, squares = (float(str(cell)) for cell in numbers)
        measured = _measure(mean, (decisions, shown, customers), squares, alpha)
        cells.append(
            OpportunityCell(
                segment=str(segment),
                placement=str(key),
                channel=str(channel),
                offer=str(offer),
                decisions=int(decisions),
                customers=int(customers),
                eligible=decisions / days * MONTH if days >= LEAST_DAYS else None,
                measured=measured,
                uplift=measured,
                value=measured,
            )
        )
    known = [one.measured for one in cells if isinstance(one.measured, Effect)]
    prior = _spread_about_zero(known)
    cells = [_shrink(one, prior, margin, alpha) for one in cells]
    best = {one.place: one.offer for one in sorted(cells, key=_worth)}
    cells = [msgspec.structs.replace(one, best=best[one.place] == one.offer and _worth(one) > 0) for one in cells]
    return sorted(cells, key=lambda one: (-_worth(one), one.place, one.offer))


def sum_best(cells: list[OpportunityCell], alpha: float) -> Effect | NotEstimable:
    """The total monthly margin that the best offer of each segment, placement and channel would add."""
    known = [one.value for one in cells if isinstance(one.value, Effect)]
    if not known:
        reason = next((one.value for one in cells if isinstance(one.uplift, Effect)), None)
        few = NotEstimable("no offer has enough decisions, showings and customers yet")
        return reason if isinstance(reason, NotEstimable) else few
    best = [one.value for one in cells if one.best and isinstance(one.value, Effect)]
    total, se = sum(one.estimate for one in best), sum(one.se**2 for one in best) ** 0.5
    reach = normal_quantile(1 - alpha / 2) * se
    return Effect(estimate=total, low=total - reach, high=total + reach, se=se)


def _measure(mean: float, counts: tuple[float, float, float], squares: float, alpha: float) -> Effect | NotEstimable:
    decisions, shown, customers = counts
    if min(customers, shown, decisions - shown) < LEAST_OF_EACH:
        return NotEstimable(
            f"shown {shown:.0f} times in {decisions:.0f} decisions for {customers:.0f} customers; an uplift needs "
            f"{LEAST_OF_EACH} showings, other choices and customers"
        )
    se = (squares * customers / (customers - 1)) ** 0.5 / decisions
    if not se > 0:
        return NotEstimable("no customer ordered after any of these decisions")
    reach = normal_quantile(1 - alpha / 2) * se
    return Effect(estimate=mean, low=mean - reach, high=mean + reach, se=se)


def _spread_about_zero(effects: list[Effect]) -> Prior:
    """The zero-mean normal prior of true effects; flat for fewer than three, which show no spread."""
    if len(effects) < LEAST_SPREAD:
        return Prior()

    def excess(between: float) -> float:
        return sum(one.estimate**2 / (one.se**2 + between) for one in effects) - len(effects)

    high = sum(one.estimate**2 for one in effects)
    between = float(brentq(excess, 0.0, high)) if excess(0.0) > 0 else 0.0
    error = 1 / sum(one.se**-2 for one in effects)  # what the effects cannot show of a spread
    return Prior(0.0, (between + error) ** 0.5)


def _shrink(cell: OpportunityCell, prior: Prior, margin: float, alpha: float) -> OpportunityCell:
    if isinstance(cell.measured, NotEstimable):
        return cell
    mean, sd = update_normal(cell.measured.estimate, cell.measured.se, prior)
    reach = normal_quantile(1 - alpha / 2) * sd
    uplift = Effect(estimate=mean, low=mean - reach, high=mean + reach, se=sd)
    value: Effect | NotEstimable = NotEstimable(
        f"the decisions span less than {LEAST_DAYS:.0f} days; a month needs them"
    )
    if cell.eligible is not None:
        times = cell.eligible * margin
        value = Effect(estimate=mean * times, low=uplift.low * times, high=uplift.high * times, se=sd * times)
    return msgspec.structs.replace(cell, uplift=uplift, value=value)


def _worth(cell: OpportunityCell) -> float:
    return cell.value.estimate if isinstance(cell.value, Effect) else float("-inf")
