"""A table of orders outside the log, its metrics, and their values written out, for each engine that reads it."""

import csv
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideRequest
from engine.journal.traces import Trace, encode_trace
from tests.catalog.folder import experiment, plan

VECTORS = Path(__file__).parents[2] / "vectors" / "warehouse_sql"
START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=60)
CUSTOMER, TIME = 'c"id; DROP', "shipped at"  # names that would break a query that pastes them
ROWS = {"table": "orders", "at": "warehouse", "customer": CUSTOMER, "time": TIME}
METRICS: list[dict[str, Any]] = [
    {"key": "margin", "kind": "mean", "source": ROWS | {"value": "margin"}, "window": "7d"},
    {
        "key": "converted",
        "source": ROWS | {"value": "margin"},
        "window": "7d",
        "filter": {"state": {"$in": ["paid", "it's"]}},
    },
    {"key": "orders", "kind": "count", "source": ROWS, "delay": "1d", "filter": {"margin": {"$gte": 2}}},
    {"key": "euros", "kind": "revenue", "source": ROWS | {"value": "margin", "currency": "cur"}, "window": "7d"},
    {"key": "twice", "kind": "threshold", "source": ROWS, "at_least": 2, "window": "7d"},
    {"key": "days", "kind": "active_days", "source": ROWS, "window": "7d"},
    {"key": "adjusted", "kind": "count", "source": ROWS, "window": "7d", "covariate_window": "14d"},
]
OF_ROWS: list[dict[str, Any]] = [
    {"key": "upper", "kind": "quantile", "quantile": 0.75, "source": ROWS | {"value": "margin"}, "window": "7d"},
    {
        "key": "closed",
        "kind": "funnel",
        "source": ROWS | {"event": "state"},
        "steps": ["open", {"event": "paid", "filter": {"margin": {"$gte": 1}}}],
        "window": "7d",
        "within": "3d",
    },
]
"""Metrics that are no sums over rows."""
TEST = experiment(
    "checkout",
    metrics={"primary": "margin", "secondary": [metric["key"] for metric in METRICS[1:]]},
    analysis={"method": "fixed"},
)
WHOLE_TEST = experiment(
    "checkout",
    metrics={"primary": "margin", "secondary": [metric["key"] for metric in (*OF_ROWS, *METRICS[1:])]},
    analysis={"method": "fixed"},
)
CHANNELS = {"channels": [{"key": "web"}], "zone": "Europe/Berlin"}
MONEY = {"currency": "EUR", "rates": {"USD": 0.9}}
Write = Callable[..., Path]
RNG = np.random.default_rng(7)
MADE = [  # whose, days after the start (some in the hour before Berlin's midnight), margin, state, currency
    (
        int(RNG.integers(0, 60)),
        float(RNG.integers(-60, 80)) / 4 - 1 / 48,
        round(float(RNG.gamma(2, 3)), 2),
        str(RNG.choice(["paid", "it's", "open"])),
        str(RNG.choice(["EUR", "USD"])),
    )
    for _ in range(700)
]


def name_of(number: int) -> str:
    """The identifier of a customer in the warehouse: a user id, an e-mail address, a card."""
    return (f"u{number}", f"u{number}@x.de", f"card-{number}")[number % 3]


def table_rows() -> list[tuple[str, str, float, str, str]]:
    rows = [
        (name_of(who), f"{START + timedelta(days=day):%Y-%m-%d %H:%M:%S}", margin, state, currency)
        for who, day, margin, state, currency in MADE
    ]
    return [*rows, ("stranger", "2026-11-02 00:00:00", 1e6, "paid", "EUR")]


COLUMNS = (CUSTOMER, TIME, "margin", "state", "cur")


def expected() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for who in range(60):
        own = [(day, margin, state, cur) for whose, day, margin, state, cur in MADE if whose == who]
        week = [one for one in own if 0 <= one[0] < 7]
        local = [(START + timedelta(days=one[0])).astimezone(ZoneInfo("Europe/Berlin")).date() for one in week]
        values = {
            "margin": sum(margin for _, margin, *_ in week),
            "converted": any(state != "open" for _, _, state, _ in week),
            "orders": sum(day >= 1 and margin >= 2 for day, margin, *_ in own),
            "euros": sum(margin * (0.9 if cur == "USD" else 1) for _, margin, _, cur in week),
            "twice": len(week) >= 2,
            "days": len(set(local)),
            "closed": any(
                first == "open" and second == "paid" and margin >= 1 and 0 <= later - day <= 3
                for day, _, first, _ in week
                for later, margin, second, _ in week
            ),
        }
        for name, value in values.items():
            found.setdefault(name, {"a": [], "b": []})["ab"[who % 2]].append(float(value))
    margins: dict[str, list[float]] = {"a": [], "b": []}
    for who, day, margin, _, _ in MADE:
        if 0 <= day < 7:
            margins["ab"[who % 2]].append(margin)
    means = {name: {key: float(np.mean(one)) for key, one in of.items()} for name, of in found.items()}
    return means | {"upper": {key: float(np.quantile(one, 0.75)) for key, one in margins.items()}}


def slopes(adjusted: dict[str, float]) -> list[float]:
    """By how much an order of the two weeks before explains those of the week after, as each arm's mean was moved."""
    days = [[day for whose, day, *_ in MADE if whose == who] for who in range(60)]
    after = np.array([sum(0 <= day < 7 for day in own) for own in days])
    before = np.array([sum(-14 <= day < 0 for day in own) for own in days])
    arms = [np.arange(60) % 2 == arm for arm in (0, 1)]
    moved = zip(arms, adjusted.values(), strict=True)
    return [float((after[arm].mean() - mean) / (before[arm].mean() - before.mean())) for arm, mean in moved]


def make_log(write_log: Write) -> Path:
    """Sixty customers with user ids; the requests of some name an e-mail address or a card too."""
    decisions, exposures = [], []
    for who in range(60):
        row = {"decision_id": f"d{who}", "time": 0.0, "customer": f"u{who}"}
        decisions.append(row | {"variant": "ab"[who % 2]})
        exposures.append(row)
    folder = write_log(decisions=decisions, exposures=exposures)
    for file in (folder / "decisions").rglob("*.parquet"):
        table = pq.read_table(file)
        traces = [trace_of(int(name[1:])) for name in table["decision_id"].to_pylist()]
        pq.write_table(table.append_column("trace", pa.array(traces, pa.binary())), file)
    return folder


def trace_of(who: int) -> bytes:
    ids = {"user_id": f"u{who}"} | ({} if who % 3 == 0 else {("email", "loyalty_card")[who % 3 - 1]: name_of(who)})
    request = DecideRequest(customer=CustomerIds(**ids), channel="web")
    return encode_trace(Trace(0.0, request, Profile(id=f"u{who}", unit=f"u{who}"), Availability()))


def report_of(log: Path, source: dict[str, Any], spec: Any = WHOLE_TEST, **changed: Any) -> Report:
    every = [*METRICS, *OF_ROWS]
    rows = every if not changed else [metric | {"source": metric["source"] | changed} for metric in every]
    shop = plan(
        spec,
        metrics={"metrics": rows, **MONEY},
        channels=CHANNELS,
        sources={"sources": [{"key": "warehouse"} | source]},
    )
    question, metrics = build_question(shop, "checkout")
    return analyze_experiment(question, metrics, log, as_of=NOW)


def agrees(report: Report) -> None:
    *plain, adjusted = report.metrics
    for row in plain:
        assert row.mean == pytest.approx(expected()[row.metric], rel=1e-9), row.metric
    assert len(report.metrics) == len(METRICS) + len(OF_ROWS)
    assert adjusted.covariates == ["adjusted in the 14 days before"]
    first, second = slopes(adjusted.mean)
    assert first == pytest.approx(second, rel=1e-6)
    assert first != 0


def write_csv(path: Path) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *table_rows()])


def write_sqlite(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"CREATE TABLE orders ({', '.join(quoted(name) for name in COLUMNS)})")
        db.executemany("INSERT INTO orders VALUES (?, ?, ?, ?, ?)", table_rows())
        db.commit()


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
