"""Compares live traits with those of the log: random events through the store's reducers, then the backfill.

`python -m loadtests.skew [EVENTS]`. A real store and real Parquet; visitors log in, messages are sent twice, arrive
late and out of order, orders are stated twice and refunded. Exits with 1 if one series of one customer differs.
"""

import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from engine import embedded
from engine.backfill.logged_events import EventLog
from engine.backfill.run import backfill
from engine.catalog import Plan, load_plan
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.journal.log import parquet
from engine.journal.records import EventRecord
from engine.vocabulary import DAY

EVENTS = 1_000_000
PEOPLE = 20_000
BATCH = 100
DAYS = 60
"""Days over which events arrive; they happened up to 30 days earlier."""
TRAITS: dict[str, Any] = {
    "orders_30d": {"count": "purchase", "window": "30d"},
    "revenue_90d": {"sum": "purchase", "of": "revenue", "window": "90d"},
    "revenue": {"sum": "purchase", "of": "revenue"},
    "basket": {"mean": "purchase", "of": "revenue", "window": "60d"},
    "largest": {"max": "purchase", "of": "items"},
    "coffee_orders": {"count": "purchase", "filter": {"category": "coffee"}},
    "last_category": {"last": "purchase", "of": "category"},
    "views_7d": {"count": "view", "window": "7d"},
    "view_rate": {"rate": "view", "window": "30d"},
    "shelves": {"distinct": "view", "of": "shelf"},
    "shortest": {"min": "view", "of": "seconds", "window": "30d"},
    "dwell": {"mean": "view", "of": "seconds"},
    "first_shelf": {"first": "view", "of": "shelf", "window": "30d"},
    "idle_days": {"time_since": "view"},
}


def write_shop(folder: Path) -> Plan:
    (folder / "channels.yaml").write_text(yaml.safe_dump({"channels": [{"key": "web"}]}))
    (folder / "metrics.yaml").write_text(yaml.safe_dump({"metrics": [{"key": "click", "event": "click"}]}))
    (folder / "traits.yaml").write_text(yaml.safe_dump(TRAITS))
    return load_plan(folder)


def make_event(dice: random.Random, number: int, received: float) -> Event:
    person = int(PEOPLE * dice.random() ** 2)  # some have hundreds of events
    ids: dict[str, str] = {}
    if dice.random() < 0.5:
        ids["user_id"] = f"u-{person}"
    if not ids or dice.random() < 0.1:
        ids["anonymous_id"] = f"a-{person}-{dice.randrange(2)}"
    name = dice.choices(["view", "purchase", "order_completed", "refund", "signup"], [70, 14, 4, 8, 4])[0]
    properties: dict[str, object] = {}
    if name == "view":
        properties = {"shelf": f"s-{dice.randrange(150)}"} | (
            {"seconds": dice.uniform(0, 90)} if dice.random() < 0.7 else {}
        )
    elif name != "signup":
        properties = {"amount" if name == "refund" else "revenue": round(dice.uniform(0.01, 300), 2)}
        if dice.random() < 0.8:
            properties["order_id"] = f"o-{person}-{dice.randrange(40)}"
        properties |= (
            {"items": dice.randint(1, 9), "category": dice.choice(["coffee", "tea"])} if dice.random() < 0.8 else {}
        )
        if name == "refund" and dice.random() < 0.3:
            del properties["amount"]
    late = 0.0 if dice.random() < 0.7 else dice.uniform(0, 30 * DAY)
    return Event("track", f"m-{number}", event=name, properties=properties, timestamp=received - late, **ids)


class Journal:
    """Writes accepted events as files of the log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[parquet.Row] = []
        self.files = 0

    async def append(self, events: list[Accepted]) -> None:
        """Take accepted events in the form that `ProfileStore.ingest` gives its journal."""
        for one in events:
            fields = msgspec.structs.asdict(one) | {"properties": msgspec.json.encode(one.properties)}
            self.rows += parquet.rows_of_record(EventRecord(**fields))[2]
        if len(self.rows) > 100_000:
            self.flush()

    def flush(self) -> None:
        """Write waiting events as one file."""
        folder = self.folder / "events" / "day=2026-01-01"
        folder.mkdir(parents=True, exist_ok=True)
        batch = parquet.as_columns("events", self.rows)
        parquet.write_table(folder / f"{self.files:06}.parquet", "events", [batch])
        self.files, self.rows = self.files + 1, []


def batches(dice: random.Random, events: int) -> Iterator[tuple[list[Event], float]]:
    start = time.time() - (DAYS + 2) * DAY
    sent: list[Event] = []
    for number in range(0, events, BATCH):
        received = start + DAYS * DAY * number / events
        batch = [make_event(dice, number + place, received) for place in range(min(BATCH, events - number))]
        batch += dice.sample(sent, min(len(sent), BATCH // 20))  # sent again
        sent = batch[:50] + sent[:150]
        yield dice.sample(batch, len(batch)), received


async def run(events: int) -> int:
    dice = random.Random(1)
    with tempfile.TemporaryDirectory() as name, embedded.running(Path(name) / "store") as server:
        folder = Path(name)
        (folder / "shop").mkdir()
        plan = write_shop(folder / "shop")
        store = ProfileStore.open(server.url, plan.rules, timeout=60)
        journal = Journal(folder / "log")
        statuses: Counter[str] = Counter()
        began = time.process_time()
        for batch, received in batches(dice, events):
            statuses.update(one.status for one in await store.ingest(batch, received, journal.append))
        journal.flush()
        live = time.process_time() - began
        bounded = store.take_bounded()
        began = time.process_time()
        done = await backfill(store, EventLog(folder=folder / "log"))
        replayed = time.process_time() - began
        await store.close()
    print(f"{sum(statuses.values()):,} messages: {statuses['accepted']:,} counted, {statuses['duplicate']:,} repeats")
    print(
        f"{done.customers:,} customers, {len(done.traits)} traits: {done.unchanged:,} the same, {done.written:,} differ"
    )
    print(f"{sum(bounded.values()):,} series passed their bound of exact events")
    print(f"CPU of this process: {live:.0f} s live, {replayed:.0f} s for the backfill")
    return 0 if done.unchanged == done.customers else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)))
