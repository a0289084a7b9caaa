"""Paced pools and their shadow prices, by one computation for the learner and for dry runs.

A pool is paced where the plan asks that a stock or budget lasts until its offers end. Its price starts at 0 with the
first reading, is updated with every later one, and is dropped when the pool ends. Claimed and confirmed amounts count
alike as gone. Invariants: prices are ≥ 0, and an offer costs the sum of its pools' prices. The learner stores the
prices; this module reads and writes no Redis.
"""

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
    """A stock or budget that must last from `begins` to `ends` (s since 1970).

    `share` is the amount that one showing claims; `offers` are the offers that claim it.
    """

    share: PoolShare
    begins: float
    ends: float
    offers: tuple[str, ...]


def paced_pools(plan: Plan) -> dict[str, PacedPool]:
    """A plan's paced pools, by `stock:SKU` or `budget:OFFER`; a shared one lasts until its last offer ends."""
    found: dict[str, PacedPool] = {}
    for offer in plan.offers.values():
        for share in _paced_shares(offer):
            name = f"{share.pool}:{share.name}"
            other = found.get(name, PacedPool(share, offer.start, offer.end, ()))
            span = min(other.begins, offer.start), max(other.ends, offer.end)
            found[name] = PacedPool(share, *span, (*other.offers, offer.key))
    return found


def update_pacing(before: Pacing | None, pool: PacedPool, left: float, now: float, worths: Sequence[float]) -> Pacing:
    """The pacing of a pool at `now` (s since 1970) with `left` showings left.

    `worths` are the expected worths of showings since `before`; without any, the earlier worth is used.
    """
    if before is None or now < before.now:
        return Pacing(left, pool.ends, now)
    used = before.left - left
    worth = sum(worths) / len(worths) if worths else before.worth
    return replace(replace(before, ends=pool.ends).after(now, used, max(used, 0.0) * worth), left=left)


def pools_by_offer(pools: Mapping[str, PacedPool]) -> dict[str, list[str]]:
    """The names of the pools that each offer claims."""
    found: dict[str, list[str]] = {}
    for name, pool in pools.items():
        for offer in pool.offers:
            found.setdefault(offer, []).append(name)
    return found


def prices_by_offer(pools: Mapping[str, PacedPool], prices: Mapping[str, Pacing]) -> dict[str, float]:
    """The price of showing each offer, the sum over its pools; offers of price 0 are left out."""
    totals = {
        offer: sum(prices[name].price for name in names if name in prices)
        for offer, names in pools_by_offer(pools).items()
    }
    return {offer: total for offer, total in totals.items() if total > 0}


def expected_worth(selection: Selection, policy: Policy, offer: str, context: Mapping[str, Value]) -> float:
    """The expected reward of showing an offer in a context, times its value and lever if arbitration uses them."""
    place = policy.arms.index(offer)
    x = selection.features.vector(context) if policy.dim else None
    worth = float(policy.expected(x, candidates=np.array([place]))[0])
    rule = selection.arbitration
    for factor in (rule.value, rule.lever) if rule is not None else ():
        worth *= 1.0 if factor is None else float(factor[selection.arms.index(offer)])
    return worth


def _paced_shares(offer: Offer) -> list[PoolShare]:
    stock, budget = offer.limits.stock, offer.limits.budget
    is_paced = {"stock": stock is not None and stock.pace, "budget": budget is not None and budget.pace is True}
    return [share for share in pool_shares(offer, at=offer.start) if is_paced[share.pool]]
