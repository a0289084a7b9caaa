"""The rest of what our report has in common with independent libraries, on their data; skipped where that is absent."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.analysis import Report, analyze_table
from engine.analysis.design.methods import Inference
from engine.analysis.offpolicy.estimators import ips, snips
from engine.analysis.report.model import MetricReport
from engine.analysis.report.past_experiments import baseline_of_table
from engine.analysis.report.sample_ratio import chi_square, sequential_ratio
from engine.analysis.stats import proportions
from engine.analysis.stats.beta import Beta, beta_chance_to_win, beta_expected_loss, update_beta
from engine.analysis.stats.estimate import Bayes, Effect
from engine.analysis.stats.multiplicity import benjamini_hochberg, holm
from engine.analysis.stats.power import Baseline, compute_power, least_detectable_effect, sample_size
from engine.analysis.stats.sequential import group_boundaries, mixture_multiplier, spent_error

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "reference" / "stats"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the reference data is not beside the checkout")
CLOSE = {"rel": 1e-8, "abs": 1e-12}
USERS = "users"
MEANS = ("mean:revenue", "mean:orders", "ratio:orders/sessions", "ratio:revenue/sessions")
CUPED = ("cuped:revenue|pre_revenue", "cuped:orders|pre_orders")
PRIORS = (("flat", None), ("n0_sd03", (0.0, 0.3)), ("n001_sd005", (0.01, 0.05)))


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / "reference.json").read_text())
    return read


def reported(*metrics: str, file: str = USERS, **more: Any) -> Report:
    return analyze_table(str(FOLDER / f"{file}.parquet"), variant="variant", control="0", metrics=metrics, **more)


def first(*metrics: str, **more: Any) -> tuple[MetricReport, Effect, Effect]:
    metric = reported(*metrics, **more).metrics[0]
    assert isinstance(metric.absolute, Effect)
    assert isinstance(metric.relative, Effect)
    return metric, metric.absolute, metric.relative


def spec(name: str) -> str:
    return name.replace("cuped:", "mean:")


@pytest.mark.parametrize("name", MEANS)
def test_linear_relative_effects_are_gbstats(reference: dict[str, Any], name: str) -> None:
    expected = reference["gbstats"][f"{name}:relative:t"]
    _, _, relative = first(name, method="fixed", relative="linear")
    assert relative.estimate == pytest.approx(expected["expected"], **CLOSE)
    assert relative.se == pytest.approx(expected["se"], **CLOSE)
    assert [relative.low, relative.high] == pytest.approx(expected["ci"], rel=1e-6)  # its degrees of freedom differ
    assert relative.p == pytest.approx(expected["p"], rel=1e-3)


@pytest.mark.parametrize("name", CUPED)
def test_cuped_is_gbstats_and_spotify(reference: dict[str, Any], name: str) -> None:
    for ours, theirs in (("fixed", "t"), ("sequential", "seq5000")):
        expected = reference["gbstats"][f"{name}:absolute:{theirs}"]
        _, absolute, _ = first(spec(name), method=ours)
        assert absolute.estimate == pytest.approx(expected["expected"], **CLOSE)
        assert absolute.se == pytest.approx(expected["se"], **CLOSE)
        assert [absolute.low, absolute.high] == pytest.approx(expected["ci"], **CLOSE)
        assert absolute.p == pytest.approx(expected["p"], **CLOSE)
    expected = reference["spotify"][f"{name}:absolute"]
    metric, absolute, _ = first(spec(name), method="bayesian")
    assert absolute.estimate == pytest.approx(expected["difference"], **CLOSE)
    assert absolute.se == pytest.approx(expected["std_err"], rel=1e-5)  # it divides by other degrees of freedom
    assert metric.variance_reduction == pytest.approx(expected["variance_reduction_rate"], abs=2e-3)


@pytest.mark.parametrize("name", ["revenue|pre_revenue", "orders|pre_orders", "converted|pre_converted"])
def test_slopes_of_each_arm_are_lins_and_statsmodels(reference: dict[str, Any], name: str) -> None:
    expected = reference["formulas"][f"cuped[lin_per_group]:{name}"]
    _, absolute, relative = first(f"mean:{name}", adjust="lin", method="bayesian")
    assert absolute.estimate == pytest.approx(expected["abs_diff"], **CLOSE)
    assert absolute.se == pytest.approx(expected["abs_se"], **CLOSE)
    assert [absolute.low, absolute.high] == pytest.approx(expected["abs_ci_z"], **CLOSE)
    assert relative.se == pytest.approx(expected["rel_se_delta"], **CLOSE)
    if name.startswith("revenue"):
        robust = reference["statsmodels"]["cuped-lin[HC1]:revenue"]
        assert absolute.estimate == pytest.approx(robust["effect"], **CLOSE)
        assert absolute.se == pytest.approx(robust["se"], rel=1e-4)  # HC1's degrees of freedom are over both arms


def test_one_slope_is_ancova_but_for_the_difference_of_the_arms(reference: dict[str, Any]) -> None:
    _, absolute, _ = first("mean:revenue|pre_revenue", method="bayesian")
    for kind in ("HC0", "HC1", "HC2", "HC3"):
        expected = reference["statsmodels"][f"cuped-ancova[{kind}]:revenue"]
        assert absolute.estimate == pytest.approx(expected["effect"], rel=1e-6)
        assert absolute.se == pytest.approx(expected["se"], rel=5e-4)


def test_strata_are_gbstats_and_the_closed_form(reference: dict[str, Any]) -> None:
    expected = reference["formulas"]["poststrat:revenue|country"]
    _, absolute, relative = first("mean:revenue", stratum="country", method="fixed")
    assert absolute.estimate == pytest.approx(expected["diff"], **CLOSE)
    assert absolute.se == pytest.approx(expected["se"], **CLOSE)
    theirs = reference["gbstats_main"]
    assert absolute.estimate == pytest.approx(theirs["poststrat:revenue|country:absolute"]["expected"], **CLOSE)
    assert absolute.se == pytest.approx(theirs["poststrat:revenue|country:absolute"]["se"], rel=2e-4)
    assert relative.estimate == pytest.approx(theirs["poststrat:revenue|country:relative"]["expected"], **CLOSE)
    assert relative.se == pytest.approx(theirs["poststrat:revenue|country:relative"]["se"], rel=2e-4)


@pytest.mark.parametrize("name", ["revenue", "orders"])
def test_plain_means_are_spotifys_ambrosias_and_statsmodels(reference: dict[str, Any], name: str) -> None:
    _, fixed, _ = first(f"mean:{name}", method="fixed")
    _, normal, _ = first(f"mean:{name}", method="bayesian")
    theirs = reference["spotify"]
    for effect, key in ((fixed, "t"), (normal, "z")):
        expected = theirs[f"mean:{name}:absolute:{key}"]
        found = [effect.estimate, effect.low, effect.high, effect.se]
        wanted = [expected[part] for part in ("difference", "ci_lower", "ci_upper", "std_err")]
        assert found == pytest.approx(wanted, **CLOSE)
    assert fixed.p == pytest.approx(theirs[f"mean:{name}:absolute:t"]["p-value"], **CLOSE)
    assert fixed.p == pytest.approx(reference["ambrosia"][f"mean:{name}:absolute"]["pvalue"], **CLOSE)
    known = reference["statsmodels"][f"mean:{name}"]
    assert [fixed.low, fixed.high] == pytest.approx(known["ci"], **CLOSE)
    assert [normal.low, normal.high] == pytest.approx(known["z_ci"], **CLOSE)


def test_logarithmic_relative_effects_are_tea_tastings_and_the_closed_form(reference: dict[str, Any]) -> None:
    for name in ("revenue", "orders"):
        expected = reference["tea"][f"mean:{name}"]
        _, _, relative = first(f"mean:{name}", method="fixed", relative="log")
        assert relative.estimate == pytest.approx(expected["rel_effect_size"], **CLOSE)
        assert relative.low == pytest.approx(expected["rel_effect_size_ci_lower"], rel=1e-5)  # Welch of the logarithms
        assert relative.high == pytest.approx(expected["rel_effect_size_ci_upper"], rel=1e-5)


def test_small_samples(reference: dict[str, Any]) -> None:
    _, absolute, _ = first("mean:y", file="small", method="fixed")
    expected = reference["tea"]["small:mean"]
    assert absolute.estimate == pytest.approx(expected["effect_size"], **CLOSE)
    assert [absolute.low, absolute.high] == pytest.approx(
        [expected["effect_size_ci_lower"], expected["effect_size_ci_upper"]], **CLOSE
    )
    assert absolute.p == pytest.approx(reference["statsmodels"]["small:y"]["p"], **CLOSE)
    _, share, ratio = first("proportion:converted", file="small", method="fixed")
    known = reference["statsmodels"]["prop:small"]
    assert share.p == pytest.approx(known["fisher_p"], **CLOSE)
    assert share.p == pytest.approx(reference["tea"]["small:fisher"]["pvalue"], **CLOSE)
    assert [share.low, share.high] == pytest.approx(known["ci_diff_score"], abs=1e-2)  # Mee's; ours has n/(n - 1)
    assert [1 + ratio.low, 1 + ratio.high] == pytest.approx(known["ci_ratio_score"], rel=1e-8)


def test_large_proportions_are_near_the_score_intervals(reference: dict[str, Any]) -> None:
    known = reference["statsmodels"]["prop:users"]
    one, n, other, m = known["counts"]
    assert proportions.fisher_p((one, other), (n, m)) == pytest.approx(known["fisher_p"], rel=1e-7)
    assert proportions.difference_interval((one, other), (n, m), 0.05) == pytest.approx(
        known["ci_diff_score"], rel=2e-4
    )
    assert proportions.ratio_interval((one, other), (n, m), 0.05) == pytest.approx(known["ci_ratio_score"], rel=1e-8)
    _, absolute, _ = first("proportion:converted", method="bayesian", prior=(0.0, 1e6))
    assert [absolute.low, absolute.high] == pytest.approx(known["ci_diff_wald"], rel=1e-4)  # it divides by n, not n - 1


@pytest.mark.parametrize(("key", "prior"), PRIORS)
def test_posteriors_have_the_closed_forms_losses_and_null_region(
    reference: dict[str, Any], key: str, prior: tuple[float, float] | None
) -> None:
    expected = reference["formulas"][f"bayes-normal-rel:revenue:{key}"]
    metric, _, relative = first("mean:revenue", method="bayesian", prior=prior)
    found = metric.bayes
    assert isinstance(found, Bayes)
    assert [relative.estimate, relative.se] == pytest.approx([expected["post_mean"], expected["post_sd"]], **CLOSE)
    assert [found.low, found.high] == pytest.approx(expected["ci"], **CLOSE)
    assert found.chance_to_win == pytest.approx(expected["chance_to_win"], **CLOSE)
    assert found.expected_loss == pytest.approx(expected["exp_loss_choose_treatment"], rel=1e-8)
    assert found.forgone == pytest.approx(expected["exp_loss_choose_control"], **CLOSE)
    assert found.rope == pytest.approx(expected["rope_pm_001"], rel=1e-8)


def test_beta_posteriors_are_the_closed_forms_and_near_the_simulations(reference: dict[str, Any]) -> None:
    counts = ((6184, 9989), (6441, 10011))
    for key, prior in (("b11", Beta(1, 1)), ("b20_80", Beta(20, 80))):
        expected = reference["formulas"][f"bayes-beta:converted:{key}"]
        control, treatment = (update_beta(*seen, prior) for seen in counts)
        assert [[side.a, side.b] for side in (control, treatment)] == expected["posterior"]
        assert beta_chance_to_win(control, treatment) == pytest.approx(expected["chance_to_win"], **CLOSE)
        assert beta_expected_loss(control, treatment) == pytest.approx(expected["exp_loss_choose_treatment"], rel=1e-5)
        assert beta_expected_loss(treatment, control) == pytest.approx(expected["exp_loss_choose_control"], rel=1e-7)
        assert list(control.interval(0.05)) == pytest.approx(expected["cri"][0], **CLOSE)
    metric, _, _ = first("proportion:converted", method="bayesian")
    assert isinstance(metric.bayes, Bayes)
    drawn = reference["spotify"]["bayes-beta(MC):converted"]["P(level_2 > level_1)"]
    assert metric.bayes.chance_to_win == pytest.approx(drawn, abs=3 * math.sqrt(2e-4 / 200_000) + 1e-4)
    drawn = reference["bayesian_testing"]["bayes-beta(MC 200k):converted"][1]["prob_being_best"]
    assert metric.bayes.chance_to_win == pytest.approx(drawn, abs=3 * math.sqrt(2e-4 / 200_000))


def test_sample_ratios(reference: dict[str, Any]) -> None:
    assert reported("mean:revenue", method="fixed").quality.srm.p == pytest.approx(
        reference["gbstats"]["srm:users"], **CLOSE
    )
    for name in ("users", "bad", "three"):
        known = reference["formulas"][f"srm:{name}"]
        assert chi_square(known["observed"], known["weights"]) == pytest.approx(known["pearson_p"], **CLOSE)
        for concentration, p in known["dirichlet_multinomial_p"].items():
            found = sequential_ratio([known["observed"]], known["weights"], [float(concentration.removeprefix("k="))])
            assert found[0] == pytest.approx(p, rel=1e-6)
    assert chi_square([9989, 10011], [1, 1]) == pytest.approx(reference["tea"]["srm-norm"]["pvalue"], **CLOSE)
    assert chi_square([9989, 10011], [1, 1]) == pytest.approx(reference["spotify"]["srm:users"], **CLOSE)
    daily = pq.read_table(FOLDER / "daily.parquet").to_pylist()
    days = [[row["n"] for row in daily if row["day"] == day] for day in range(14)]
    ours = sequential_ratio(days, [1, 1], [10_000])
    theirs = reference["ssrm"]["sequential_p_values:daily (dirichlet_concentration=10000)"]
    assert ours == pytest.approx(theirs, rel=1e-6)
    odds = reference["savvi"]["sequential-srm:daily,k=100: 1/odds"]
    assert sequential_ratio(days, [1, 1], [100]) == pytest.approx(np.minimum.accumulate(np.minimum(odds, 1)), rel=1e-6)


def test_adjusted_p_values(reference: dict[str, Any]) -> None:
    p = json.loads((FOLDER / "pvalues.json").read_text())
    for name, ours in (
        ("holm", holm(p)),
        ("fdr_bh", benjamini_hochberg(p)),
        ("fdr_by", benjamini_hochberg(p, dependent=True)),
    ):
        assert ours == pytest.approx(reference["statsmodels"][f"multitest:{name}"]["adjusted"], **CLOSE)
        assert ours == pytest.approx(reference["tea"][f"multitest:{name}"], **CLOSE)
        assert ours == pytest.approx(reference["ambrosia"][f"multitest:{name}"], **CLOSE)


def test_confidence_sequences(reference: dict[str, Any]) -> None:
    mixture = reference["confseq"]["normal_mixture"]
    for v, best in ((100, 100), (1000, 100), (1000, 5000), (20000, 5000)):
        expected = mixture[f"v={v},v_opt={best},alpha=.05,one_sided=False"]
        rho = _rho_of(expected, v)
        at_best = mixture_multiplier(best / rho, 0.05)
        assert mixture_multiplier(v / rho, 0.05) * math.sqrt(v) == pytest.approx(expected, rel=1e-8)
        for other in (0.5, 2.0):  # its rho is the one that is narrowest at v_opt
            assert at_best < mixture_multiplier(best / rho * other, 0.05)


def _rho_of(boundary: float, v: float) -> float:
    """confseq's rho of a boundary at v: sqrt((v + rho) log((v + rho) / (rho alpha^2)))."""
    rhos = np.geomspace(1e-3, 1e7, 2_000_001)
    heights = np.sqrt((v + rhos) * np.log((v + rhos) / (rhos * 0.05**2)))
    low = rhos[np.argmin(np.abs(heights - boundary))]
    for _ in range(50):
        slope = (_height(low * (1 + 1e-6), v) - _height(low, v)) / (low * 1e-6)
        low -= (_height(low, v) - boundary) / slope
    return float(low)


def _height(rho: float, v: float) -> float:
    return math.sqrt((v + rho) * math.log((v + rho) / (rho * 0.05**2)))


def test_group_sequential_boundaries(reference: dict[str, Any]) -> None:
    looks = [0.2, 0.4, 0.6, 0.8, 1.0]
    expected = reference["spotify"]["group-seq-bounds[t=.2...1,alpha=.05,2-sided,rho=2]"]
    assert group_boundaries(looks, [0.05 * at**2 for at in looks]) == pytest.approx(
        expected, abs=1e-4
    )  # on a coarser grid
    for day, confidence in reference["epstats"]["obf_alpha_spending(.95,14,day)"].items():
        one_sided = 2 * (1 - _cdf(1.959963984540054 / math.sqrt(int(day) / 14)))  # its spending takes z of alpha / 2
        assert max(one_sided, 1e-4) == pytest.approx(1 - confidence, abs=6e-5)  # four digits, never none
        assert spent_error("obrien_fleming", int(day) / 14, 0.05) <= one_sided + 1e-12  # ours spends half on each side


def _cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def test_a_margin_of_non_inferiority(reference: dict[str, Any]) -> None:
    expected = reference["spotify"]["non-inferiority:nim_revenue_2pct"]
    _, absolute, _ = first("mean:revenue", method="bayesian", alpha=0.1)  # one side at 5 %
    assert absolute.low == pytest.approx(expected["ci_lower"], **CLOSE)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_quantiles_are_gbstats_from_rounded_events(reference: dict[str, Any], level: float) -> None:
    expected = reference["gbstats"][f"quantile-clustered:{level}:absolute"]
    _, absolute, _ = first(f"quantile:latency_ms@{level}", file="latency", unit="user_id", method="bayesian")
    assert absolute.estimate == pytest.approx(expected["expected"], **CLOSE)
    assert absolute.se == pytest.approx(expected["se"], rel=0.02)  # it takes other order statistics around the quantile


def test_sizes_and_powers(reference: dict[str, Any]) -> None:
    fixed, known = Inference(method="fixed"), reference["statsmodels"]["power"]
    assert reference["spotify"]["samplesize:binomial .10 +-.01"][0] == 2 * 14_128  # by control's variance alone
    ours = sample_size(Baseline("proportion", 0.1), 0.1, fixed).units
    assert ours == 29_497  # 14,749 an arm: each by its own variance
    assert ours / 2 == pytest.approx(known["prop_effectsize_arcsine_n1"], rel=5e-4)
    assert compute_power(Baseline("proportion", 0.1), 0.1, 20_000, fixed) == pytest.approx(
        known["prop_power_n10000"], abs=5e-4
    )
    continuous = sample_size(Baseline("mean", 1.0, 1.0), 0.1, fixed).units
    assert continuous == pytest.approx(reference["spotify"]["samplesize:continuous d=.1"][0], abs=2)
    past = baseline_of_table(str(FOLDER / "users.parquet"), "mean:revenue|pre_revenue")
    found = least_detectable_effect(past, 20_000, fixed)
    assert found.mde * past.value == pytest.approx(
        reference["tea"]["power:revenue-cuped:rel_effect_size"]["effect_size"], rel=0.05
    )  # it takes control's variance, ours is of all units
    for text, baseline in (("2v,5%,mean.3,std2", (0.3, 2.0, 0.05)), ("2v,10%,mean.2,std1.2", (0.2, 1.2, 0.1))):
        mean, sd, mde = baseline
        units = sample_size(Baseline("mean", mean, sd), mde, fixed).units / 2
        assert units == pytest.approx(reference["epstats"]["required_sample_size_per_variant"][text], rel=1e-3)


def test_inverse_propensities_are_vowpals(reference: dict[str, Any]) -> None:
    table = pq.read_table(FOLDER / "bandit.parquet")
    data = {name: table[name].to_numpy() for name in table.column_names}
    reward, action = data["reward"].astype(float), data["action"]
    propensity = np.choose(action, [data["p0"], data["p1"], data["p2"]])
    targets = {
        "uniform": np.full(len(action), 1 / 3),
        "always_arm2": (action == 2).astype(float),
        "best_by_context(arm2|x0,arm0|x1)": (action == np.where(data["context"] == 0, 2, 0)).astype(float),
    }
    for name, target in targets.items():
        expected = reference["vw_estimators"][f"ope:{name}"]
        assert ips(reward, propensity, target).value == pytest.approx(expected["ips"], **CLOSE)
        assert snips(reward, propensity, target).value == pytest.approx(expected["snips"], **CLOSE)
