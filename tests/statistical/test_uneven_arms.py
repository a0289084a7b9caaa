"""A/A experiments read daily for 30 days, and effects: level and coverage where arms are uneven or outcomes few.

The limits are the nominal rates plus three standard errors of the number of runs. `make calibrate` prints every split,
outcome and traffic from more runs.
"""

import math

import numpy as np
import pytest

from engine.analysis import analyze_table
from engine.analysis.aggregates.aggregate import Group
from engine.analysis.design.methods import Inference, Method
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.stats import proportions
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import estimate_arms
from engine.analysis.stats.moments import Moments, Outcomes, sample_moments
from tests.statistical.cells import ALPHA, Flags, is_estimable, keeps, run_cell, sides
from tests.statistical.outcomes import OUTCOMES, World

RUNS = 300
DAYS = 30
SPEC = {"share": "proportion:y", "mean": "mean:y", "ratio": "ratio:y/d", "cuped": "mean:y|x"}
METHODS: tuple[Method, ...] = ("sequential", "fixed")


def slack(rate: float, runs: int = RUNS) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / runs)


@pytest.mark.parametrize(
    ("outcome", "daily", "split"),
    [
        ("conversion 3.0%", 500, 0.1),
        ("conversion 30.0%", 500, 0.99),
        ("revenue, 10.0% buy, sigma 1", 500, 0.9),
        ("revenue, 10.0% buy, sigma 1.5", 500, 0.2),
        ("revenue, 10.0% buy, sigma 1.5", 500, 0.5),
        ("revenue with CUPED", 500, 0.1),
        ("orders per session", 500, 0.05),
        ("revenue, 10 % buy, 10 % of it refunds", 500, 0.9),
        ("revenue, 10 % buy, Pareto 2.5", 500, 0.2),
    ],
)
def test_cells_keep_their_level_and_coverage(outcome: str, daily: int, split: float) -> None:
    cell = run_cell(np.random.default_rng([7, daily, round(100 * split)]), OUTCOMES[outcome], daily, split, RUNS, DAYS)
    assert cell.estimable > 0.5  # a cell without estimates could raise no alarm
    assert cell.alarms is not None
    assert cell.alarms <= ALPHA + slack(ALPHA)
    assert cell.anytime is not None
    assert cell.anytime >= 0.95 - slack(0.05)
    assert cell.fixed
    assert min(cell.fixed) >= 0.94 - slack(0.06)
    assert max(cell.fixed) <= 0.965 + slack(0.035)


def group(world: World, run: int, day: int, name: str) -> Group:
    n = world.n[run, day]
    mean = world.sums[run, day] / n
    moments = Moments(int(n), mean, world.products[run, day] - n * np.outer(mean, mean))
    size = world.sums[:, :, 0] if world.size is None else world.size
    outcomes = Outcomes(int(world.nonzero[run, day]), float(size[run, day]))
    return Group(int(n), {name: moments}, {name: (outcomes,)})


@pytest.mark.parametrize(
    "outcome",
    [
        "conversion 3.0%",
        "revenue, 10.0% buy, sigma 1.5",
        "revenue with CUPED",
        "revenue, 10 % buy, 10 % of it refunds",
        "gains and losses of 10 %",
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_the_simulation_is_the_report(outcome: str, method: Method) -> None:
    known, compared = OUTCOMES[outcome], 0
    measure = parse_measure(SPEC[known.kind])
    share, repeated = known.kind == "share", method == "sequential"
    for daily, split in ((50, 0.5), (500, 0.1), (2000, 0.99)):
        worlds = tuple(known.draw(np.random.default_rng(3), daily * part, 1, DAYS, 0.0) for part in (split, 1 - split))
        assert len(worlds) == 2
        a, b = sides(known, worlds)
        made = is_estimable(a, b, share=share, repeated=repeated)
        for day in (9, 29):
            groups = {name: group(world, 0, day, measure.name) for name, world in zip("ab", worlds, strict=True)}
            row = compare(measure, "b", Evidence(control="a", groups=groups), Inference(method=method))
            if _is_small_table(row.mean, row.units) and share and not repeated:
                continue
            assert made[0, day] == isinstance(row.absolute, Effect)
            for found, relative in ((row.absolute, False), (row.relative, True)):
                for effect in (-0.5, -0.1, 0.0, 0.1, 1.0, 3.0):
                    target = effect if relative else effect * known.mean
                    kept: Flags = keeps(a, b, target, relative=relative, share=share, repeated=repeated, level=ALPHA)
                    if isinstance(found, Effect):
                        compared += 1
                        assert (found.low <= target <= found.high) == kept[0, day]
    assert compared


def _is_small_table(mean: dict[str, float], units: dict[str, int]) -> bool:
    counts = [round(mean[name] * units[name]) for name in ("a", "b")]
    return proportions.is_small((counts[0], counts[1]), (units["a"], units["b"]))


def unequal_units(rng: np.random.Generator, n: int, name: str) -> Group:
    """Units with Pareto (1.5) numbers of rows, each row a success by a rate of the unit's own."""
    rows = np.minimum(1 + rng.pareto(1.5, n).astype(int), 400)
    found = rng.binomial(rows, rng.beta(5, 20, n))
    outcomes = Outcomes(int(np.count_nonzero(found)), float(found.sum()))
    return Group(n, {name: sample_moments(np.column_stack([found, rows]).astype(float))}, {name: (outcomes,)})


def test_units_with_very_unequal_numbers_of_rows_are_covered() -> None:
    rng, ratio, covered, naive, made = np.random.default_rng(6), parse_measure("ratio:y/rows"), 0, 0, 0
    for _ in range(500):
        groups = {side: unequal_units(rng, n, ratio.name) for side, n in (("a", 120), ("b", 900))}
        effect = compare(ratio, "b", Evidence(control="a", groups=groups), Inference(method="fixed")).absolute
        plain = estimate_arms(groups["a"].moments[ratio.name], groups["b"].moments[ratio.name], ratio)
        if isinstance(effect, Effect) and not isinstance(plain, NotEstimable):
            made += 1
            covered += effect.low <= 0 <= effect.high
            naive += abs(effect.estimate) <= 1.97 * math.sqrt(plain[0].variance + plain[1].variance)
    assert made > 300
    assert covered / made >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / made)
    assert naive < covered


def table(control: list[float], variant: list[float]) -> dict[str, list[object]]:
    return {"variant": ["a"] * len(control) + ["b"] * len(variant), "y": [*control, *variant]}


@pytest.mark.parametrize("control", ["a", "b"])
@pytest.mark.parametrize("least", [0.0, 0.01])
@pytest.mark.parametrize("method", METHODS)
def test_an_arm_in_which_nothing_happened_is_not_known_exactly(control: str, least: float, method: Method) -> None:
    import pyarrow as pa  # noqa: PLC0415

    frame = pa.table(table([20.0] * 45 + [0.0] * 405, [least] + [0.0] * 24))
    weights = {"a": 450.0, "b": 25.0}
    report = analyze_table(
        frame, variant="variant", control=control, metrics=["mean:y"], method=method, weights=weights
    )
    found = report.metrics[0].absolute
    assert isinstance(found, NotEstimable)
    assert "too few outcomes" in found.not_estimable
    assert report.recommendation.verdict == "keep running"
    bought = pa.table(table([1.0] * 45 + [0.0] * 405, [0.0] * 25))
    share = analyze_table(
        bought, variant="variant", control=control, metrics=["proportion:y"], method=method, weights=weights
    )
    assert share.recommendation.verdict == "keep running"
    exact = share.metrics[0].absolute
    assert isinstance(exact, NotEstimable if method == "sequential" else Effect)


@pytest.mark.parametrize("method", METHODS)
def test_an_arm_in_which_much_should_have_happened_is_found_out(method: Method) -> None:
    import pyarrow as pa  # noqa: PLC0415

    frame = pa.table(table([1.0] * 400 + [0.0] * 8_600, [0.0] * 1_000))
    report = analyze_table(
        frame,
        variant="variant",
        control="a",
        metrics=["proportion:y"],
        method=method,
        weights={"a": 9.0, "b": 1.0},
    )
    assert report.recommendation.verdict == "stop"


def test_the_exact_test_and_its_interval_agree() -> None:
    for one in range(9):
        for other in range(21):
            sizes = (35, 60)
            found, ratio = proportions.exact_effects((one, other), sizes, ALPHA)
            assert found.p is not None
            assert (found.p <= ALPHA) == (not found.low <= 0 <= found.high)
            assert found.low < found.high
            if isinstance(ratio, Effect):
                assert (found.p <= ALPHA) == (not ratio.low <= 0 <= ratio.high)
