"""Switchbacks in shops whose stores, hours and days differ, and how often their intervals hold the true effect.

    python -m tests.statistical.switchback_worlds [--runs N]

The variants are drawn by the engine's design. In the first twentieth of a period customers are still under the variant
of the period before; the washout leaves them out.
"""

import argparse
import math
import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.analysis.aggregates.aggregate import Group, Groups
from engine.analysis.aggregates.strata import SLOT, family_of, join_thin_slots, poststratify
from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.moments import sample_moments
from engine.catalog.plan.switchback import compile_switchback

HOURS = 2.0
PER_DAY = 12
VARIANTS = ("flat", "surge")
CARRIED = 0.05
"""The share of a period's customers who are still under the variant before."""
MEASURE = Measure(name="revenue", kind="mean", y=Term("x", "n"), stratified=True)
Floats = NDArray[np.float64]


class Coverage(NamedTuple):
    """The runs, those whose 95 % interval holds the true relative effect, and the mean of the estimates."""

    runs: int
    held: int
    mean: float
    spread: float


def run_switchbacks(
    effect: float,
    *,
    runs: int,
    stores: int = 8,
    days: int = 6,
    washout: bool = True,
    uneven: bool = False,
    seed: int = 1,
) -> Coverage:
    """Simulate switchbacks with a relative `effect` on revenue per customer and report each once."""
    rng = np.random.default_rng(seed)
    weights = (0.25, 0.75) if uneven else (0.5, 0.5)
    estimates, held = [], 0
    for run in range(runs):
        drawn = _draw(f"run-{seed}-{run}", weights, stores, days)
        row = compare(MEASURE, "surge", _evidence(rng, drawn, effect, washout=washout), Inference(method="fixed"))
        assert isinstance(row.relative, Effect)
        estimates.append(row.relative.estimate)
        held += row.relative.low <= effect <= row.relative.high
    return Coverage(runs, held, float(np.mean(estimates)), float(np.std(estimates)) / math.sqrt(runs))


def _draw(seed: str, weights: tuple[float, float], stores: int, days: int) -> NDArray[np.int64]:
    """The variant by store and period, after one period that only leaves its effect behind."""
    design = compile_switchback(seed, every=HOURS * 3600, washout=0.0, start=0.0, weights=weights)
    times = [HOURS * 3600 * (period + 0.5) for period in range(-1, days * PER_DAY)]
    return np.array([[design.choose(f"S{store}", time) for time in times] for store in range(stores)])


def _evidence(rng: np.random.Generator, drawn: NDArray[np.int64], effect: float, *, washout: bool) -> Evidence:
    """The sums of each store and period, as a report stratifies them by store."""
    before, variant = drawn[:, :-1], drawn[:, 1:]
    stores, periods = variant.shape
    hour = np.arange(periods) % PER_DAY
    level = np.exp(rng.normal(0, 0.5, (stores, 1))) * (1.5 + np.sin(2 * math.pi * hour / PER_DAY))
    level = level * np.exp(0.1 * np.cumsum(rng.normal(0, 0.3, periods)))  # a shop's trend
    visits = rng.poisson(30 * (1.5 - np.cos(2 * math.pi * hour / PER_DAY)), (stores, periods)) + 1
    carried = np.zeros_like(visits) if washout else rng.binomial(visits, CARRIED * 8)
    kept = rng.binomial(visits, 1 - CARRIED) if washout else visits
    revenue = level * (
        rng.gamma(0.5 * np.maximum(kept - carried, 1e-9)) * 2 * (1 + effect * variant)
        + rng.gamma(0.5 * np.maximum(carried, 1e-9)) * 2 * (1 + effect * before)
    )
    groups: Groups = {}
    for store in range(stores):
        for slot in range(PER_DAY):
            for index, name in enumerate(VARIANTS):
                own = (variant[store] == index) & (hour == slot)
                columns = np.stack([revenue[store, own], kept[store, own].astype(np.float64)], axis=1)
                moments = {MEASURE.name: sample_moments(columns)}
                groups[name, False, f"S{store}{SLOT}{slot}", 0] = Group(int(own.sum()), moments)
    strata: dict[object, dict[str, Group]] = {}
    for (name, _, stratum, _), group in join_thin_slots(groups, VARIANTS).items():
        strata.setdefault(stratum, {})[str(name)] = group
    found = poststratify(list(strata.values()), [MEASURE.name], [family_of(stratum) for stratum in strata])
    return Evidence(control="flat", groups=found.weighted, whole=found.whole)


def main(runs: int) -> int:
    """Print the coverage in each world; 1 if one is more than three standard errors below 95 %."""
    worst = True
    for effect in (0.0, 0.05, 0.2):
        for uneven in (False, True):
            for stores, days in ((8, 6), (4, 14), (30, 4)):
                got = run_switchbacks(effect, runs=runs, stores=stores, days=days, uneven=uneven)
                share, error = got.held / got.runs, 3 * math.sqrt(0.95 * 0.05 / got.runs)
                worst &= share >= 0.95 - error
                shape = f"{stores} stores, {days} days, {'25/75' if uneven else '50/50'}"
                sys.stdout.write(f"{shape}, effect {effect:+.0%}: {share:.1%} covered, mean {got.mean:+.3%}\n")
    return int(not worst)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    sys.exit(main(parser.parse_args().runs))
