"""Personas: groups of customers by orders, visits, channels and motives, named by their distinctive features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from engine.analysis.measure.opportunity.mixture import fit_mixture
from engine.analysis.measure.seen_channels import stated_motives, used_channels
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.measure.sources import EventSource
    from policies.batches import Floats

LEAST_CUSTOMERS: Final = 200
SAMPLE: Final = 5000
"""Customers from which the groups are estimated; all are then assigned."""
NOTABLE: Final = 0.5
"""Standard deviations from the mean of all customers from which a number sets a group apart."""
MOST_LEVELS: Final = 8
LEAST_SPREAD: Final = 1e-9
"""A deviation that is no rounding."""
_NUMBERS = ("orders", "worth", "days", "channels", "visits")
_WORDS = {
    "orders": ("orders often", "orders seldom"),
    "worth": ("large orders", "small orders"),
    "days": ("not seen for long", "seen lately"),
    "channels": ("on several channels", "on one channel"),
    "visits": ("visits often", "visits seldom"),
}
_CUSTOMERS = """
WITH seen AS (
    SELECT customer, count(channel) AS channels, sum(n) AS visits, arg_max(channel, (n, channel)) AS channel,
        max(last) AS last
    FROM {used} GROUP BY ALL
), by_motive AS (
    SELECT customer, motive, sum(n) AS n FROM {stated} GROUP BY ALL
), came AS (SELECT customer, arg_max(motive, (n, motive)) AS motive FROM by_motive GROUP BY ALL), spent AS (
    SELECT customer, count(*) FILTER (is_order) AS orders, sum(revenue) AS revenue FROM {orders} GROUP BY ALL
)
SELECT coalesce(orders, 0)::DOUBLE AS orders, coalesce(revenue, 0)::DOUBLE AS revenue, channels::DOUBLE AS channels,
    visits::DOUBLE AS visits, ({until} - last) / 86400e6 AS days, coalesce(channel, 'unknown') AS channel,
    coalesce(motive, '') AS motive
FROM seen LEFT JOIN spent USING (customer) LEFT JOIN came USING (customer) ORDER BY hash(customer)
"""


class Persona(msgspec.Struct, frozen=True, kw_only=True):
    """A group of customers, named by what distinguishes it from all others.

    `revenue` is per customer until now, with its interval; `driver` is what makes most of the difference between its
    revenue and that of all customers: how often they order, or the worth of an order.
    """

    name: str
    customers: int
    share: float
    orders: float
    worth: float | None
    days: float
    channels: float
    visits: float
    channel: str
    motive: str
    revenue: Effect
    driver: str


def find_personas(source: EventSource, alpha: float) -> list[Persona] | NotEstimable:
    """The personas of a source, by revenue per customer in descending order."""
    until = source.last
    if until is None:
        return NotEstimable("there is no event of a customer")
    tables = {"used": used_channels(source), "stated": stated_motives(source)}
    columns = source.engine.columns(source.fill(_CUSTOMERS, until=str(until), **tables))
    count = len(columns["orders"])
    if count < LEAST_CUSTOMERS:
        return NotEstimable(f"{count:,} customers were seen; groups need {LEAST_CUSTOMERS}")
    values = {name: np.asarray(columns[name], dtype=np.float64) for name in ("revenue", *_NUMBERS) if name != "worth"}
    values["worth"] = values["revenue"] / np.maximum(values["orders"], 1)
    raw = np.column_stack([np.log1p(np.maximum(values[name], 0)) for name in _NUMBERS])
    spread = raw.std(axis=0)
    numbers = (raw - raw.mean(axis=0)) / np.where(spread > LEAST_SPREAD, spread, 1.0)
    levels, codes = zip(*(_encode(columns[name]) for name in ("channel", "motive")), strict=True)
    sizes = [len(one) for one in levels]
    part = slice(0, SAMPLE)  # the rows are in the order of a hash
    mixture = fit_mixture(numbers[part], [one[part] for one in codes], sizes)
    group = mixture.posterior(numbers, codes).argmax(axis=1)
    found = []
    for at in range(mixture.weights.size):
        inside = group == at
        if not inside.any():
            continue
        means = {name: float(column[inside].mean()) for name, column in values.items()}
        own = [str(level[np.bincount(code[inside]).argmax()]) for level, code in zip(levels, codes, strict=True)]
        marks = _marks(numbers[inside].mean(axis=0), levels, codes, inside)
        found.append(_persona(marks, means, own, values, inside=inside, alpha=alpha))
    return _unique(sorted(found, key=lambda one: -one.revenue.estimate))


def _encode(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The levels of a text column and each row's level; all but the most frequent become `other`."""
    names, counts = np.unique(column.astype(str), return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][:MOST_LEVELS]
    kept = np.where(np.isin(column.astype(str), frequent), column.astype(str), "other")
    levels, codes = np.unique(kept, return_inverse=True)
    return levels, codes.astype(np.int64)


def _marks(means: Floats, levels: Sequence[np.ndarray], codes: Sequence[np.ndarray], inside: np.ndarray) -> list[str]:
    """A group's distinctive features, most distinct first: numbers half a deviation away, frequent levels."""
    found = [(abs(float(mean)), _WORDS[name][int(mean < 0)]) for name, mean in zip(_NUMBERS, means, strict=True)]
    for level, code, words in zip(levels, codes, ("mostly {}", "comes to {}"), strict=True):
        shares = np.bincount(code[inside], minlength=len(level)) / inside.sum()
        base = np.bincount(code, minlength=len(level)) / len(code)
        at = int(np.argmax(shares - base))
        spread = math.sqrt(base[at] * (1 - base[at]))
        if spread > 0 and level[at]:
            found.append((float(shares[at] - base[at]) / spread, words.format(level[at])))
    return [word for size, word in sorted(found, key=lambda pair: -pair[0]) if size >= NOTABLE][:2]


def _persona(
    marks: list[str],
    means: dict[str, float],
    own: list[str],
    values: dict[str, Floats],
    *,
    inside: np.ndarray,
    alpha: float,
) -> Persona:
    revenue = values["revenue"][inside]
    se = float(revenue.std(ddof=1) / math.sqrt(revenue.size)) if revenue.size > 1 else 0.0
    reach = normal_quantile(1 - alpha / 2) * se
    mean = float(revenue.mean())
    ordered = float(values["orders"][inside].sum())
    return Persona(
        name=", ".join(marks) or "like most customers",
        customers=int(inside.sum()),
        share=float(inside.mean()),
        orders=means["orders"],
        worth=float(revenue.sum()) / ordered if ordered else None,
        days=means["days"],
        channels=means["channels"],
        visits=means["visits"],
        channel=own[0],
        motive=own[1],
        revenue=Effect(estimate=mean, low=mean - reach, high=mean + reach, se=se),
        driver=_driver(means["orders"], float(revenue.sum()), ordered, values),
    )


def _driver(orders: float, spent: float, ordered: float, values: dict[str, Floats]) -> str:
    """The factor behind most of the difference in log revenue: orders per customer, or an order's worth."""
    usual, total = float(values["orders"].mean()), float(values["revenue"].sum())
    if not ordered or spent <= 0 or not usual or total <= 0:
        return "has not ordered"
    often = math.log(orders / usual)
    worth = math.log(spent / ordered) - math.log(total / float(values["orders"].sum()))
    if max(abs(often), abs(worth)) < 0.05:
        return "as all customers"
    if abs(often) >= abs(worth):
        return "more orders" if often > 0 else "fewer orders"
    return "larger orders" if worth > 0 else "smaller orders"


def _unique(personas: list[Persona]) -> list[Persona]:
    """The personas, with a number appended to a repeated name."""
    seen: dict[str, int] = {}
    found = []
    for one in personas:
        seen[one.name] = seen.get(one.name, 0) + 1
        again = seen[one.name]
        found.append(msgspec.structs.replace(one, name=f"{one.name} ({again})") if again > 1 else one)
    return found
