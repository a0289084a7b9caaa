"""Compares a report on 2 million orders in PostgreSQL with SQL written by hand: times and differences.

The log has 100,000 customers; the orders name some by user id and some by e-mail address. `make bench-warehouse`.
"""

import os
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import psycopg

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideRequest
from engine.journal.traces import Trace, encode_trace
from tests.postgres import start_postgres

CUSTOMERS, ORDERS, TOLERANCE = 100_000, int(os.environ.get("ORDERS", "2000000")), 1e-9
START = datetime(2026, 11, 1, tzinfo=UTC)
TABLE = "source: {table: orders, at: warehouse, customer: cid, time: shipped_at"
SHOP = {
    "sources": "sources: [{key: warehouse, kind: postgres, address: WAREHOUSE_URL}]",
    "channels": "channels: [{key: web}]",
    "metrics": f"""
metrics:
  - {{key: margin, kind: mean, {TABLE}, value: margin}}, window: 14d}}
  - {{key: bought, kind: proportion, {TABLE}}}, window: 14d}}
  - {{key: many, kind: threshold, at_least: 8, {TABLE}}}, window: 14d}}
""",
    "checkout": "key: checkout\nvariants: [{key: a}, {key: b}]\nmetrics: {primary: margin, secondary: [bought, many]}",
}
BY_HAND = """
WITH per_customer AS (
    SELECT seen.n, seen.variant, coalesce(sum(o.margin), 0)::float8 AS margin, count(o.cid) AS orders
    FROM seen LEFT JOIN orders AS o
        ON (o.cid = 'u' || seen.n OR o.cid = 'u' || seen.n || '@x.de')
        AND o.shipped_at >= seen.first AND o.shipped_at < seen.first + interval '14 days'
    GROUP BY 1, 2
)
SELECT variant, avg(margin), avg((orders > 0)::int)::float8, avg((orders >= 8)::int)::float8
FROM per_customer GROUP BY 1
"""


def write_log(folder: Path) -> None:
    """Decisions and exposures; every other request names an e-mail address too."""
    db = duckdb.connect()

    def trace(n: int) -> bytes:
        ids = CustomerIds(user_id=f"u{n}", email=f"u{n}@x.de" if n % 2 else None)
        request = DecideRequest(customer=ids, channel="web")
        return encode_trace(Trace(0.0, request, Profile(id=f"u{n}", unit=f"u{n}"), Availability()))

    db.create_function("trace_of", trace, ["BIGINT"], "BLOB")
    rows = f"""
        SELECT 'd' || n AS decision_id, TIMESTAMPTZ '{START.isoformat()}' + to_seconds(n % 864000) AS time,
            'u' || n AS customer, NULL::VARCHAR AS device, 'web' AS channel, 'experiment' AS kind, 'checkout' AS key,
            CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END AS variant, 'assigned' AS reason, 0.5 AS propensity,
            []::VARCHAR[] AS candidates, '{{}}' AS context, 'p' AS plan, NULL::VARCHAR AS policy, false AS crossover,
            '' AS version
        FROM range({CUSTOMERS}) AS numbers(n)
    """
    for name, columns in (
        ("decisions", "*, trace_of(substr(customer, 2)::BIGINT) AS trace"),
        ("exposures", "decision_id, time, key, customer"),
    ):
        day = folder / name / "day=2026-11-01"
        day.mkdir(parents=True)
        db.execute(f"COPY (SELECT {columns} FROM ({rows})) TO '{day}/rows.parquet'")


def write_orders(address: str) -> None:
    """Write the orders, and the exposures for the SQL by hand."""
    with psycopg.connect(address) as db:
        db.execute("CREATE TABLE orders (cid text, shipped_at timestamptz, margin numeric(12, 2))")
        db.execute(
            "INSERT INTO orders SELECT 'u' || n || CASE WHEN n % 2 = 1 AND i % 2 = 1 THEN '@x.de' ELSE '' END, "
            "timestamptz '2026-10-20Z' + random() * interval '50 days', (random() * 40 - 5)::numeric(12, 2) "
            f"FROM (SELECT i, (random() * 1.2 * {CUSTOMERS})::int AS n FROM generate_series(1, {ORDERS}) AS i) AS drawn"
        )
        db.execute(
            "CREATE TABLE seen AS SELECT n, CASE n % 2 WHEN 0 THEN 'a' ELSE 'b' END AS variant, "
            "timestamptz '2026-11-01Z' + (n % 864000) * interval '1 second' AS first "
            f"FROM generate_series(0, {CUSTOMERS - 1}) AS n"
        )
        db.execute("CREATE INDEX ON orders (cid)")
        db.commit()
        db.execute("ANALYZE orders")
        db.commit()


def main() -> int:
    """Print the figures of both; returns 1 if they differ by more than 1e-9."""
    with tempfile.TemporaryDirectory() as made, start_postgres() as address:
        folder = Path(made)
        (folder / "shop").mkdir()
        for name, text in SHOP.items():
            (folder / "shop" / f"{name}.yaml").write_text(text)
        write_log(folder / "log")
        write_orders(address)
        os.environ["WAREHOUSE_URL"] = address
        question, metrics = build_question(load_plan(folder / "shop"), "checkout")
        began = time.monotonic()
        report = analyze_experiment(question, metrics, folder / "log", as_of=START + timedelta(days=60))
        took = time.monotonic() - began
        with psycopg.connect(address) as db:
            began = time.monotonic()
            by_hand = {row[0]: row[1:] for row in db.execute(BY_HAND).fetchall()}
            alone = time.monotonic() - began
    print(f"{ORDERS:,} orders, {CUSTOMERS:,} customers: the report took {took:.1f} s, the SQL by hand {alone:.1f} s")
    worst = 0.0
    for at, row in enumerate(report.metrics):
        for variant, mean in row.mean.items():
            other = float(by_hand[variant][at])
            worst = max(worst, abs(mean - other) / max(abs(other), 1e-300))
            print(f"{row.metric:8} {variant}: {mean!r} in the report, {other!r} by hand")
    print(f"largest relative difference: {worst:.1e} (at most {TOLERANCE:g})")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
