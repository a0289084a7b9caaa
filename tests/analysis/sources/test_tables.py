"""Metrics whose events are rows of tables: each engine agrees with the values written out, whatever the names are."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlglot
from msgspec.structs import replace

from engine.analysis import analyze_experiment
from engine.analysis.design.question import MeasuredMetric
from engine.analysis.design.question_from_plan import build_question
from engine.analysis.sources.engines import DuckDB
from engine.analysis.values.connections import NOBODY, connect
from engine.analysis.values.table_events import select_steps, select_values
from engine.analysis.values.table_rows import RowSum, list_table_columns, sum_rows, unbound_columns
from engine.analysis.values.warehouse_connections import warehouse_sql
from engine.catalog.spec.sources import SourceSpec
from engine.errors import BadInput, CatalogError
from tests.analysis.sources.tables import (
    CHANNELS,
    COLUMNS,
    CUSTOMER,
    METRICS,
    MONEY,
    NOW,
    OF_ROWS,
    ROWS,
    START,
    TEST,
    TIME,
    WHOLE_TEST,
    Write,
    agrees,
    make_log,
    name_of,
    quoted,
    report_of,
    table_rows,
    write_csv,
    write_sqlite,
)
from tests.catalog.folder import plan

VECTORS = Path(__file__).parents[2] / "vectors" / "warehouse_sql"


@pytest.fixture
def log(write_log: Write) -> Path:
    return make_log(write_log)


def test_files_agree(log: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "orders.csv")
    agrees(report_of(log, {"kind": "files", "path": str(tmp_path)}, table="orders.csv"))
    with pytest.raises(BadInput, match=r"'\.\./orders.csv' is outside of .*; name a file in it"):
        report_of(log, {"kind": "files", "path": str(log / "decisions")}, table="../orders.csv")
    with pytest.raises(BadInput, match=r"source warehouse: orders\.csv has no column 'shipped_on'; it has"):
        report_of(log, {"kind": "files", "path": str(tmp_path)}, table="orders.csv", time="shipped_on")


def test_sqlite_agrees(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    with pytest.raises(
        BadInput, match="source warehouse cannot be reached: unable to open database file; check its path"
    ):
        report_of(log, {"kind": "sqlite", "path": str(file)})
    write_sqlite(file)
    agrees(report_of(log, {"kind": "sqlite", "path": str(file)}))
    with pytest.raises(BadInput, match="source warehouse: the query failed: no such table: ordres; check the table"):
        report_of(log, {"kind": "sqlite", "path": str(file)}, table="ordres")


def test_postgres_agrees(log: Path, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"kind": "postgres", "address": "WAREHOUSE"}
    monkeypatch.delenv("WAREHOUSE", raising=False)
    with pytest.raises(
        BadInput, match="source warehouse: the environment variable WAREHOUSE is not set; set it to the"
    ):
        report_of(log, source)
    monkeypatch.setenv("WAREHOUSE", "postgresql://reader:hush@127.0.0.1:1/shop")
    with pytest.raises(
        BadInput, match=r"source warehouse cannot be reached: .*; check the address in WAREHOUSE"
    ) as refused:
        report_of(log, source)
    assert "hush" not in str(refused.value)
    monkeypatch.setenv("WAREHOUSE", postgres)
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(postgres, autocommit=True) as db:
        kinds = zip(COLUMNS, ("text", "timestamptz", "numeric(12, 2)", "text", "char(3)"), strict=True)
        db.execute("CREATE SCHEMA shop")
        db.execute(f"CREATE TABLE shop.orders ({', '.join(f'{quoted(name)} {kind}' for name, kind in kinds)})")
        with db.cursor() as cursor, cursor.copy("COPY shop.orders FROM STDIN") as copy:
            for name, at, *others in table_rows():
                copy.write_row([name, f"{at}+00", *others])
        db.execute("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'")
    agrees(report_of(log, source, table="shop.orders"))
    with pytest.raises(BadInput, match=r"source warehouse: the query failed: .*does not exist"):
        report_of(log, source, table="shop.orders", value="profit")


@pytest.mark.parametrize("mark", ["@", "/", "?", "#", "%zz", " ", "%00"])
def test_no_error_has_a_part_of_a_password_that_is_badly_escaped(mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("WAREHOUSE", f"postgresql://reader:hush{mark}quiet@127.0.0.1:1/shop")
    spec = SourceSpec(key="warehouse", kind="postgres", address="WAREHOUSE")
    refuses = pytest.raises(BadInput, match=r"source warehouse cannot be reached: .*WAREHOUSE")
    with refuses as refused:
        connect(spec, DuckDB()).fetch(unbound_columns(["id"], "orders"), NOBODY)
    assert "hush" not in str(refused.value)
    assert "quiet" not in str(refused.value)
    assert mark == "%00" or "%40" in str(refused.value)


RATIOS = [
    {"key": "basket", "kind": "ratio", "source": ROWS | {"value": "margin"}, "window": "7d"},
    {
        "key": "paid",
        "kind": "ratio",
        "source": ROWS | {"value": "margin", "denominator": "margin"},
        "filter": {"state": "paid"},
        "denominator_filter": {"state": {"$ne": "open"}},
    },
    {"key": "before", "kind": "ratio", "source": ROWS | {"value": "margin"}, "covariate_window": "14d"},
]
BY_HAND = """
    SELECT substr('ab', w.n % 2 + 1, 1),
        avg(CASE WHEN julianday(o."shipped at") < julianday('2026-11-08') THEN margin END),
        sum(CASE WHEN state = 'paid' THEN margin END) / sum(CASE WHEN state <> 'open' THEN margin END)
    FROM who AS w JOIN orders AS o ON o."c""id; DROP" = w.id
    WHERE julianday(o."shipped at") >= julianday('2026-11-01') GROUP BY 1
"""


def test_a_ratio_of_a_tables_columns_agrees_with_a_query_by_hand(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    write_sqlite(file)
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE who (n, id)")
        db.executemany("INSERT INTO who VALUES (?, ?)", [(n, name_of(n)) for n in range(60)])
        by_hand = {variant: values for variant, *values in db.execute(BY_HAND)}
    spec = TEST | {"metrics": {"primary": "basket", "secondary": ["paid", "before"]}}
    shop = plan(
        spec,
        metrics={"metrics": RATIOS, **MONEY},
        channels=CHANNELS,
        sources={"sources": [{"key": "warehouse", "kind": "sqlite", "path": str(file)}]},
    )
    question, metrics = build_question(shop, "checkout")
    basket, paid, before = analyze_experiment(question, metrics, log, as_of=NOW).metrics
    assert basket.mean == pytest.approx({name: one[0] for name, one in by_hand.items()}, rel=1e-9)
    assert paid.mean == pytest.approx({name: one[1] for name, one in by_hand.items()}, rel=1e-9)
    assert before.covariates == ["before in the 14 days before"]
    wrong = [RATIOS[0] | {"source": ROWS | {"value": "margin", "currency": "cur"}, "denominator": "view"}]
    with pytest.raises(CatalogError) as refused:
        plan(spec, metrics={"metrics": wrong, **MONEY}, sources={"sources": [{"key": "warehouse", "kind": "spark"}]})
    assert {"metrics[0].source.currency", "metrics[0].denominator"} <= {one.path for one in refused.value.problems}


def test_exposures_may_be_in_a_table_too(log: Path, tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    write_sqlite(file)
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE seen (who, at, arm, test)")
        rows = [(name_of(who), f"2026-11-01T00:00:0{at}", "ab"[who % 2], "c2") for who in range(60) for at in (0, 5)]
        rows += [(name_of(60), "2026-11-01T00:00:00", arm, "c2") for arm in "ab"]
        db.executemany("INSERT INTO seen VALUES (?, ?, ?, ?)", [*rows, ("u1", "2026-11-01", "a", "other")])
        db.commit()
    exposures = {"table": "seen", "at": "warehouse", "customer": "who", "time": "at", "variant": "arm"}
    spec = WHOLE_TEST | {"exposures": exposures | {"experiment": "test", "key": "c2"}}
    report = report_of(log, {"kind": "sqlite", "path": str(file)}, spec)
    agrees(report)
    assert (report.units, report.quality.crossovers) == ({"a": 30, "b": 30}, 1)


def test_amounts_without_a_rate_are_refused(log: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "orders.csv")
    shop = plan(
        TEST,
        metrics={"metrics": METRICS, "currency": "EUR"},
        channels=CHANNELS,
        sources={"sources": [{"key": "warehouse", "kind": "files", "path": str(tmp_path)}]},
    )
    question, metrics = build_question(shop, "checkout")
    metrics = [replace(one, source=replace(one.source, table="orders.csv")) for one in metrics if one.source]
    with pytest.raises(
        BadInput, match=r"metric euros: \d+ rows of orders.csv have a currency in cur without a rate; rates"
    ):
        analyze_experiment(question, metrics, log, as_of=NOW)


DIALECTS = ["bigquery", "snowflake", "clickhouse", "postgres"]


def same_as_stored(sql: str, dialect: str, name: str) -> None:
    file = VECTORS / name
    if os.environ.get("WRITE"):
        file.write_bytes(sql.encode())
    assert sql.encode() == file.read_bytes()
    assert len(list(sqlglot.parse(sql, dialect=dialect))) == 1


def asked_metrics(extra: list[dict[str, Any]]) -> list[MeasuredMetric]:
    """The metrics of tables, as a report asks for them."""
    shop = plan(
        TEST if not extra else TEST | {"metrics": {"primary": extra[0]["key"], "secondary": [extra[1]["key"]]}},
        metrics={"metrics": extra or METRICS, **MONEY},
        channels=CHANNELS,
        sources={"sources": [{"key": "warehouse", "kind": "spark"}]},
    )
    return build_question(shop, "checkout")[1]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_warehouse_is_asked(dialect: str) -> None:
    metrics = asked_metrics([])
    tables = [one.source for one in metrics if one.source]
    sums = [RowSum(name=f"m{at}", spec=one, begins="t0", ends="t1") for at, one in enumerate(metrics)]
    rows = unbound_columns(list_table_columns(tables, [one.filter for one in metrics]), "orders", ["shop"])
    sql = warehouse_sql(sum_rows(rows, sums, tables, (START, NOW)), dialect)
    asked = sqlglot.parse_one(sql, dialect=dialect)
    assert {table.name for table in asked.find_all(sqlglot.exp.Table)} == {"orders", "counterpoint_exposed"}
    read = {column.name for column in asked.find_all(sqlglot.exp.Column)}
    assert {TIME, "margin", "state", "cur"} <= read
    assert CUSTOMER in read or dialect == "bigquery"  # which has no such names
    assert {literal.name for literal in asked.find_all(sqlglot.exp.Literal) if literal.is_string} >= {
        "paid",
        "it's",
        "USD",
    }
    same_as_stored(sql, dialect, f"{dialect}.sql")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_a_warehouse_is_asked_for_the_rows_of_a_quantile_and_of_a_funnel(dialect: str) -> None:
    upper, closed = OF_ROWS
    metrics = asked_metrics([upper | {"source": ROWS | {"value": "margin", "currency": "cur"}}, closed])
    for metric, select, columns in zip(
        metrics, (select_values, select_steps), (["n", "x", "rate"], ["n", "at", "s0", "s1"]), strict=True
    ):
        table = metric.source
        assert table is not None
        filters = [metric.filter, *(step.filter for step in metric.steps)]
        rows = unbound_columns(list_table_columns([table], filters), "orders", ["shop"])
        sql = warehouse_sql(select(rows, metric, table), dialect)
        asked = sqlglot.parse_one(sql, dialect=dialect)
        assert isinstance(asked, sqlglot.exp.Select)
        assert asked.named_selects == columns
        assert {one.name for one in asked.find_all(sqlglot.exp.Table)} == {"orders", "counterpoint_exposed"}
        compared = {literal.name for literal in asked.find_all(sqlglot.exp.Literal) if literal.is_string}
        assert compared >= ({"USD"} if metric.name == "upper" else {"open", "paid"})
        same_as_stored(sql, dialect, f"{dialect}_{metric.kind}.sql")
