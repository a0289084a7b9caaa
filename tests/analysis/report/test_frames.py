"""The Python face of reports: frames in; frames, charts and HTML out."""

import sys
from pathlib import Path

import duckdb
import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, aa_table, analyze_table
from engine.analysis.sources.frames import FrameOrFile
from engine.analysis.stats.estimate import Effect
from engine.errors import BadInput

N = 2000
RNG = np.random.default_rng(5)
COLUMNS = {
    "v": np.where(np.arange(N) % 2, "new", "control"),
    "who": np.arange(N) // 2 // 3 * 2 + np.arange(N) % 2,
    "spend": np.where(RNG.random(N) < 0.05, np.nan, RNG.gamma(2, 10, N) + np.arange(N) % 2),
    "bought": RNG.random(N) < 0.3,
}


def analyzed(frame: FrameOrFile) -> Report:
    return analyze_table(
        frame,
        variant="v",
        control="control",
        unit="who",
        metrics=["mean:spend", "proportion:bought", "quantile:spend@0.9"],
        method="fixed",
    )


def test_frames_give_the_report_of_their_file(tmp_path: Path) -> None:
    table = pa.table(COLUMNS)
    table = pa.Table.from_pandas(table.to_pandas(), preserve_index=False)  # NaN of pandas is a missing value
    pq.write_table(table, f"{tmp_path}/table.parquet")
    expected = analyzed(f"{tmp_path}/table.parquet")
    shuffled_index = table.to_pandas().set_index(np.arange(N)[::-1])
    for frame in (table, shuffled_index, shuffled_index.assign(v=pd.Categorical(shuffled_index["v"]))):
        found = analyzed(frame)
        assert found.experiment == "table"
        assert (found.units, found.quality) == (expected.units, expected.quality)
        pd.testing.assert_frame_equal(found.to_pandas(), expected.to_pandas(), rtol=1e-9)
    (check,) = aa_table(table, metrics=["mean:spend"], runs=20)
    assert check.units == table["spend"].drop_null().length()


def test_polars_frames_are_read_and_written() -> None:
    pl = pytest.importorskip("polars")
    table = pa.Table.from_pandas(pd.DataFrame(COLUMNS), preserve_index=False)
    frame = pl.from_arrow(table)
    report = analyzed(table)
    for own in (frame, frame.lazy()):
        pd.testing.assert_frame_equal(analyzed(own).to_pandas(), report.to_pandas(), rtol=1e-9)
    rows = report.to_polars()
    assert rows.schema["relative_low"] == pl.Float64
    assert rows["metric"].to_list() == ["spend", "bought", "spend@0.9"]
    assert rows["absolute"].to_list() == report.to_pandas()["absolute"].to_list()


def test_duckdb_relations_and_ibis_tables_are_read() -> None:
    frame = pd.DataFrame(COLUMNS)
    report = analyzed(frame)
    connection = ibis.duckdb.connect()
    for own in (
        duckdb.sql("FROM frame"),
        duckdb.sql("SELECT v, who, spend, bought FROM frame WHERE who >= 0"),
        ibis.memtable(frame),
        connection.create_table("orders", frame),
        ibis.memtable(frame.assign(other=1)).filter(ibis._.other == 1).drop("other"),
        pa.table(frame).to_reader(),
    ):
        pd.testing.assert_frame_equal(analyzed(own).to_pandas(), report.to_pandas(), rtol=1e-9)


def test_a_report_is_a_frame_with_a_row_for_each_metric_and_variant() -> None:
    report = analyzed(pd.DataFrame(COLUMNS))
    rows = report.to_pandas()
    spend, effect = rows.iloc[0], report.metrics[0].relative
    assert isinstance(effect, Effect)
    assert (spend["metric"], spend["variant"], spend["control"]) == ("spend", "new", "control")
    assert (spend["relative"], spend["relative_low"], spend["relative_high"]) == (
        effect.estimate,
        effect.low,
        effect.high,
    )
    flat = analyze_table(
        pd.DataFrame(COLUMNS).assign(spend=1.0), variant="v", control="control", metrics=["mean:spend"]
    )
    (row,) = flat.to_pandas().to_dict("records")
    assert np.isnan(row["absolute"])
    assert row["not_estimable"]


def test_a_notebook_shows_a_report_and_its_chart() -> None:
    report = analyzed(pd.DataFrame(COLUMNS))
    page = report._repr_html_()
    assert page.startswith('<div class="counterpoint-report">')
    assert report.recommendation.verdict.capitalize() in page
    assert "<script" not in page
    chart = report.plot().to_dict()
    shown = [row["name"] for layer in chart["layer"] for row in layer["data"]["values"] if "name" in row]
    assert shown[:3] == ["spend, new", "bought, new", "spend@0.9, new"]


@pytest.mark.parametrize(("library", "method"), [("pandas", "to_pandas"), ("polars", "to_polars"), ("altair", "plot")])
def test_a_missing_library_is_one_clear_line(library: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    report = analyzed(pa.table(COLUMNS))
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadInput, match=rf"^{method}\(\) needs {library}, which is not installed; run pip install"):
        getattr(report, method)()


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (3, {}, "a value of type int is not a table; give a path, or a pandas, Polars, Arrow, DuckDB or Ibis table"),
        (pa.array([1.0]), {}, "a value of type DoubleArray is not a table"),
        (pa.table([[1.0], [2.0]], names=["x", "x"]), {}, "the frame has two columns named 'x'"),
        (pd.DataFrame({"x": [1, "a"]}), {}, "the frame cannot be read as a table"),
        (pa.table({"v": ["a"]}), {}, "table has no column 'x'; it has v"),
        (pa.table({"v": ["a"]}), {"partials": "store"}, "partials: a frame has no files"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(frame: FrameOrFile, options: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        analyze_table(frame, variant="v", control="a", metrics=["mean:x"], **options)
    assert "\n" not in str(refused.value)
