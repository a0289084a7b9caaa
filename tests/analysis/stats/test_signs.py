"""Effects on means that are below zero, near it or far away: the sign, the digits, and no number where none can be."""

from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.design.methods import Inference
from engine.analysis.stats.effects import IntervalScale, interval_scale, relative_effect
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable
from engine.analysis.stats.inference import Arm

RNG = np.random.default_rng(32)
V = RNG.integers(0, 2, 4000)
SPENT = RNG.gamma(2.0, 3.0, 4000) + 3.0 * (V == 0)


def analyzed(folder: Path, *metrics: str, columns: dict[str, Any], **more: Any) -> Report:
    pq.write_table(pa.table({"v": V, **columns}), folder / "t.parquet")
    given: dict[str, Any] = {"variant": "v", "control": "0"} | more
    return analyze_table(str(folder / "t.parquet"), metrics=metrics, **given)


@pytest.mark.parametrize("how", ["fieller", "log", "linear"])
@pytest.mark.parametrize("method", ["fixed", "sequential", "bayesian"])
def test_a_cost_counted_below_zero_is_the_cost_turned_round(tmp_path: Path, method: str, how: str) -> None:
    """Costs that fall from 9 to 6 are better by a third, whichever sign they are written with."""
    for prior in (None, (0.05, 0.2)):
        more = {"method": method, "relative": how}
        turned = None if prior is None else (-prior[0], prior[1])
        below = analyzed(tmp_path, "mean:x", columns={"x": -SPENT}, prior=prior, **more)
        above = analyzed(tmp_path, "-mean:x", columns={"x": SPENT}, prior=turned, **more)
        assert below.recommendation.verdict == above.recommendation.verdict == "ship"
        one, other = below.metrics[0], above.metrics[0]
        assert isinstance(one.bayes, Bayes)
        assert isinstance(other.bayes, Bayes)
        assert one.bayes.chance_to_win == pytest.approx(other.bayes.chance_to_win)
        assert one.bayes.chance_to_win > 0.999
        assert one.bayes.expected_loss == pytest.approx(other.bayes.expected_loss)
        for mine, theirs in ((one.relative, other.relative), (one.absolute, other.absolute)):
            assert isinstance(mine, Effect)
            assert isinstance(theirs, Effect)
            assert (mine.estimate, mine.low, mine.high) == pytest.approx((-theirs.estimate, -theirs.high, -theirs.low))
            assert 0 < mine.low < mine.estimate < mine.high
            assert (mine.se, mine.p) == (
                pytest.approx(theirs.se),
                theirs.p if mine.p is None else pytest.approx(theirs.p),
            )


@pytest.mark.parametrize("how", ["fieller", "log", "linear"])
@pytest.mark.parametrize("mean", [1e8, -1e8, 1e12])
def test_a_large_mean_costs_no_digits_of_a_small_effect(how: Any, mean: float) -> None:
    """Against the same formulas with fifty digits."""
    control, treatment = Arm(50_000, mean, 2e-5), Arm(50_000, mean + 0.0078125, 2.1e-5)
    width = interval_scale(control, treatment, Inference(method="sequential"))
    assert isinstance(width, IntervalScale)
    found = relative_effect(control, treatment, width, how)
    assert isinstance(found, Effect)
    with localcontext(prec=50):
        a, b = Decimal(treatment.value), Decimal(control.value)
        va, vb, c = Decimal(treatment.variance), Decimal(control.variance), Decimal(width.multiplier)
        ratio = a / b
        se = (va + ratio**2 * vb).sqrt() / abs(b)
        if how == "linear":
            ends = [ratio - 1 - c * se, ratio - 1 + c * se]
        elif how == "log":
            ends = [(ratio.ln() + side * c * se / ratio).exp() - 1 for side in (-1, 1)]
        else:
            spread = b * b - c * c * vb
            root = ((a * b) ** 2 - spread * (a * a - c * c * va)).sqrt()
            ends = [(a * b + side * root) / spread - 1 for side in (-1, 1)]
        true = sorted(end if b > 0 else -end for end in ends)
    assert (found.low, found.high) == pytest.approx((float(true[0]), float(true[1])), rel=1e-9)


def test_no_share_of_a_mean_that_may_be_zero(tmp_path: Path) -> None:
    centred = SPENT - SPENT[V == 0].mean()
    for method in ("sequential", "bayesian"):
        report = analyzed(tmp_path, "mean:x", columns={"x": centred + 0.01}, method=method)
        row = report.metrics[0]
        assert isinstance(row.absolute, Effect)
        assert isinstance(row.relative, NotEstimable)
        assert isinstance(row.bayes, NotEstimable)
        assert "within its own error of zero" in row.bayes.not_estimable


def test_what_rounding_leaves_is_no_variance(tmp_path: Path) -> None:
    columns = {"x": SPENT, "copy": SPENT * 0.7, "d": SPENT * 3.3}
    (copied,) = analyzed(tmp_path, "mean:x", columns=columns, covariates=["copy"]).metrics
    (fixed,) = analyzed(tmp_path, "ratio:x/d", columns=columns).metrics
    assert copied.absolute == NotEstimable(
        "the covariates explain all of x; is one of them measured after the exposure?", fault=True
    )
    assert isinstance(fixed.absolute, NotEstimable)
    assert "x/d does not vary in either variant" in fixed.absolute.not_estimable


def test_values_that_one_variant_lacks_are_told(tmp_path: Path) -> None:
    seen = (V == 0) | (RNG.random(V.size) < 0.9)
    columns = {"x": pa.array(SPENT, mask=~seen), "y": pa.array(SPENT, mask=RNG.random(V.size) < 0.1)}
    flags = analyzed(tmp_path, "mean:x", "mean:y", columns=columns).quality.flags
    assert [flag for flag in flags if "do not compare" in flag] == [flag for flag in flags if "x: the share" in flag]
    assert len(flags) == 3
