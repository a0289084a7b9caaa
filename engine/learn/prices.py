"""Shadow prices of stocks and budgets that must last: read what is left, move the price, tell the decision servers."""

import sqlite3
from collections.abc import Iterable, Mapping

import msgspec

from engine.catalog.plan.plan import Plan
from engine.claims.claims import UNIT, PoolShare, pool_key
from engine.claims.pacing import expected_worth, paced_pools, pools_by_offer, prices_by_offer, update_pacing
from engine.journal import stream
from engine.journal.records import AnyRecord, DecisionRecord
from engine.learn.teach import Learnt
from engine.snapshots.publish import publish_prices
from policies import Pacing

BETWEEN = 0.25  # seconds between two moves of a price, which decision servers look for as often
_pacing = msgspec.json.Decoder(Pacing)


class ShadowPrices:
    """The prices in the learner's file, one for each pool of the plan."""

    def __init__(self, db: sqlite3.Connection, plan: Plan) -> None:
        self._db = db
        self._pools = paced_pools(plan)
        self._selections = plan.policies
        self._of_offer = pools_by_offer(self._pools)
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
                    worth = expected_worth(selection, learnt[key].policy, row.variant, row.context)
                    for name in self._of_offer[row.variant]:
                        self._worth.setdefault(name, []).append(worth)

    def move(self, client: stream.StreamClient, now: float) -> bool:
        """Move the prices and tell them, `BETWEEN` after the last time or later; whether it was done.

        Raises:
            redis.RedisError: if the store does not answer; the prices move the next time.
        """
        if now < self._moved + BETWEEN or not (self._pools or self._stored()):
            return False
        kept, before = {}, self._stored()
        for name, pool in self._pools.items():
            left = left_of(client, pool.take, now)
            if left is not None and pool.begins <= now < pool.ends:
                units = max(left, 0.0) / pool.take.amount
                kept[name] = update_pacing(before.get(name), pool, units, now, self._worth.get(name, []))
        publish_prices(client, prices_by_offer(self._pools, kept))
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("DELETE FROM prices")
        self._db.executemany("INSERT INTO prices VALUES (?, ?)", [(n, msgspec.json.encode(p)) for n, p in kept.items()])
        self._db.execute("COMMIT")
        self._worth.clear()
        self._moved = now
        return True

    def _stored(self) -> dict[str, Pacing]:
        return {name: _pacing.decode(blob) for name, blob in self._db.execute("SELECT pool, pacing FROM prices")}


def left_of(client: stream.StreamClient, take: PoolShare, now: float) -> float | None:
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
