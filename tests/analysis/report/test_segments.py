"""Effects by segment are as wide as the method that the report is read by."""

import math

import numpy as np
import pytest

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.design.methods import Inference, Method
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.compare import Evidence
from engine.analysis.report.segments import compare_segments
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.moments import sample_moments
from engine.analysis.stats.sequential import asymptotic_multiplier, group_multiplier

RNG = np.random.default_rng(51)
PARTS = {
    part: Evidence(
        control="a", groups={side: Group(500, {"y": sample_moments(RNG.normal(5, 1, (500, 1)))}) for side in "ab"}
    )
    for part in ("x", "y", "z")
}


def reach(method: Method) -> float:
    """How far the first shrunken interval goes from its middle, which lies a little off the estimate."""
    settings = Inference(method=method, planned=2000)
    (found,) = compare_segments("part", [parse_measure("mean:y")], ["b"], PARTS, settings)
    effect = found.effects[0].shrunken
    assert isinstance(effect, Effect)
    return effect.high - effect.low


@pytest.mark.parametrize("method", ["sequential", "group_sequential"])
def test_looks_widen_the_shrunken_intervals_too(method: Method) -> None:
    bounds = {
        "sequential": asymptotic_multiplier(3000, 2000, 0.05),
        "group_sequential": group_multiplier(3000, 2000, 5, "obrien_fleming", 0.05) or math.nan,
    }
    # The anytime method pools the variances of the arms, which differ by a percent here.
    rel = 1e-6 if method == "group_sequential" else 0.01
    assert reach(method) / reach("fixed") == pytest.approx(bounds[method] / 1.959963984540054, rel=rel)
