"""Quantiles of log-normal values where arms are uneven: alarms at ten looks in 30 days, and coverage of reports."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.aggregates.quantiles import sample_quantile
from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import Effect
from tests.statistical.outcomes import Floats

LEVELS = (0.5, 0.9, 0.99)
QUANTILE_SPLITS = (0.5, 0.2, 0.1, 0.9, 0.02)
QUANTILE_TRAFFIC = (3, 50, 300)
EFFECTS = (0.0, 0.1, 1.0)
LOOKS = range(2, 30, 3)


@dataclass(frozen=True)
class QuantileCell:
    """The share of runs with an estimate, of those with a false alarm, and the coverages at a single look."""

    estimable: float
    alarms: float
    fixed: list[float]


def run_quantile_cell(rng: np.random.Generator, level: float, daily: float, split: float, runs: int) -> QuantileCell:
    """A row per unit; control has the share `split` of them."""
    measure = Measure("q", "quantile", Term("x"), quantile=level)
    truth = math.exp(normal_quantile(level))
    alarms = estimated = 0
    covered: list[list[bool]] = [[] for _ in range(2 * len(EFFECTS))]
    for _ in range(runs):
        ends = np.cumsum(rng.poisson(daily, 30))
        x, side = np.exp(rng.standard_normal(ends[-1])), rng.random(ends[-1]) < split
        looks = [_estimate(measure, x[: ends[at]], side[: ends[at]], "sequential")[0] for at in LOOKS]
        known = [effect for effect in looks if effect is not None]
        estimated += bool(known)
        alarms += any(not effect.low <= 0 <= effect.high for effect in known)
        for at, effect in enumerate(EFFECTS):
            found = _estimate(measure, np.where(side, x, x * (1 + effect)), side, "fixed")
            for of, target in zip((0, 1), (effect * truth, effect), strict=True):
                own = found[of]
                if own is not None:
                    covered[2 * at + of].append(own.low <= target <= own.high)
    rates = [sum(own) / len(own) for own in covered if len(own) > 0.5 * runs]
    return QuantileCell(estimated / runs, alarms / max(estimated, 1), rates)


def _estimate(measure: Measure, x: Floats, side: Floats, method: str) -> tuple[Effect | None, Effect | None]:
    """Both effects of the report; None where it has no estimate."""
    arms = {
        name: sample_quantile(np.sort(x[own]), np.arange(int(own.sum())), measure.quantile or 0.5, label="x")
        for name, own in (("control", side), ("variant", ~side))
    }
    evidence = Evidence(control="control", groups={name: Group(0) for name in arms}, quantiles={"q": arms})
    row = compare(measure, "variant", evidence, Inference(method="fixed" if method == "fixed" else "sequential"))
    absolute, relative = row.absolute, row.relative
    return absolute if isinstance(absolute, Effect) else None, relative if isinstance(relative, Effect) else None
