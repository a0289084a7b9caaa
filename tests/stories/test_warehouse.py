"""An experiment over HTTP whose margin is in a PostgreSQL: customers are known there by id, by e-mail and by card."""

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.postgres import start_postgres
from tests.verbs import run_verb

psycopg = pytest.importorskip("psycopg")
ROWS = {"table": "shop.orders", "at": "warehouse", "customer": "cid", "time": "shipped_at"}
OPEN = {"window": "7d", "ripe": False}
SHOP = {
    "metrics": [
        {"key": "click", "event": "click"},
        {"key": "margin", "kind": "mean", "source": ROWS | {"value": "margin"}, "money": 1.0} | OPEN,
        {"key": "buyers", "kind": "proportion", "source": ROWS} | OPEN,
    ],
    "sources": [{"key": "warehouse", "kind": "postgres", "address": "WAREHOUSE_URL"}],
    "offers": {"a": {}},
    "placements": {},
    "experiments": {
        "layout": {
            "variants": [{"key": "x", "weight": 0.5}, {"key": "y", "weight": 0.5}],
            "metrics": {"primary": "margin", "secondary": ["click"], "guardrails": ["buyers"]},
            "analysis": {"method": "fixed", "min_days": 1},
        }
    },
}


@pytest.fixture(scope="module")
def warehouse() -> Iterator[str]:
    with start_postgres() as address:
        yield address


def test_a_report_joins_the_warehouse_by_any_identifier(open_shop: Any, warehouse: str) -> None:
    shop = open_shop(SHOP, workers=1)
    orders, values = [], {"x": [], "y": []}
    for n in range(36):
        visitor, user = (
            {"anonymous_id": f"a{n}"},
            {"user_id": f"u{n}", "email": f"U{n}@x.de", "loyalty_card": f"card{n}"},
        )
        first = visitor if n % 2 else user  # every other one logs in later
        variant = shop.decide("web", experiments=["layout"], **first)["experiments"]["layout"]["variant"]
        if n % 2:
            shop.identify({}, **visitor, **user)
        name = (f"u{n}", f"u{n}@x.de", f"card{n}")[n % 3]
        orders += [(name, 2.5 * n)] * (n % 4)
        values[variant].append(2.5 * n * (n % 4))
    shop.collect()
    with psycopg.connect(warehouse, autocommit=True) as db:
        db.execute("CREATE SCHEMA shop")
        db.execute(
            "CREATE TABLE shop.orders (cid text, shipped_at timestamptz DEFAULT now() + '1 hour', margin numeric)"
        )
        with db.cursor() as cursor:
            cursor.executemany("INSERT INTO shop.orders (cid, margin) VALUES (%s, %s)", orders)
    words = ["analyze", "layout", "--json", "--data", str(shop.settings.data), "--as-of", "2099-01-01"]
    words += ["--experiments", str(shop.settings.experiments)]
    done = run_verb(*words, env={**os.environ, "WAREHOUSE_URL": warehouse})
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    rows = {row["metric"]: row["mean"] for row in report["metrics"]}
    for variant, own in values.items():
        assert rows["margin"][variant] == pytest.approx(sum(own) / len(own), rel=1e-9)
        assert rows["buyers"][variant] == pytest.approx(sum(one > 0 for one in own) / len(own))
    assert report["decision"]["money_per_month"] is not None
