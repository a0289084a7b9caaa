"""Partial statistics of a folder's files: the same report, from the new files alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis import Report, analyze_table
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.moments import sample_moments
from engine.errors import BadInput


def day(folder: Path, name: str, seed: int, n: int = 500) -> Path:
    rng = np.random.default_rng(seed)
    table = {"variant": np.where(rng.random(n) < 0.5, "a", "b"), "y": rng.normal(5, 2, n), "x": rng.normal(1, 1, n)}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), folder / f"{name}.parquet")
    return folder / f"{name}.parquet"


def analyzed(folder: Path, **more: Any) -> Report:
    asked: dict[str, Any] = {"metrics": ["mean:y|x"]} | more
    return analyze_table(str(folder), variant="variant", control="a", **asked)


def figures(report: Report) -> list[float]:
    effect = report.metrics[0].absolute
    assert isinstance(effect, Effect)
    return [effect.estimate, effect.low, effect.high, effect.se, *report.units.values()]


def test_a_refresh_reads_new_and_changed_files_only(tmp_path: Path) -> None:
    days, store = tmp_path / "days", str(tmp_path / "store")
    first = day(days, "1", 1)
    day(days, "2", 2)
    assert figures(analyzed(days, partials=store)) == pytest.approx(figures(analyzed(days)), rel=1e-10)
    first.write_bytes(b"x" * first.stat().st_size)  # changed: it is read again, and is no Parquet
    with pytest.raises(BadInput, match="cannot be read"):
        analyzed(days, partials=store)
    day(days, "1", 3)
    day(days, "3", 4)
    assert figures(analyzed(days, partials=store)) == pytest.approx(figures(analyzed(days)), rel=1e-10)
    (days / "2.parquet").unlink()
    assert figures(analyzed(days, partials=store)) == pytest.approx(figures(analyzed(days)), rel=1e-10)


def test_stored_files_are_not_read_again(tmp_path: Path) -> None:
    days, store = tmp_path / "days", str(tmp_path / "store")
    old = day(days, "1", 1)
    before = figures(analyzed(days, partials=store))
    day(days, "2", 2)
    stamp = old.stat()
    old.write_bytes(b"x" * stamp.st_size)
    import os  # noqa: PLC0415 # only here

    os.utime(old, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert figures(analyzed(days, partials=store)) != before


def test_what_partials_cannot_do(tmp_path: Path) -> None:
    day(tmp_path / "days", "1", 1)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"unit": "x"}, "rows of one x may lie in several files, whose statistics do not add up per unit; leave"),
        (
            {"metrics": ["quantile:y@0.5"]},
            "the quantile y@0.5 cannot be computed from the statistics of single files; leave",
        ),
        ({"stratum": "x"}, "statistics are stored by variant, not by x; leave --partials or --stratum out"),
    ]
    for cannot, why in refused:
        with pytest.raises(BadInput, match=why):
            analyzed(tmp_path / "days", partials=str(tmp_path / "s"), **cannot)
    (tmp_path / "none").mkdir()
    with pytest.raises(BadInput, match="has no Parquet file"):
        analyzed(tmp_path / "none", partials=str(tmp_path / "s"))


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=4, max_size=30), st.data())
def test_moments_of_parts_add_up_in_any_order(rows: list[tuple[float, float]], data: st.DataObject) -> None:
    sample = np.array(rows)
    cuts = sorted(data.draw(st.tuples(st.integers(0, len(rows)), st.integers(0, len(rows)))))
    a, b, c = (sample_moments(part) for part in np.split(sample, cuts))
    whole = sample_moments(sample)
    for merged in ((a + b) + c, a + (b + c), c + a + b):
        assert merged.n == whole.n
        assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-9)
        assert merged.comoment == pytest.approx(whole.comoment, rel=1e-9, abs=1e-6)


def test_a_variant_without_a_name_is_not_a_missing_one(tmp_path: Path) -> None:
    days = tmp_path / "days"
    days.mkdir()
    for name in ("1", "2"):
        table = {"variant": ["a", "", None, "a", ""], "y": [1.0, 2.0, 3.0, 4.0, 6.0], "x": [1.0, 2.0, 4.0, 3.0, 1.0]}
        pq.write_table(pa.table(table), days / f"{name}.parquet")
    kept, full = analyzed(days, partials=str(tmp_path / "store")), analyzed(days)
    assert kept.units == full.units == {"": 4, "a": 4}
    assert kept.quality.flags == full.quality.flags


def test_a_new_file_that_lacks_a_column_has_no_values_of_it(tmp_path: Path) -> None:
    days, store = tmp_path / "days", str(tmp_path / "store")
    day(days, "1", 1)
    day(days, "3", 3)
    analyzed(days, partials=store)
    pq.write_table(pa.table({"variant": ["a", "b"], "y": [1.0, 2.0]}), days / "2.parquet")
    kept, full = analyzed(days, partials=store), analyzed(days)
    assert figures(kept) == pytest.approx(figures(full), rel=1e-10)
    assert (
        kept.quality.flags
        == full.quality.flags
        == ["y: 2 units lack the covariate x; they count with its mean and an indicator"]
    )


def test_the_last_file_may_lack_a_column(tmp_path: Path) -> None:
    days = tmp_path / "days"
    day(days, "1", 1)
    pq.write_table(pa.table({"variant": ["a", "b"], "y": [1.0, 2.0]}), days / "2.parquet")
    kept, full = analyzed(days, partials=str(tmp_path / "store")), analyzed(days)
    assert figures(kept) == pytest.approx(figures(full), rel=1e-10)
    with pytest.raises(BadInput, match="has no column 'z'; it has variant, y, x"):
        analyzed(days, partials=str(tmp_path / "store"), metrics=["mean:z"])
