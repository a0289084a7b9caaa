"""Known answers: small vectors with their derivation, from independent libraries and closed forms."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import special

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.aggregates.strata import poststratify
from engine.analysis.design.methods import Inference, Relative
from engine.analysis.design.metrics import parse_measure
from engine.analysis.report.sample_ratio import chi_square, sequential_ratio
from engine.analysis.stats import proportions
from engine.analysis.stats.bayes import (
    Prior,
    chances_to_be_best,
    expected_losses,
    normal_posterior,
    update_normal,
)
from engine.analysis.stats.beta import (
    Beta,
    beta_binomial_posterior,
    beta_chance_to_win,
    beta_expected_loss,
    update_beta,
)
from engine.analysis.stats.distributions import chi_square_sf, normal_cdf, normal_quantile
from engine.analysis.stats.effects import (
    absolute_effect,
    interval_scale,
    linear_delta_effect,
    relative_effect,
    welch_df,
)
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm, estimate_arms
from engine.analysis.stats.moments import sample_moments
from engine.analysis.stats.multiplicity import benjamini_hochberg, holm
from engine.analysis.stats.sequential import (
    asymptotic_multiplier,
    asymptotic_p,
    group_boundaries,
    group_multiplier,
    group_p,
    spent_error,
    sprt_multiplier,
    tuned_rho,
)

VECTORS = Path(__file__).resolve().parents[2] / "vectors"
CLOSE = {"rel": 1e-8, "abs": 1e-14}


def vector(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((VECTORS / f"stats_{name}.json").read_text())
    return read


def two_arms(given: dict[str, Any]) -> tuple[Arm, Arm]:
    one, other = (Arm(n, m, v / n) for n, m, v in zip(given["n"], given["mean"], given["variance"], strict=True))
    return one, other


def interval(effect: Effect) -> list[float]:
    return [effect.low, effect.high]


def test_welch_on_two_small_samples() -> None:
    given = vector("small")
    moments = [sample_moments(np.array(given[side])[:, None]) for side in ("control", "treatment")]
    found = estimate_arms(moments[0], moments[1], parse_measure("mean:y"))
    assert isinstance(found, tuple)
    width = interval_scale(found[0], found[1], Inference(method="fixed"))
    assert not hasattr(width, "not_estimable")
    effect = absolute_effect(found[0], found[1], width)
    expected = given["welch"]
    assert effect.estimate / effect.se == pytest.approx(expected["t"], **CLOSE)
    assert welch_df(found[0], found[1]) == pytest.approx(expected["df"], **CLOSE)
    assert effect.p == pytest.approx(expected["p"], **CLOSE)
    assert interval(effect) == pytest.approx(expected["ci"], **CLOSE)


def test_small_counts_are_exact() -> None:
    given = vector("small")
    successes = tuple(sum(given["converted"][side]) for side in ("control", "treatment"))
    expected = given["proportions"]
    assert proportions.is_small((successes[0], successes[1]), (20, 27))
    counts = (successes[0], successes[1])
    assert proportions.fisher_p(counts, (20, 27)) == pytest.approx(expected["fisher_p"], **CLOSE)
    for table in expected["difference"]:
        found = proportions.difference_interval(tuple(table["successes"]), tuple(table["sizes"]), 0.05)
        assert found == pytest.approx(table["interval"], abs=6e-5)
    assert proportions.ratio_interval(counts, (20, 27), 0.05) == pytest.approx(expected["ratio"], **CLOSE)


@pytest.mark.parametrize("how", ["fieller", "log", "linear"])
def test_relative_intervals(how: Relative) -> None:
    given = vector("relative")
    control, treatment = (
        Arm(n, m, v / n) for n, m, v in zip(given["n"], given["mean"], given["variance"], strict=True)
    )
    width = interval_scale(control, treatment, Inference(method="bayesian"))  # normal quantiles
    effect = relative_effect(control, treatment, width, how)  # type: ignore[arg-type] # wide enough
    assert isinstance(effect, Effect)
    assert interval(effect) == pytest.approx(given[how], **CLOSE)
    assert effect.se == pytest.approx(given["relative_se"], **CLOSE)


def test_fieller_and_the_difference_share_a_p_value() -> None:
    given = vector("relative")
    control, treatment = (
        Arm(n, m, v / n) for n, m, v in zip(given["n"], given["mean"], given["variance"], strict=True)
    )
    for method in ("fixed", "sequential"):
        width = interval_scale(control, treatment, Inference(method=method))  # type: ignore[arg-type] # both are methods
        share = relative_effect(control, treatment, width, "fieller")  # type: ignore[arg-type]
        assert isinstance(share, Effect)
        assert share.p == absolute_effect(control, treatment, width).p  # type: ignore[arg-type]


def test_normal_posterior_with_an_informative_prior() -> None:
    given = vector("relative")
    control, treatment = (
        Arm(n, m, v / n) for n, m, v in zip(given["n"], given["mean"], given["variance"], strict=True)
    )
    found = linear_delta_effect(control, treatment)
    assert isinstance(found, tuple)
    expected, prior = given["normal"], Prior(*given["normal"]["prior"])
    assert update_normal(*found, prior) == pytest.approx((expected["mean"], expected["sd"]), **CLOSE)
    posterior = normal_posterior(*found, prior, 0.05, rope=0.01)
    assert posterior.chance_to_win == pytest.approx(expected["chance_to_win"], **CLOSE)
    assert [posterior.low, posterior.high] == pytest.approx(expected["interval"], **CLOSE)
    assert posterior.expected_loss == pytest.approx(expected["expected_loss"], rel=1e-8)
    assert posterior.rope == pytest.approx(expected["rope_001"], rel=1e-8)


def test_beta_binomial_posteriors() -> None:
    given = vector("relative")
    expected = given["beta"]
    control, treatment = (update_beta(s, n) for s, n in zip(expected["successes"], given["n"], strict=True))
    assert beta_chance_to_win(control, treatment) == pytest.approx(expected["chance_to_win"], abs=1e-9)
    assert beta_expected_loss(control, treatment) == pytest.approx(expected["expected_loss"], rel=1e-5)
    for beta, bounds in zip((control, treatment), expected["intervals"], strict=True):
        assert list(beta.interval(0.05)) == pytest.approx(bounds, **CLOSE)
    ratio = beta_binomial_posterior(control, treatment, 0.05)
    draws = np.random.default_rng(1)
    simulated = draws.beta(treatment.a, treatment.b, 400_000) / draws.beta(control.a, control.b, 400_000) - 1
    error = simulated.std() * math.sqrt(0.025 * 0.975 / 400_000) / 0.0584  # of a normal's 2.5% quantile
    assert [ratio.low, ratio.high] == pytest.approx(np.quantile(simulated, [0.025, 0.975]).tolist(), abs=5 * error)


def test_asymptotic_confidence_sequence_day_by_day() -> None:
    given = vector("sequential")
    assert tuned_rho(5000, 0.05) == pytest.approx(given["rho"], **CLOSE)
    for day in given["days"]:
        units = int(sum(day["n"]))
        assert asymptotic_multiplier(units, 5000, 0.05) * day["se"] == pytest.approx(day["asympcs_halfwidth"], **CLOSE)
        assert asymptotic_p(day["est"] / day["se"], units, 5000, 0.05) == pytest.approx(day["asympcs_p"], **CLOSE)


def test_sample_ratio_at_once_and_daily() -> None:
    given = vector("sequential")
    assert sequential_ratio(given["units"], [0.5, 0.5], [10_000]) == pytest.approx(given["srm_p"], rel=1e-7)
    batch = given["batch"]
    assert sequential_ratio([batch["counts"]], [1, 1], [100])[0] == pytest.approx(batch["concentration_100"], rel=1e-7)
    assert sequential_ratio([batch["counts"]], [1, 1], [10_000])[0] == pytest.approx(
        batch["concentration_10000"], rel=1e-7
    )
    assert chi_square(batch["counts"], [1, 1]) == pytest.approx(batch["pearson"], **CLOSE)
    three = given["three"]
    assert chi_square(three["counts"], three["weights"]) == pytest.approx(three["pearson"], **CLOSE)


def test_an_arm_without_weight_is_no_mismatch() -> None:
    assert chi_square([5000, 5000, 0], [0.5, 0.5, 0.0]) == 1.0
    assert chi_square([5000, 5000, 1], [0.5, 0.5, 0.0]) == 0.0
    assert sequential_ratio([[5000, 5000, 0]], [0.5, 0.5, 0.0]) == [1.0]


def test_adjusted_p_values() -> None:
    given = vector("multiplicity")
    assert holm(given["p"]) == pytest.approx(given["holm"], **CLOSE)
    assert benjamini_hochberg(given["p"]) == pytest.approx(given["bh"], **CLOSE)
    assert benjamini_hochberg(given["p"], dependent=True) == pytest.approx(given["by"], **CLOSE)
    assert holm([]) == []


def test_group_sequential_boundaries() -> None:
    """Jennison and Turnbull 2000, tables of error-spending tests; Lan and DeMets with five equal looks, alpha 0.05."""
    looks = [0.2, 0.4, 0.6, 0.8, 1.0]
    fleming = group_boundaries(looks, [spent_error("obrien_fleming", at, 0.05) for at in looks])
    assert fleming == pytest.approx([4.8769, 3.3569, 2.6803, 2.2898, 2.0310], abs=2e-4)
    pocock = group_boundaries(looks, [spent_error("pocock", at, 0.05) for at in looks])
    assert pocock == pytest.approx([2.4380, 2.4268, 2.4101, 2.3966, 2.3859], abs=2e-4)


def test_distributions_agree_with_scipy() -> None:
    for z in (-30.0, -5.0, -1.0, 0.0, 0.3, 4.0):
        assert normal_cdf(z) == pytest.approx(special.ndtr(z), rel=1e-12)
    for level in (1e-12, 0.01, 0.5, 0.975, 1 - 1e-9):
        assert normal_quantile(level) == pytest.approx(special.ndtri(level), rel=1e-12, abs=1e-15)
    for df in (1, 2, 3, 4, 7, 10, 199):
        for x in (0.0, 1e-9, 0.5, 3.0, 20.0, 250.0, 1200.0):
            assert chi_square_sf(df, x) == pytest.approx(special.chdtrc(df, x), rel=1e-10)


# Eight units an arm: what they spent, what they had spent before, and where they live.
SPENT = ([3.0, 5.0, 4.0, 9.0, 7.0, 2.0, 6.0, 8.0], [6.0, 9.0, 5.0, 12.0, 8.0, 4.0, 11.0, 7.0])
BEFORE = ([1.0, 2.0, 2.0, 4.0, 3.0, 1.0, 2.0, 3.0], [2.0, 4.0, 1.0, 4.0, 2.0, 1.0, 5.0, 3.0])
HOME = ([0, 0, 0, 1, 1, 0, 1, 1], [0, 1, 0, 1, 1, 0, 1, 0])


def test_slopes_of_each_arm_are_the_interacted_regressions() -> None:
    """Lin 2013: y ~ t + (x - mean x) + t (x - mean x); each arm's residual variance over its units is the error."""
    y, x = np.concatenate(SPENT), np.concatenate(BEFORE)
    t = np.repeat([0.0, 1.0], 8)
    centred = x - x.mean()
    design = np.column_stack([np.ones(16), t, centred, t * centred])
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = y - design @ beta
    error = math.sqrt(sum(float(part @ part) / 7 / 8 for part in (residual[:8], residual[8:])))
    sides = [sample_moments(np.column_stack([a, b])) for a, b in zip(SPENT, BEFORE, strict=True)]
    lin = msgspec.structs.replace(parse_measure("mean:y|x"), adjust="lin")
    found = estimate_arms(sides[0], sides[1], lin)
    assert isinstance(found, tuple)
    assert found[1].value - found[0].value == pytest.approx(beta[1], **CLOSE)
    assert math.sqrt(found[0].variance + found[1].variance) == pytest.approx(error, **CLOSE)
    shared = estimate_arms(sides[0], sides[1], parse_measure("mean:y|x"))
    assert isinstance(shared, tuple)
    assert error**2 <= shared[0].variance + shared[1].variance


def test_strata_by_hand() -> None:
    """Sum over strata of w (m1 - m0) with variance w^2 (v1 / n1 + v0 / n0), w the stratum's share of all units."""
    parts: list[dict[str, Group]] = []
    difference = variance = 0.0
    for home in (0, 1):
        rows = [np.array(y)[np.array(at) == home] for y, at in zip(SPENT, HOME, strict=True)]
        share = sum(map(len, rows)) / 16
        difference += share * (rows[1].mean() - rows[0].mean())
        variance += share**2 * sum(part.var(ddof=1) / len(part) for part in rows)
        parts.append(
            {name: Group(len(r), {"y": sample_moments(r[:, None])}) for name, r in zip("ab", rows, strict=True)}
        )
    weighted, whole, strata = poststratify(parts, ["y"])
    found = estimate_arms(weighted["a"].moments["y"], weighted["b"].moments["y"], parse_measure("mean:y"))
    assert isinstance(found, tuple)
    assert strata == 2
    assert found[1].value - found[0].value == pytest.approx(difference, **CLOSE)
    assert found[0].variance + found[1].variance == pytest.approx(variance, **CLOSE)
    assert [whole[name].units for name in "ab"] == [8, 8]


def test_strata_too_small_for_a_variance_are_taken_together() -> None:
    one = {name: Group(1, {"y": sample_moments(np.array([[value]]))}) for name, value in (("a", 1.0), ("b", 2.0))}
    other = {name: Group(1, {"y": sample_moments(np.array([[value]]))}) for name, value in (("a", 3.0), ("b", 5.0))}
    weighted, whole, strata = poststratify([one, other], ["y"])
    assert strata == 1
    assert weighted["a"].moments["y"] == whole["a"].moments["y"]


def test_the_loss_to_the_best_of_many_by_simulation() -> None:
    means, sds = [0.0, 0.1, 0.5, -3.0], [0.1, 0.3, 0.2, 0.05]
    draws = np.random.default_rng(2).normal(means, sds, (200_000, 4))
    largest = draws.max(axis=1)
    error = 5 * float(largest.std()) / math.sqrt(200_000)
    assert expected_losses(means, sds) == pytest.approx((largest.mean() - np.array(means)).tolist(), abs=error)


def test_a_look_ends_where_its_repeated_p_value_is_below_alpha() -> None:
    for units, z in ((2000, 3.3), (4000, 2.6), (5000, 2.0), (5000, 2.1)):
        bound = group_multiplier(units, 5000, 5, "obrien_fleming", 0.05)
        assert bound is not None
        assert (group_p(z, units, 5000, 5, "obrien_fleming") < 0.05) is (z > bound)
    assert group_p(9.0, 500, 5000, 5, "pocock") == 1.0  # before the first look


def test_the_mixture_sprt_by_hand() -> None:
    """Johari et al. 2017, Proposition 5: V (V + tau^2) / tau^2 (2 log(1 / alpha) - log(V / (V + tau^2))), its root."""
    sides = Arm(1000, 20.0, 0.04), Arm(1200, 21.0, 0.05)
    variance, tau = 0.09, 0.02 * 20.0
    half = math.sqrt(
        variance * (variance + tau**2) / tau**2 * (2 * math.log(20) - math.log(variance / (variance + tau**2)))
    )
    width = interval_scale(*sides, Inference(method="sequential", tau=0.02))
    assert not hasattr(width, "not_estimable")
    effect = absolute_effect(*sides, width)  # type: ignore[arg-type] # a scale, as asserted
    assert [effect.low, effect.high] == pytest.approx([1 - half, 1 + half], **CLOSE)
    assert sprt_multiplier(0.3, tau, 0.05) * 0.3 == pytest.approx(half, **CLOSE)
    ratio = math.sqrt(variance / (variance + tau**2)) * math.exp(tau**2 / (2 * variance * (variance + tau**2)))
    assert effect.p == pytest.approx(min(1.0, 1 / ratio), **CLOSE)


def test_the_best_of_values_known_unequally_well() -> None:
    """Where one is all but known, the others' distribution functions at it are the answer; they are a probability."""
    assert chances_to_be_best([0.0, 0.3], [1.0, 1e-4]) == pytest.approx(
        [special.ndtr(-0.3), special.ndtr(0.3)], abs=1e-8
    )
    three = chances_to_be_best([5.0, 5.3, 5.1], [1e-6, 2.0, 1.0])
    assert three[0] == pytest.approx(special.ndtr(-0.15) * special.ndtr(-0.1), abs=1e-6)
    assert sum(three) == pytest.approx(1.0, abs=1e-10)
    assert chances_to_be_best([0.0, 1e6], [1.0, 1.0]) == pytest.approx([0.0, 1.0], abs=1e-11)


def test_posteriors_of_unlike_shares() -> None:
    """Of uniforms the ratio has quantiles 2q and 1 / (2 (1 - q)); where one share is all but known, the other tells."""
    flat = beta_binomial_posterior(Beta(1, 1), Beta(1, 1), 0.05)
    assert (flat.low, flat.high) == (pytest.approx(2 * 0.025 - 1, abs=1e-12), pytest.approx(1 / 0.05 - 1, rel=1e-11))
    known = Beta(6e7, 4e7)
    against = beta_binomial_posterior(Beta(2, 2), known, 0.05)
    assert against.chance_to_win == pytest.approx(special.betainc(2, 2, 0.6), abs=1e-6)
    assert against.high == pytest.approx(0.6 / special.betaincinv(2, 2, 0.025) - 1, rel=1e-5)
    # P(T <= 0.975-quantile ratio C) of Beta(2, 2) over Beta(4, 3), by adaptive quadrature with the ends as break points
    small = beta_binomial_posterior(Beta(4, 3), Beta(2, 2), 0.05)
    assert (small.low, small.high) == (pytest.approx(-0.84156771460431), pytest.approx(1.685855377318))


def test_an_arm_of_as_many_units_as_slopes_has_no_variance_left() -> None:
    rng = np.random.default_rng(4)
    small, large = rng.normal(5, 1, (3, 3)), rng.normal(5, 1, (9, 3))
    measure = msgspec.structs.replace(parse_measure("mean:y|a,b"), adjust="lin")
    refused = estimate_arms(sample_moments(small), sample_moments(large), measure)
    assert refused == NotEstimable(
        "control has 3 units with a value, too few for slopes of its own on 2 covariates; cuped has one slope for all",
        remedy="More units or `adjust: cuped` would change this.",
    )
    exact = np.column_stack([large[:, 1] * 2 + large[:, 2] / 3, large[:, 1:]])
    for sides in ((exact, large), (large, exact)):
        found = estimate_arms(*map(sample_moments, sides), measure)
        assert not isinstance(found, NotEstimable)
        assert min(side.variance for side in found[:2]) >= 0
