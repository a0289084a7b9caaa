"""Names, values and paths from a command line or from YAML are data to the query engine, never a part of its SQL."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.analysis.report.table import analyze_table
from engine.analysis.sources.duckdb_expressions import identifier, text_literal
from engine.analysis.sources.engines import DuckDB, ibis_table
from engine.analysis.values.json_fields import json_text
from engine.errors import BadInput
from tests.analysis.conftest import WriteLog
from tests.verbs import run_verb

CONTENT = "the recipe of the house"
READS_A_FILE = "x'[1:1] || (SELECT string_agg(content,'|') FROM read_text('{file}')) || '"
SIGNS = st.sampled_from(list("abÄ0 _.-:/~$*?'\"`\\;|()[]{}<>%\n\t\0\u2028")) | st.characters(exclude_categories=["Cs"])
NAMES = st.text(SIGNS, min_size=1, max_size=30)
ATTACKS = (
    READS_A_FILE,
    "'; DROP TABLE x; --",
    '"; DROP TABLE x; --',
    "a' OR '1'='1",
    "a\\' || version() || '",
    '$."a".b[*]',
    "$$ || version() || $$",
    "/* */ -- a",
    "{}",
    "{0}",
)


@pytest.fixture
def log(write_log: WriteLog) -> Path:
    users = [f"u-{index}" for index in range(40)]
    decided = [
        {
            "decision_id": f"d-{user}",
            "time": 0.0,
            "customer": user,
            "variant": "ab"[index % 2],
            "context": json.dumps({"tier": "gold" if index < 20 else "tin"}),
        }
        for index, user in enumerate(users)
    ]
    shown = [{"decision_id": f"d-{user}", "time": 1.0, "customer": user} for user in users]
    bought = [
        {"message_id": f"m-{user}", "time": 2.0, "customer": user, "event": "purchase", "properties": '{"net": 3}'}
        for user in users[::3]
    ]
    return write_log(decisions=decided, exposures=shown, events=bought)


def shop(folder: Path, *, stratum: str = "tier", value: str = "net") -> Path:
    folder.mkdir()
    variants = [{"key": "a"}, {"key": "b"}]
    experiment = {
        "key": "checkout",
        "variants": variants,
        "metrics": {"primary": "net"},
        "analysis": {"stratum": stratum, "planned": 40},
    }
    metric = {"key": "net", "kind": "mean", "event": "purchase", "value": value}
    (folder / "checkout.yaml").write_text(json.dumps(experiment))
    (folder / "metrics.yaml").write_text(json.dumps({"metrics": [metric]}))
    (folder / "channels.yaml").write_text(json.dumps({"channels": [{"key": "web"}]}))
    return folder


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return run_verb(*words, env={**os.environ, "COLUMNS": "300"})


@pytest.fixture
def attack(tmp_path_factory: pytest.TempPathFactory) -> str:
    secret = tmp_path_factory.mktemp("secret") / "secret.txt"
    secret.write_text(CONTENT)
    return READS_A_FILE.format(file=secret)


def test_a_segment_on_the_command_line_reads_no_file(log: Path, tmp_path: Path, attack: str) -> None:
    words = ("analyze", "checkout", "--log", str(log), "--experiments", str(shop(tmp_path / "shop")))
    assert run(*words, "--segment", "tier", "--json").returncode == 0
    for option in ("--segment", "--stratum"):
        refused = run(*words, option, attack, "--json")
        assert refused.returncode == 2
        assert CONTENT not in refused.stdout + refused.stderr
        assert "is not the name of a trait or property; use letters" in refused.stderr


@pytest.mark.parametrize("field", ["stratum", "value"])
def test_a_name_in_yaml_reads_no_file_and_check_names_it(log: Path, tmp_path: Path, attack: str, field: str) -> None:
    folder = str(shop(tmp_path / "shop", **{field: attack}))
    refused = run("check", folder)
    assert refused.returncode == 1
    assert "is not the name of a trait or property; use letters" in refused.stdout + refused.stderr
    report = run("analyze", "checkout", "--log", str(log), "--experiments", folder, "--json")
    assert report.returncode != 0
    assert CONTENT not in report.stdout + report.stderr


@given(NAMES)
@example("*")
@example("0")
@example("/")
@example("~1")
@example("größe")
@settings(max_examples=150, deadline=None)
def test_a_field_of_json_is_found_by_its_own_name_or_refused(name: str) -> None:
    source = DuckDB()
    document = json.dumps({"other": "wrong", name: "right", f"{name}x": "wrong"})
    source.connection.register("given", pa.table({"document": [document]}))
    table = ibis_table(source.view("rows", "SELECT * FROM given"))
    try:
        value = json_text(table["document"], name)
    except BadInput as error:
        assert "use letters" in str(error)  # noqa: PT017 # a name is either refused or found
    else:
        assert source.rows(table.select(value=value)) == [("right",)]


@given(NAMES)
@settings(max_examples=150, deadline=None)
@example("{}")
def test_a_text_or_a_name_comes_back_from_the_engine_unchanged(text: str) -> None:
    source = DuckDB()
    if "\0" in text:
        for quote in (text_literal, identifier):
            with pytest.raises(BadInput, match="NUL character"):
                quote(text)
        return
    assert source.run("SELECT {}", text) == [(text,)]
    assert source.run("SELECT unnest({})", [text, "b"]) == [(text,), ("b",)]
    view = source.view("rows", f"SELECT 1 AS {identifier(text)}")
    assert list(view.schema()) == [text]
    assert source.rows(view.select(x=text).filter(view["x"] == text)) == [(text,)]
    assert source.rows(ibis_table(view).select(x=ibis.literal(text))) == [(text,)]


@pytest.mark.parametrize("text", ATTACKS)
def test_columns_and_variants_of_a_table_may_be_called_anything(tmp_path: Path, text: str) -> None:
    values = np.random.default_rng(3).normal(5, 1, 400)
    columns = {text: np.where(np.arange(400) % 2, text, "control"), f"{text}unit": np.arange(400), "y": values}
    columns["z"] = np.where(np.arange(400) % 7, values, np.nan)
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({name: pa.array(cells, from_pandas=True) for name, cells in columns.items()}), path)
    for unit in (None, f"{text}unit"):
        report = analyze_table(
            str(path), variant=text, control="control", unit=unit, metrics=["mean:y", "mean:z"], method="fixed"
        )
        assert report.units == {"control": 200, text: 200}


@pytest.mark.parametrize("name", ["it's.parquet", "a[1].parquet", "a?*.parquet", "{}.parquet", "'); DROP.csv"])
def test_a_file_may_be_called_anything(tmp_path: Path, name: str) -> None:
    columns = pa.table({"arm": ["a", "b"] * 20, "y": np.arange(40.0)})
    path, other = tmp_path / name, tmp_path / "a1.parquet"
    pq.write_table(columns, other)
    if path.suffix == ".csv":
        columns.to_pandas().to_csv(path, index=False)
    else:
        shutil.copy(other, path)
    report = analyze_table(str(path), variant="arm", control="a", metrics=["mean:y"], method="fixed")
    assert report.units == {"a": 20, "b": 20}
