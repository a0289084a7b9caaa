"""Reports compared with equivalent SQL: `analyze KEY` on a log, `analyze --table` on one large table.

    python -m loadtests.reports_sql [--rounds N] [--decisions N] [--rows N]

The bare SQL is one statement of DuckDB in a fresh process, on the same files: it joins exposures with decisions, takes
each customer's first, adds up their events, and sums by variant. It finds the same units and means, which is checked.
Both sides run from compiled files; ratios are medians of alternating pairs. Exits with 1 if a budget is missed.
"""

import argparse
import statistics
import sys
from pathlib import Path

import duckdb

from loadtests.analysis import CACHE, Run, cold, medians, report_budget, users

BUDGET = 1.5
"""The budget as a multiple of the CPU of the bare SQL."""
START = 1_790_000_000
FILES = {
    "channels.yaml": "channels: [{key: web}]\n",
    "metrics.yaml": (
        "metrics:\n- {key: conversion, kind: proportion, event: purchase}\n"
        "- {key: revenue, kind: mean, event: purchase, value: revenue}\n"
    ),
    "layout.yaml": (
        "key: layout\nchannels: [web]\nstatus: running\nstart: 2026-09-21T00:00:00Z\n"
        "variants: [{key: control, weight: 0.5}, {key: new, weight: 0.5}]\n"
        "metrics: {primary: conversion, secondary: [revenue]}\nanalysis: {method: fixed}\n"
    ),
}
OURS = """
import sys
from pathlib import Path
from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
question, metrics = build_question(load_plan(Path(sys.argv[2])), "layout")
report = analyze_experiment(question, metrics, Path(sys.argv[1]))
print([report.units["control"], report.metrics[0].mean["control"]])
"""
TABLE = """
import sys
from engine.analysis import analyze_table
report = analyze_table(sys.argv[1], variant="variant", control="control", metrics=["mean:revenue|pre_revenue"])
print([report.metrics[0].raw_mean["control"]])
"""
BARE_TABLE = """
import sys, duckdb
rows = duckdb.sql(f'''
    SELECT variant, count(*), avg(revenue), var_samp(revenue), avg(pre_revenue), var_samp(pre_revenue),
           covar_samp(revenue, pre_revenue)
    FROM '{sys.argv[1]}' GROUP BY variant''').fetchall()
print([next(row[2] for row in rows if row[0] == "control")])
"""
BARE_LOG = """
import sys, duckdb
log = sys.argv[1]
rows = duckdb.sql(f'''
    WITH decided AS (
        SELECT decision_id, customer, variant FROM '{log}/decisions/*/*.parquet'
        WHERE kind = 'experiment' AND key = 'layout' AND variant IS NOT NULL AND reason IN ('assigned', 'sticky')
    ), exposed AS (
        SELECT customer, arg_min(variant, time) AS variant, min(time) AS time
        FROM (SELECT decision_id, time FROM '{log}/exposures/*/*.parquet' WHERE key = 'layout')
        JOIN decided USING (decision_id) GROUP BY customer
    ), bought AS (
        SELECT exposed.customer, count(*) AS orders, sum(revenue) AS revenue
        FROM '{log}/events/*/*.parquet' AS event JOIN exposed
        ON event.customer = exposed.customer AND event.time >= exposed.time AND event.event = 'purchase'
        GROUP BY exposed.customer
    )
    SELECT variant, count(*), avg((orders IS NOT NULL)::int), avg(coalesce(revenue, 0)), var_samp(coalesce(revenue, 0))
    FROM exposed LEFT JOIN bought USING (customer) GROUP BY variant''').fetchall()
print([next([row[1], row[2]] for row in rows if row[0] == "control")][0])
"""


def written_log(decisions: int) -> tuple[Path, Path]:
    """A log of `decisions` exposed decisions of a fifth as many customers, and the folder of its plan."""
    root = CACHE / f"log-{decisions}"
    if not (root / "complete").exists():
        (root / "plan").mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            (root / "plan" / name).write_text(text)
        base = (  # a fifth of the customers buys
            f"SELECT i, 'u' || (hash(i) % {decisions // 5}) AS customer, "  # numbers of ours only
            f"make_timestamptz({START}::bigint * 1000000 + i * 600000) AS time FROM range({decisions}) t(i)"
        )
        tables = {
            "decisions": (
                "SELECT printf('%032x', i) AS decision_id, time, customer, NULL::text AS device, 'web' AS channel, "
                "'experiment' AS kind, 'layout' AS key, CASE WHEN hash(customer) % 2 = 0 THEN 'control' ELSE 'new' END "
                "AS variant, 'assigned' AS reason, 0.5 AS propensity, []::text[] AS candidates, '{}' AS context, 'p' "
                "AS plan, NULL::text AS policy, false AS crossover, '1' AS version, 't'::blob AS trace"
            ),
            "exposures": "SELECT printf('%032x', i) AS decision_id, time, 'layout' AS key, customer",
            "events": (
                "SELECT 'm' || i AS message_id, time + INTERVAL 1 SECOND AS time, time AS received, customer, "
                "'purchase' AS event, NULL::text AS decision_id, 'web' AS channel, 5.0 + hash(i) % 20 AS revenue, "
                "'{\"order_id\": \"o' || i || '\"}' AS properties"
            ),
        }
        for name, select in tables.items():
            folder = root / "log" / name / "day=2026-09-21"
            folder.mkdir(parents=True, exist_ok=True)
            where = " WHERE hash(customer, 7) % 5 = 0" if name == "events" else ""
            text = f"COPY ({select} FROM ({base}){where}) TO '{folder}/1.parquet'"  # text of this module
            duckdb.sql(f"SET TimeZone = 'UTC'; {text} (COMPRESSION zstd)")
        (root / "complete").touch()
    return root / "log", root / "plan"


def compare(label: str, ours: tuple[object, ...], bare: tuple[object, ...], rounds: int) -> bool:
    """Run both in alternating pairs; returns whether ours meets its CPU budget."""
    sides = [(sys.executable, *ours), (sys.executable, *bare)]
    (_, mine), (_, other) = (cold(str(python), str(code), *rest) for python, code, *rest in sides)
    if any(abs(a - b) > 1e-9 * abs(b) for a, b in zip(mine, other, strict=True)):
        sys.exit(f"{label}: {mine} and {other} differ, so the times are not comparable")
    pairs: list[list[Run]] = [
        [cold(str(python), str(code), *rest)[0] for python, code, *rest in sides] for _ in range(rounds)
    ]
    wall, cpu = (statistics.median(a[i] / b[i] for a, b in pairs) for i in range(2))
    print(f"{label}: counterpoint {medians([pair[0] for pair in pairs])}")
    print(f"{'':>{len(label)}}  bare SQL     {medians([pair[1] for pair in pairs])}")
    print(f"{'':>{len(label)}}  ratio        {wall:.2f} wall   {cpu:.2f} CPU")
    return report_budget(cpu <= BUDGET, f"{BUDGET} of the CPU of the bare SQL")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--decisions", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    asked = parser.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    log, plan = written_log(asked.decisions)
    table = users(asked.rows)
    met = [
        compare(f"{asked.decisions:,} decisions", (OURS, log, plan), (BARE_LOG, log), asked.rounds),
        compare(f"{asked.rows:,} rows", (TABLE, table), (BARE_TABLE, table), asked.rounds),
    ]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
