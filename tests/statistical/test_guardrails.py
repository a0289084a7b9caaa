"""A/A experiments with ten guardrails and two variants: how often any guardrail says stop.

The limit is 5.5 % plus three standard errors of the number of runs. The long run, also read daily for 30 days, is
`make calibrate-verdicts`, which sets RUNS.
"""

import math
import os
import sys

import msgspec
import numpy as np
import pytest

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.design.methods import Inference, Method
from engine.analysis.design.metrics import Measure, parse_measure
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.report.guardrails import classify_guardrails, share_level
from engine.analysis.stats.moments import Moments, sample_moments

RUNS = int(os.environ.get("RUNS", "0"))
GUARDRAILS = [f"g{at}" for at in range(10)]
VARIANTS = ("control", "a", "b")
MEASURES: list[Measure] = [
    msgspec.structs.replace(parse_measure(f"mean:{name}"), role="guardrail", margin=0.0) for name in GUARDRAILS
]
Looks = list[dict[str, Group]]


def count_stops(method: Method, *, runs: int, looks: int, per_look: int, seed: int) -> tuple[int, int]:
    """The runs in which any look has a harmed guardrail: by joint intervals, and by each one's own."""
    rng = np.random.default_rng(seed)
    inference = Inference(method=method)
    stops = alone = 0
    for _ in range(runs):
        joint, own = False, False
        for groups in accumulate(rng, looks, per_look):
            evidence = Evidence(control="control", groups=groups)
            rows = [compare(one, name, evidence, inference) for one in MEASURES for name in VARIANTS[1:]]
            own |= any(row.guard == "harmed" for row in classify_guardrails(rows))
            shared = share_level(rows, {measure.name: measure for measure in MEASURES}, evidence, inference)
            joint |= any(row.guard == "harmed" for row in classify_guardrails(shared))
        stops, alone = stops + joint, alone + own
    return stops, alone


def accumulate(rng: np.random.Generator, looks: int, per_look: int) -> Looks:
    """The groups at each look; guardrails of one unit correlate by 0.3, as those of one customer do."""
    totals: dict[str, list[Moments]] = {}
    found: Looks = []
    for _ in range(looks):
        for name in VARIANTS:
            common = rng.standard_normal((per_look, 1))
            values = 10 + math.sqrt(0.3) * common + math.sqrt(0.7) * rng.standard_normal((per_look, len(GUARDRAILS)))
            new = [sample_moments(values[:, [at]]) for at in range(len(GUARDRAILS))]
            old = totals.get(name)
            totals[name] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
        groups = {name: Group(own[0].n, dict(zip(GUARDRAILS, own, strict=True))) for name, own in totals.items()}
        found.append(groups)
    return found


@pytest.mark.parametrize(
    ("method", "runs", "looks"), [("fixed", RUNS or 300, 1), ("sequential", RUNS or 40, 30 if RUNS else 10)]
)
def test_ten_guardrails_of_two_variants_rarely_stop_an_aa_experiment(method: Method, runs: int, looks: int) -> None:
    stops, alone = count_stops(method, runs=runs, looks=looks, per_look=300, seed=20_261_129)
    sys.stdout.write(f"{method:10} {runs} runs: false stop {stops / runs:.1%}, by own intervals {alone / runs:.1%}\n")
    assert stops / runs <= 0.055 + 3 * math.sqrt(0.055 * 0.945 / runs)
    if method == "fixed":
        assert alone / runs > 0.15  # without the joint level
