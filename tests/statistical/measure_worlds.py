"""Worlds with known truths for the reports of `measure`, and how often the reports are right in them.

    python -m tests.statistical.measure_worlds [--worlds N] [--surrogates N]

Each kind of world is one in which a common method is wrong: correlation over customers finds a surrogate that is none,
the last touch credits the offer that does nothing, and customers of several channels spend more for another reason.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from engine.analysis.measure.channels import measure_channels
from engine.analysis.measure.journeys.attribution import AttributionOptions, measure_attribution
from engine.analysis.measure.kpis.edge_fit import EffectPairs, carry_effect, fit_edge, is_surrogate
from engine.analysis.measure.sources import EventSource
from engine.analysis.stats.estimate import Effect, NotEstimable
from tests.analysis.measure.worlds import LET_IN, OFFERS, true_effect, write_channel_world, write_world

Surrogate = Literal["valid", "unrelated", "direct"]


class SurrogateRuns(NamedTuple):
    """How many runs called the lead a surrogate, how many slopes were covered, and how many carried effects."""

    runs: int
    validated: int
    slopes: tuple[int, int]
    carried: tuple[int, int]


def past_effects(rng: np.random.Generator, kind: Surrogate, experiments: int = 20) -> tuple[EffectPairs, np.ndarray]:
    """Effects on a lead and a lag whose errors correlate by 0.6 in every world; and the true effects on the lag.

    The lag follows the lead with a slope of 0.5 (`valid`), does not (`unrelated`), or moves mostly by other ways too
    (`direct`). Most experiments do little.
    """
    true = rng.standard_t(4, experiments)
    slope = 0.0 if kind == "unrelated" else 0.5
    lag = slope * true + rng.normal(0, {"valid": 0.05, "unrelated": 0.6, "direct": 2.0}[kind], experiments)
    spread = 0.4 * rng.uniform(0.7, 1.3, experiments)
    error = rng.normal(size=(2, experiments))
    lead_hat = true + spread * error[0]
    lag_hat = lag + spread * (0.6 * error[0] + 0.8 * error[1])
    return EffectPairs(lead_hat, lag_hat, spread**2, spread**2, 0.6 * spread**2), lag


def run_surrogates(kind: Surrogate, runs: int, seed: int = 1) -> SurrogateRuns:
    """Fits the edge of each run on all experiments but the last, and carries the last one's lead."""
    rng = np.random.default_rng(seed)
    validated = covered = fitted = carried = inside = 0
    for _ in range(runs):
        pairs, lag = past_effects(rng, kind)
        found = fit_edge(EffectPairs(*(column[:-1] for column in pairs)))
        if isinstance(found, NotEstimable):
            continue
        fitted += 1
        covered += found.low <= (0.0 if kind == "unrelated" else 0.5) <= found.high
        if is_surrogate(found):
            validated += 1
            carried += 1
            one = carry_effect(found, float(pairs.lead[-1]), float(pairs.lead_variance[-1]))
            inside += bool(one.low <= lag[-1] <= one.high)
    return SurrogateRuns(runs, validated, (covered, fitted), (inside, carried))


def run_credit(worlds: int, seed: int = 0) -> tuple[int, int, int]:
    """Of confounded worlds: intervals of causal credit that cover, all of them, and worlds that rules misread."""
    covered = total = misled = 0
    for at in range(seed, seed + worlds):
        with tempfile.TemporaryDirectory() as folder:
            source = EventSource(log_dir=write_world(Path(folder), at))
            report = measure_attribution(source, AttributionOptions(by="offer"))
        if isinstance(report.causal, NotEstimable):
            continue
        for row in report.causal:
            if isinstance(row.orders, Effect):
                total += 1
                covered += row.orders.low <= true_effect(row.offer) <= row.orders.high
        best = Counter(max(report.credits, key=lambda one: one.conversions[rule]).name for rule in ("last", "markov"))
        misled += best[str(OFFERS[0])] == 2
    return covered, total, misled


def run_channels(worlds: int, seed: int = 0) -> tuple[int, int]:
    """Of worlds in which channels add nothing: holdouts that cover the truth, and naive intervals that do."""
    holdouts = naive = 0
    for at in range(seed, seed + worlds):
        with tempfile.TemporaryDirectory() as folder:
            report = measure_channels(EventSource(log_dir=write_channel_world(Path(folder), at)))
        if isinstance(report.holdout, Effect) and isinstance(report.naive, Effect):
            holdouts += report.holdout.low <= LET_IN <= report.holdout.high
            naive += report.naive.low <= 0.0 <= report.naive.high
    return holdouts, naive


def show(line: str) -> None:
    """Write a line of the result."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=300)
    parser.add_argument("--surrogates", type=int, default=200)
    asked = parser.parse_args()
    runs = {kind: run_surrogates(kind, asked.surrogates) for kind in ("valid", "unrelated", "direct")}
    for kind, one in runs.items():
        show(
            f"surrogate {kind:10}: validated {one.validated}/{one.runs}, slope covered {one.slopes[0]}/{one.slopes[1]}"
        )
    right = runs["valid"].validated, runs["unrelated"].runs - runs["unrelated"].validated
    show(f"carried effects inside their interval: {runs['valid'].carried[0]}/{runs['valid'].carried[1]}")
    covered, total, misled = run_credit(asked.worlds)
    show(f"causal credit: {covered}/{total} covered ({covered / total:.1%}); misled by last and Markov: {misled}")
    holdouts, naive = run_channels(asked.worlds)
    show(f"channels: the holdout covers in {holdouts}/{asked.worlds}, the naive difference in {naive}/{asked.worlds}")
    is_right = min(right) >= 0.95 * asked.surrogates and 0.93 <= covered / total <= 0.97
    return 0 if is_right and holdouts >= 0.92 * asked.worlds and naive == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
