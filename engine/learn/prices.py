"""Shadow prices of stocks and budgets that must last: read what is left, move the price, tell the decision servers."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from engine.catalog.features import Value
from engine.catalog.plan import Offer, Plan, Selection
from engine.journal import snapshots, stream
from engine.journal.records import AnyRecord, DecisionRecord
from engine.learn.teach import Learnt
from engine.profiles.claims import UNIT, Take, pool_key
from engine.profiles.wanted import takes_of
from policies import Pacing

BETWEEN = 0.25  # seconds between two moves of a price, which decision servers look for as often
_pacing = msgspec.json.Decoder(Pacing)


class Pool(NamedTuple):
    """A stock or budget that must last until `ends` (s since 1970), what one showing takes of it, and whose it is."""

    take: Take
    begins: float
    ends: float
    offers: tuple[str, ...]


def pools_of(plan: Plan) -> dict[str, Pool]:
    """What must last by the plan, by `stock:SKU` or `budget:OFFER`; a stock of several offers until the last ends."""
    found: dict[str, Pool] = {}
    for offer in plan.offers.values():
        for take in _paced(offer):
            name = f"{take.pool}:{take.name}"
            other = found.get(name, Pool(take, offer.start, offer.end, ()))
            span = min(other.begins, offer.start), max(other.ends, offer.end)
            found[name] = Pool(take, *span, (*other.offers, offer.key))
    return found


class Prices:
    """The prices in the learner's file, one for each pool of the plan."""

    def __init__(self, db: sqlite3.Connection, plan: Plan) -> None:
        self._db = db
        self._pools = pools_of(plan)
        self._selections = plan.policies
        self._of_offer: dict[str, list[str]] = {}
        for name, pool in self._pools.items():
            for offer in pool.offers:
                self._of_offer.setdefault(offer, []).append(name)
        self._worth: dict[str, list[float]] = {}
        self._moved = float("-inf")

    def saw(self, records: Iterable[AnyRecord], learnt: Mapping[str, Learnt]) -> None:
        """Take note of what showing scarce offers was worth: the scale on which their prices move."""
        if not self._of_offer:
            return
        for record in records:
            for row in record.rows if isinstance(record, DecisionRecord) else ():
                key = (row.policy or "").rpartition("@")[0]
                selection = self._selections.get(key)
                if row.variant in self._of_offer and selection and row.variant in selection.arms and key in learnt:
                    worth = worth_of(selection, learnt[key], row.variant, row.context)
                    for name in self._of_offer[row.variant]:
                        self._worth.setdefault(name, []).append(worth)

    def move(self, client: stream.Client, now: float) -> bool:
        """Move the prices and tell them, `BETWEEN` after the last time or later; whether it was done.

        Raises:
            redis.RedisError: if the store does not answer; the prices move the next time.
        """
        if now < self._moved + BETWEEN or not (self._pools or self._stored()):
            return False
        kept = {}
        for name, pool in self._pools.items():
            left = left_of(client, pool.take, now)
            if left is not None and pool.begins <= now < pool.ends:
                kept[name] = self._after(name, pool, max(left, 0.0) / pool.take.amount, now)
        by_offer = {
            offer: total
            for offer, names in self._of_offer.items()
            if (total := sum(kept[name].price for name in names if name in kept)) > 0
        }
        snapshots.put_prices(client, by_offer)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM prices")
        self._db.executemany("INSERT INTO prices VALUES (?, ?)", [(n, msgspec.json.encode(p)) for n, p in kept.items()])
        self._db.execute("COMMIT")
        self._worth.clear()
        self._moved = now
        return True

    def _after(self, name: str, pool: Pool, left: float, now: float) -> Pacing:
        before = self._stored().get(name)
        if before is None or now < before.now:
            return Pacing(left, pool.ends, now)
        used = before.left - left
        seen = self._worth.get(name, [])
        worth = sum(seen) / len(seen) if seen else before.worth
        return replace(replace(before, ends=pool.ends).after(now, used, max(used, 0.0) * worth), left=left)

    def _stored(self) -> dict[str, Pacing]:
        return {name: _pacing.decode(blob) for name, blob in self._db.execute("SELECT pool, pacing FROM prices")}


def worth_of(selection: Selection, learnt: Learnt, offer: str, context: Mapping[str, Value]) -> float:
    """What showing an offer in a context is worth: its expected reward, by its value and lever where they are asked."""
    policy, place = learnt.policy, learnt.policy.arms.index(offer)
    x = selection.features.vector(context) if policy.dim else None
    worth = float(policy.expected(x, candidates=np.array([place]))[0])
    rule = selection.arbitration
    for factor in (rule.value, rule.lever) if rule is not None else ():
        worth *= 1.0 if factor is None else float(factor[selection.arms.index(offer)])
    return worth


def left_of(client: stream.Client, take: Take, now: float) -> float | None:
    """How much of a stock or budget is neither gone nor held at `now`; None while nobody said how much there is."""
    key = pool_key(take)
    level, spent, held = (float(value or 0) / UNIT for value in client.hmget(key, "level", "spent", "held"))
    if take.limit is None and not client.hexists(key, "level"):
        return None
    ended = client.zrangebyscore(f"{key}:holds", "-inf", repr(now))
    lapsed = client.hmget(key, *(f"h:{_text(one)}" for one in ended)) if ended else []
    back = sum(float(amount) for amount in lapsed if amount is not None) / UNIT
    return (level if take.limit is None else take.limit) - spent - held + back


def _text(member: object) -> str:
    return member.decode() if isinstance(member, bytes) else str(member)


def _paced(offer: Offer) -> list[Take]:
    stock, budget = offer.limits.stock, offer.limits.budget
    asked = {"stock": stock is not None and stock.pace, "budget": budget is not None and budget.pace}
    return [take for take in takes_of(offer) if asked[take.pool]]
