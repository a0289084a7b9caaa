"""Segments of a table, the plan of its sequential intervals, and means before and after the adjustment."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.render.terminal import notes
from engine.analysis.stats.estimate import Effect
from engine.errors import BadInput
from tests.verbs import run_verb

RNG = np.random.default_rng(31)
N = 3_000
ARM = np.where(RNG.integers(0, 2, N), "new", "control")
TIER = RNG.choice(["gold", "tin", "01"], N)
PRE = RNG.normal(20, 5, N)
Y = PRE + RNG.normal(0, 3, N) + np.where(TIER == "gold", 2.0, 0.0) * (ARM == "new")


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    columns = {
        "arm": ARM,
        "user": np.arange(N),
        "tier": pa.array(TIER, mask=np.arange(N) % 50 == 0),
        "y": Y,
        "pre": PRE,
    }
    pq.write_table(pa.table(columns), tmp_path / "shop.parquet")
    return tmp_path / "shop.parquet"


def analyzed(path: Path, *metrics: str, **options: Any) -> Report:
    given = {"method": "fixed"} | options
    return analyze_table(str(path), variant="arm", control="control", metrics=metrics or ["mean:y"], **given)


def figures(report: Report) -> list[float]:
    (effect,) = (row.absolute for row in report.metrics)
    assert isinstance(effect, Effect)
    return [effect.estimate, effect.se, effect.low, effect.high, *report.metrics[0].units.values()]


@pytest.mark.parametrize("unit", [None, "user"])
def test_the_effect_in_each_segment_is_that_of_its_rows(shop: Path, unit: str | None) -> None:
    report = analyzed(shop, unit=unit, segment="tier")
    (part,) = report.segments
    known = np.arange(N) % 50 != 0
    assert [effect.segment for effect in part.effects] == ["(none)", "01", "gold", "tin"]
    for effect in part.effects:
        rows = ~known if effect.segment == "(none)" else known & (effect.segment == TIER)
        one, other = Y[rows & (ARM == "new")], Y[rows & (ARM == "control")]
        assert isinstance(effect.measured, Effect)
        assert effect.units == {"control": other.size, "new": one.size}
        assert effect.measured.estimate == pytest.approx(one.mean() - other.mean())
    whole = analyzed(shop, unit=unit)
    assert figures(report) == pytest.approx(figures(whole), rel=1e-9)
    assert whole.segments == []


def test_a_segment_beside_a_stratum(shop: Path) -> None:
    plain = analyzed(shop, stratum="tier")
    both = analyzed(shop, stratum="tier", segment="tier")
    assert figures(both) == pytest.approx(figures(plain), rel=1e-9)
    assert both.segments
    other = analyzed(shop, stratum="user", segment="tier")
    assert "the metrics are not stratified by user while segments of tier are reported" in other.quality.flags
    assert figures(other) == pytest.approx(figures(analyzed(shop)), rel=1e-9)


def test_what_is_no_segment_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="has no column 'tir'; it has arm, user, tier, y, pre"):
        analyzed(shop, segment="tir")
    with pytest.raises(BadInput, match="the segment's column has 3000 values; name one with 200 at most"):
        analyzed(shop, segment="user")
    with pytest.raises(BadInput, match="not by tier; leave --partials or --segment out"):
        analyzed(tmp_path, segment="tier", partials=str(tmp_path / "parts"))


def test_a_split_that_is_off_in_a_segment_is_flagged(tmp_path: Path) -> None:
    arm = np.where(np.arange(4_000) % 2, "new", "control")
    tier = np.where((np.arange(4_000) < 1_000) & ((arm == "new") | (np.arange(4_000) % 4 == 0)), "gold", "tin")
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"arm": arm, "tier": tier, "y": RNG.normal(9, 1, 4_000)}), path)
    report = analyzed(path, segment="tier")
    assert [flag.partition(":")[0] for flag in sorted(report.quality.flags)] == [
        "the split is wrong in segment gold",
        "the split is wrong in segment tin",
    ]


def test_the_command_line_reports_segments_of_a_table(shop: Path) -> None:
    words = ["analyze", "--table", str(shop), "--variant", "arm", "--control", "control", "--metric", "mean:y"]
    done = run_verb(*words, "--segment", "tier", "--json", env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    (part,) = json.loads(done.stdout)["segments"]
    assert part["trait"] == "tier"


def test_a_plan_that_is_far_too_small_is_flagged(tmp_path: Path) -> None:
    n = 200_000
    arm = np.where(np.arange(n) % 2, "new", "control")
    path = tmp_path / "shop.parquet"
    pq.write_table(pa.table({"arm": arm, "y": RNG.normal(5, 1, n)}), path)
    (flag,) = analyzed(path, method="sequential").quality.flags
    assert flag.startswith(
        "200,000 units were compared where 5,000 were planned, so intervals are 13% wider than with "
    )
    assert "planned 200,000; name the units planned beforehand, or method fixed" in flag
    assert analyzed(path, method="sequential", planned=n).quality.flags == []
    assert analyzed(path).quality.flags == []


def test_means_are_shown_raw_and_adjusted(shop: Path) -> None:
    plain, adjusted = analyzed(shop).metrics[0], analyzed(shop, "mean:y|pre").metrics[0]
    assert adjusted.raw_mean == pytest.approx(plain.mean)
    assert adjusted.mean != pytest.approx(plain.mean, rel=1e-6)
    assert plain.raw_mean == {}
    (note,) = (note for note in notes(analyzed(shop, "mean:y|pre")) if "of the variance" in note)
    control, new = (f"{plain.mean[name]:.4g}" for name in ("control", "new"))
    assert note.endswith(f"The means are adjusted for it; without, they are control {control}, new {new}.")
