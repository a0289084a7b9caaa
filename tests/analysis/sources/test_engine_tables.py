"""Metrics from tables on ClickHouse in this process and on Spark: they agree with the values written out."""

import shutil
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest

from tests.analysis.sources.tables import Write, agrees, make_log, report_of, write_csv

spark = pytest.mark.skipif(not find_spec("pyspark") or not shutil.which("java"), reason="needs pyspark and Java")
clickhouse = pytest.mark.skipif(not find_spec("chdb") or not find_spec("clickhouse_connect"), reason="needs chdb")
ENGINES = [pytest.param("spark", marks=spark), pytest.param("clickhouse", marks=clickhouse)]


@pytest.fixture
def log(write_log: Write) -> Path:
    return make_log(write_log)


@pytest.mark.parametrize("warehouse", ENGINES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_warehouse_agrees(log: Path, tmp_path: Path, warehouse: str, kind: str) -> None:
    write_csv(tmp_path / "orders.csv")
    file = tmp_path / f"orders.{kind}"
    if kind == "parquet":
        duckdb.sql(f"COPY (FROM '{tmp_path}/orders.csv') TO '{file}'")
    agrees(report_of(log, {"kind": warehouse}, table=str(file)))
