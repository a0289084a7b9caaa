"""What must last by the plan, and how its shadow price moves: the same for the learner and for a dry run."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from engine.catalog.plan.features import Value
from engine.catalog.plan.plan import Offer, Plan, Selection
from engine.claims.claims import PoolShare
from engine.claims.requirements import pool_shares
from policies import Pacing, Policy


class PacedPool(NamedTuple):
    """A stock or budget that must last until `ends` (s since 1970), what one showing takes of it, and whose it is."""

    take: PoolShare
    begins: float
    ends: float
    offers: tuple[str, ...]


def paced_pools(plan: Plan) -> dict[str, PacedPool]:
    """What must last by the plan, by `stock:SKU` or `budget:OFFER`; a stock of several offers until the last ends."""
    found: dict[str, PacedPool] = {}
    for offer in plan.offers.values():
        for take in _paced(offer):
            name = f"{take.pool}:{take.name}"
            other = found.get(name, PacedPool(take, offer.start, offer.end, ()))
            span = min(other.begins, offer.start), max(other.ends, offer.end)
            found[name] = PacedPool(take, *span, (*other.offers, offer.key))
    return found


def update_pacing(before: Pacing | None, pool: PacedPool, left: float, now: float, seen: Sequence[float]) -> Pacing:
    """The price of a pool at `now` (s since 1970) with `left` showings left; `seen` are what some were worth since."""
    if before is None or now < before.now:
        return Pacing(left, pool.ends, now)
    used = before.left - left
    worth = sum(seen) / len(seen) if seen else before.worth
    return replace(replace(before, ends=pool.ends).after(now, used, max(used, 0.0) * worth), left=left)


def pools_by_offer(pools: Mapping[str, PacedPool]) -> dict[str, list[str]]:
    """The names of the pools that each offer takes of."""
    found: dict[str, list[str]] = {}
    for name, pool in pools.items():
        for offer in pool.offers:
            found.setdefault(offer, []).append(name)
    return found


def prices_by_offer(pools: Mapping[str, PacedPool], prices: Mapping[str, Pacing]) -> dict[str, float]:
    """What showing each offer costs: the prices, above 0, of all it takes of."""
    totals = {
        offer: sum(prices[name].price for name in names if name in prices)
        for offer, names in pools_by_offer(pools).items()
    }
    return {offer: total for offer, total in totals.items() if total > 0}


def expected_worth(selection: Selection, policy: Policy, offer: str, context: Mapping[str, Value]) -> float:
    """What showing an offer in a context is worth: its expected reward, by its value and lever where they are asked."""
    place = policy.arms.index(offer)
    x = selection.features.vector(context) if policy.dim else None
    worth = float(policy.expected(x, candidates=np.array([place]))[0])
    rule = selection.arbitration
    for factor in (rule.value, rule.lever) if rule is not None else ():
        worth *= 1.0 if factor is None else float(factor[selection.arms.index(offer)])
    return worth


def _paced(offer: Offer) -> list[PoolShare]:
    stock, budget = offer.limits.stock, offer.limits.budget
    asked = {"stock": stock is not None and stock.pace, "budget": budget is not None and budget.pace}
    return [take for take in pool_shares(offer) if asked[take.pool]]
