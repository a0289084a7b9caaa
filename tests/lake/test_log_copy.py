"""The log on an object store: what was answered is there, once, and leaves it with an erasure."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import duckdb
from pyiceberg.catalog import load_catalog

from engine.doctor.access import check_log_copy
from engine.journal.log.commit import CHECKPOINT
from engine.journal.log.parquet import TABLES
from engine.lake.log_copy import ObjectStore
from engine.settings import from_environment
from tests.lake.conftest import Bucket
from tests.service.conftest import serving, write_shop

NOTHING: Mapping[str, str] = MappingProxyType({})


def run(words: Sequence[str | Path], more: Mapping[str, str] = NOTHING, code: int = 0) -> str:
    command = [sys.executable, "-m", "engine", *map(str, words)]
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def ids_in(log: Path) -> list[tuple[str, str]]:
    question = (
        f"SELECT DISTINCT decision_id, customer FROM read_parquet('{log}/decisions/day=*/*.parquet') ORDER BY ALL"
    )
    return duckdb.sql(question).fetchall()


def catalog_of(bucket: Bucket, folder: Path) -> dict[str, str]:
    return {
        "type": "sql",
        "uri": f"sqlite:///{folder}/catalog.db",
        "warehouse": "s3://shop/warehouse",
        "s3.endpoint": bucket.address,
        "s3.access-key-id": "test",
        "s3.secret-access-key": "test",
        "s3.region": "eu-central-1",
    }


def test_what_was_answered_is_in_the_bucket_and_in_iceberg_and_leaves_both_with_an_erasure(
    tmp_path: Path, redis_url: str, bucket: Bucket
) -> None:
    url, data = bucket.url("log"), tmp_path / "server" / "data"
    catalog = catalog_of(bucket, tmp_path)
    variables = {name.upper().replace(".", "__").replace("-", "_"): value for name, value in catalog.items()}
    more = {f"PYICEBERG_CATALOG__SHOP__{name}": value for name, value in variables.items()}
    more |= {"COUNTERPOINT_ICEBERG": "shop", "COUNTERPOINT_LOG_COPY": url}
    collect = ["collect", "--drain", "--data", data, "--redis", redis_url]
    answered: dict[str, str] = {}
    with serving(tmp_path / "server", redis_url, write_shop(tmp_path / "shop")) as server:

        def decide(customers: Sequence[str]) -> None:
            for name in customers:
                body = {"customer": {"user_id": name}, "channel": "web", "placements": ["home_hero"], "expose": True}
                answered[server.post("/v1/decide", body).json()["decision_id"]] = name

        decide([f"u-{number}" for number in range(20)])
        run(collect, more)
        first = bucket.objects("log")
        decide(["u-3", "u-20"])
        run(collect, more)
        assert first - {"_manifest.json"} < bucket.objects("log")  # what was uploaded is not uploaded again

        table = load_catalog("shop", **catalog).load_table("counterpoint.decisions")
        rows = table.scan(selected_fields=("decision_id", "customer", "candidates")).to_arrow().to_pylist()
        assert {row["decision_id"] for row in rows} == answered.keys()
        assert sorted(load_catalog("shop", **catalog).list_tables("counterpoint")) == sorted(
            ("counterpoint", one) for one in TABLES
        )
        pulled = tmp_path / "pulled"
        run(["log", "pull", url, pulled])
        assert ids_in(pulled) == ids_in(data / "log")
        assert {name for name, _ in ids_in(pulled)} == answered.keys()

        run(["erase", "u-3", "--data", data, "--redis", redis_url])
        run(collect, more)
    erased = {name for name, customer in answered.items() if customer == "u-3"}
    table = load_catalog("shop", **catalog).load_table("counterpoint.decisions")
    left = set(table.scan(selected_fields=("decision_id",)).to_arrow()["decision_id"].to_pylist())
    assert left == answered.keys() - erased
    run(["log", "pull", url, tmp_path / "again"])
    assert {name for name, _ in ids_in(tmp_path / "again")} == answered.keys() - erased
    listed = {task.file.file_path.removeprefix("s3://shop/log/") for task in table.scan().plan_files()}
    assert listed == {one for one in bucket.objects("log") if one.startswith("decisions/")}


def test_a_log_that_was_pulled_is_copied_on_and_another_log_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    url = bucket.url("second")
    for name in ("one", "other"):
        day = tmp_path / name / "log" / "decisions" / "day=2026-11-01"
        day.mkdir(parents=True)
        duckdb.sql(f"COPY (SELECT 'd-1' AS decision_id) TO '{day}/0000000001.parquet' (FORMAT parquet)")
    copy = ["log", "copy", url, "--json", "--data"]
    assert json.loads(run([*copy, tmp_path / "one"]))["uploaded"] == 1
    run(["log", "pull", url, tmp_path / "two" / "log"])
    assert json.loads(run([*copy, tmp_path / "two"]))["uploaded"] == 0
    assert "has the copy of another log; give each log a prefix of its own" in run([*copy, tmp_path / "other"], code=2)
    assert "is not empty; name a new folder" in run(["log", "pull", url, tmp_path / "one" / "log"], code=2)


def test_a_copy_that_was_killed_is_completed_and_its_leftovers_are_deleted(tmp_path: Path, bucket: Bucket) -> None:
    url = bucket.url("third")
    day = tmp_path / "log" / "decisions" / "day=2026-11-01"
    day.mkdir(parents=True)
    duckdb.sql(f"COPY (SELECT 'd-1' AS decision_id) TO '{day}/0000000001.parquet' (FORMAT parquet)")
    run(["log", "copy", url, "--data", tmp_path])
    whole = bucket.objects("third")
    with (day / "0000000001.parquet").open("rb") as file:  # as a copy leaves it that dies before its manifest
        ObjectStore(url).write("decisions/day=2026-11-01/0000000002-0badf00d.parquet", file)
    assert json.loads(run(["log", "copy", url, "--json", "--data", tmp_path]))["deleted"] == 1
    assert bucket.objects("third") == whole
    [name] = whole - {"_manifest.json"}
    checkpoint = tmp_path / "log" / CHECKPOINT
    for commit, severity in ((2, "ok"), (9, "problem")):
        checkpoint.write_text(f'{{"commit": {commit}}}')
        settings = from_environment({}, data=tmp_path, log_copy=url)
        assert [one.severity for one in check_log_copy(settings)] == [severity]
    ObjectStore(url).delete(name)
    assert "is missing; copy the log again" in run(["log", "pull", url, tmp_path / "pulled"], code=2)


def test_a_collector_copies_beside_its_work_and_servers_show_how_far(
    tmp_path: Path, redis_url: str, bucket: Bucket
) -> None:
    data, more = tmp_path / "server" / "data", {**os.environ, "COUNTERPOINT_LOG_COPY": bucket.url("beside")}
    command = [sys.executable, "-m", "engine", "collect", "--data", str(data), "--redis", redis_url]
    with serving(tmp_path / "server", redis_url, write_shop(tmp_path / "shop")) as server:
        body = {"customer": {"user_id": "u-1"}, "channel": "web", "experiments": "*"}
        assert server.post("/v1/decide", body).status_code == 200
        with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, env=more, stderr=log) as collector:
            deadline = time.monotonic() + 60
            while "counterpoint_log_copied_seconds 1." not in server.get("/metrics").text:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            collector.terminate()
            assert collector.wait(30) == 0
    assert any(name.startswith("decisions/") for name in bucket.objects("beside"))
