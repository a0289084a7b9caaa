"""Refreshes over random days: with late rows, refunds, merges and erasures they give what the whole log gives."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from engine.analysis.measure.all_reports import measure_all
from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import measure_attribution
from engine.analysis.measure.journeys.funnel import measure_funnel
from engine.analysis.measure.journeys.journeys import measure_journeys
from engine.analysis.measure.opportunity.report import measure_opportunity
from engine.analysis.measure.sources import EventSource
from engine.erasure.log import delete_rows
from engine.settings import PARTIALS_FOLDER
from loadtests.year_shop import DAY, START, TIME, simulate_shop, write_shop
from tests.analysis.measure.test_daily import same
from tests.catalog.folder import plan

DAYS, SEED, CUSTOMERS = 40, 1, 400
STEPS = ["page_view", "product_view", "purchase"]
KPIS = {
    "metrics": [
        {"key": "conversion", "kind": "proportion", "event": "purchase", "window": "2d"},
        {"key": "revenue", "kind": "revenue", "event": "purchase", "value": "revenue", "window": "2d", "money": 1.0},
    ],
    "kpis": [
        {"metric": "conversion", "tier": "implementation", "drives": ["revenue"]},
        {"metric": "revenue", "tier": "business"},
    ],
}


def answers(log: Path, *, every: bool, whole: bool) -> dict[str, Any]:
    """Reports by name, all or some; `whole` reads all of the log, as a report up to a moment does."""
    source = EventSource(log_dir=log, until=EventSource(log_dir=log).last if whole else None)
    if every:
        found: dict[str, Any] = msgspec.to_builtins(measure_all(source, plan(metrics=KPIS), steps=STEPS))
        return found
    some = [
        measure_funnel(source, STEPS, order="strict"),
        measure_journeys(source),
        measure_channels(source),
        measure_attribution(source),
        measure_opportunity(source),
    ]
    return {one.report: msgspec.to_builtins(one) for one in some}


class Receiver:
    """Adds events to a log, each to the folder of the day on which it is received."""

    def __init__(self, log: Path, chance: random.Random) -> None:
        self.log = log
        self._chance = chance
        self._count = 0
        self._rows: dict[int, list[dict[str, Any]]] = defaultdict(list)

    def add(self, customer: str, event: str, happened: int, received: int, **properties: object) -> None:
        """Adds an event; times are microseconds after the log's start."""
        self._count += 1
        amount = properties.get("amount")
        self._rows[received // DAY].append(
            {
                "message_id": f"n{self._count}",
                "time": START + happened,
                "received": START + received,
                "customer": customer,
                "event": event,
                "decision_id": None,
                "channel": self._chance.choice(["web", "app", "store"]),
                "revenue": float(str(amount)) if amount is not None else None,
                "properties": json.dumps(properties),
            }
        )

    def write(self) -> None:
        """Writes what was added, a file for each day."""
        types = {"time": TIME, "received": TIME, "revenue": pa.float64()}
        for number, rows in self._rows.items():
            folder = sorted((self.log / "events").iterdir())[number]
            names = rows[0].keys()
            columns = {name: pa.array([row[name] for row in rows], types.get(name, pa.string())) for name in names}
            pq.write_table(pa.table(columns), folder / f"{self._count}.parquet")
        self._rows.clear()


def live_a_day(receiver: Receiver, chance: random.Random, today: int) -> None:
    """Visits and orders, some late or in several messages, refunds, and visitors who turn out to be customers."""
    start = today * DAY
    for number in range(25):
        visitor, known = f"v{today}-{number}", f"c{chance.randrange(150)}"
        at = start + chance.randrange(DAY // 2)
        for step in chance.sample(STEPS, 2):
            receiver.add(visitor, step, at, at, order_id=f"{visitor}-{step}", amount=chance.randrange(5, 60))
            at += chance.randrange(DAY // 50)
        if number % 2:  # later rows of the visitor are nobody's
            receiver.add(known, "$merge", at, at, **{"from": visitor, "into": known})
            receiver.add(known, "purchase", at + 1, at + 1, order_id=f"{known}-{today}", amount=chance.randrange(5, 60))
            receiver.add(visitor, "page_view", at + DAY // 5, at + DAY // 5)
        if number % 3 == 0 and today:
            happened = at - chance.randrange(1, today * DAY)
            receiver.add(known, chance.choice(STEPS), max(happened, 0), at, order_id=f"late{today}-{number}", amount=9)
            receiver.add(f"c{chance.randrange(150)}", "refund", at, at, order_id=f"m{chance.randrange(300)}", amount=3)
        if number % 4 == 0:  # an order of two messages, days apart, the first of which may come twice
            buyer = f"c{7 * number}"
            for again in range(1 + number % 8 // 4):
                receiver.add(buyer, "order_placed", at, at + again, order_id=f"two{today}-{number}", amount=20)
            for before in (1, 2):
                order = f"two{today - before}-{number}"
                receiver.add(buyer, "order_completed", at + before, at + before, order_id=order, amount=25)
        if number % 5 == 0 and today:
            earlier = f"v{chance.randrange(today)}-{chance.randrange(25)}"
            receiver.add(known, "$merge", at, at, **{"from": earlier, "into": known})


def bases(log: Path) -> set[str]:
    """The files with the rows of all customers, of each table that is stored by customer."""
    return {path.name for path in (log / PARTIALS_FOLDER).rglob("*-base-*.parquet")}


def names_stored(log: Path) -> set[str]:
    """The customers that the stored statistics name."""
    files = [path for path in (log / PARTIALS_FOLDER).rglob("*.parquet") if "customer" in pq.read_schema(path).names]
    return {name for path in files for name in pq.read_table(path, columns=["customer"])["customer"].to_pylist()}


def test_refreshes_over_random_days_give_what_the_whole_log_gives(tmp_path: Path) -> None:
    log, chance = tmp_path / "log", random.Random(SEED)
    write_shop(log, simulate_shop(SEED, CUSTOMERS, DAYS, 4000), DAYS)
    days = {table: sorted((log / table).iterdir()) for table in ("events", "decisions", "exposures")}
    aside = tmp_path / "aside"
    for table, folders in days.items():
        (aside / table).mkdir(parents=True)
        for folder in folders[DAYS - 4 :]:
            folder.rename(aside / table / folder.name)
    receiver = Receiver(log, chance)
    first: set[str] = set()
    gone: set[str] = set()
    for today in range(DAYS - 4, DAYS):
        for table, folders in days.items():
            (aside / table / folders[today].name).rename(folders[today])
        live_a_day(receiver, chance, today)
        receiver.add("c1", "page_view", (today + 1) * DAY - 1, (today + 1) * DAY - 1)  # both readings have one end
        receiver.write()
        if today == DAYS - 2:
            gone = {f"c{chance.randrange(150)}" for _ in range(3)}
            assert gone & names_stored(log)
            assert delete_rows(log, sorted(gone)) > 0
        every = today in (DAYS - 4, DAYS - 1)  # so that the days between are late ones for what is stored of them
        fresh, whole = (answers(log, every=every, whole=one) for one in (False, True))
        assert fresh.keys() == whole.keys()
        first = first or bases(log)
        assert today != DAYS - 3 or first <= bases(log)  # only those who changed were computed again
        assert [name for name in fresh if not same(fresh[name], whole[name])] == []
        assert today != DAYS - 2 or not gone & names_stored(log)
