"""What DuckDB is asked in SQL of our own is what Ibis would ask: the same lines on both give the same sums."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.analysis.aggregates.aggregate import CROSSED, VARIANT, aggregate_groups
from engine.analysis.aggregates.clustered import build_unit_frame, row_centres
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.table import analyze_table
from engine.analysis.sources.engines import DuckDB, connect_engine, ibis_table

NAMES = ('y"', "x's", "the x")
MEASURES = [parse_measure(text) for text in ("mean:y\"|x's", "ratio:y\"/the x|x's", "mean:the x")]
numbers = st.floats(-1e6, 1e6) | st.none()
rows = st.tuples(st.sampled_from(["a", "b", "it's", None]), st.integers(0, 12) | st.none(), numbers, numbers, numbers)


@given(st.lists(rows, min_size=1, max_size=40), st.booleans(), st.sampled_from([0.0, 1e8]))
@settings(max_examples=40, deadline=None)
def test_text_and_ibis_give_the_same_sums(found: list[Any], by_unit: bool, offset: float) -> None:  # noqa: FBT001
    source = DuckDB()
    variants, units, *columns = map(list, zip(*found, strict=True))
    shifted = [[None if cell is None else cell + offset for cell in column] for column in columns]
    names = ("variant", "unit", *NAMES)
    kinds = (pa.string(), pa.int64(), *[pa.float64()] * 3)
    arrays = [pa.array(cells, kind) for cells, kind in zip((variants, units, *shifted), kinds, strict=True)]
    source.connection.register("made", pa.table(dict(zip(names, arrays, strict=True))))
    table = source.view("made", "SELECT * FROM made")
    unit = "unit" if by_unit else None
    text, ibis = (
        aggregate_groups(source, frame, (VARIANT, CROSSED), measures)
        for frame, measures in (
            build_unit_frame(one, "variant", unit, MEASURES, about=row_centres(source, one, unit, MEASURES))
            for one in (table, ibis_table(table))
        )
    )
    assert text.keys() == ibis.keys()
    for key, group in text.items():
        assert group.units == ibis[key].units
        for name, moments in group.moments.items():
            other = ibis[key].moments[name]
            assert moments.n == other.n
            assert moments.mean == pytest.approx(other.mean, rel=1e-12)
            scale = np.sqrt(np.outer(other.comoment.diagonal(), other.comoment.diagonal()))
            assert np.all(np.abs(moments.comoment - other.comoment) <= 1e-9 * scale)


def test_sources_of_one_process_do_not_see_each_others_tables() -> None:
    one, other = connect_engine("duckdb"), connect_engine("duckdb")
    assert isinstance(one, DuckDB)
    assert isinstance(other, DuckDB)
    for source, value in ((one, 1), (other, 2)):
        source.keep("units", ibis_table(source.view("x", f"SELECT {value} AS a")))
    assert [source.run("SELECT a FROM units") for source in (one, other)] == [[(1,)], [(2,)]]


def test_single_floats_are_summed_as_doubles(tmp_path: Path) -> None:
    y = (1e6 + np.random.default_rng(4).normal(0, 1, 20_000)).astype(np.float32)
    path = tmp_path / "single.parquet"
    pq.write_table(pa.table({"variant": ["a", "b"] * 10_000, "y": y}), path)
    metric = analyze_table(str(path), variant="variant", control="a", metrics=["mean:y"]).metrics[0]
    assert metric.mean["a"] == pytest.approx(y[::2].astype(np.float64).mean(), rel=1e-13)


def test_a_plain_report_imports_neither_ibis_nor_scipy(tmp_path: Path) -> None:
    path = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"arm": ["a", "b"] * 50, "y": np.arange(100.0), "user": np.arange(100) // 2 * 2}), path)
    code = (
        "import sys; from engine.analysis import analyze_table\n"
        "analyze_table(sys.argv[1], variant='arm', control='a', metrics=['mean:y|user'], partials=sys.argv[2])\n"
        "print({'ibis', 'scipy', 'pandas', 'pyarrow', 'sqlglot', 'policies', 'litestar'} & sys.modules.keys() or None)"
    )
    made = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "parts")], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "None"
