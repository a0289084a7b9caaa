"""Off-policy values on a real log (Open Bandit Dataset, where it was unpacked), and what they refuse."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis import offpolicy
from engine.analysis.offpolicy.estimators import Spread, dr, ips, snips, switch_dr
from engine.analysis.stats.adaptive import lagged_allocation, running_means
from engine.errors import BadInput

OBD = Path(__file__).resolve().parents[3] / ".cache" / "obd" / "obp" / "dataset" / "obd"


def test_uniform_choice_on_zozos_log() -> None:
    found = next(iter(OBD.glob("bts/all/all.csv")), None) if OBD.is_dir() else None
    if found is None:
        pytest.skip("the Open Bandit sample is not in .cache/obd")
    with found.open() as lines:
        rows = list(csv.DictReader(lines))
    reward = np.array([float(row["click"]) for row in rows])
    propensity = np.array([float(row["propensity_score"]) for row in rows])
    target = np.full(len(rows), 1 / 80)
    one, other = ips(reward, propensity, target), snips(reward, propensity, target)
    assert one.value == pytest.approx(0.00235964, abs=1e-8)
    assert other.value == pytest.approx(0.00233371, abs=1e-8)
    assert one.ess == pytest.approx(340.378, abs=1e-3)
    assert one.mean_weight == pytest.approx(1.0111092, abs=1e-7)
    assert one.largest_weight == pytest.approx(277.78, abs=1e-2)


def test_the_package_exports_the_estimators() -> None:
    assert (offpolicy.ips, offpolicy.snips, offpolicy.dr, offpolicy.switch_dr) == (ips, snips, dr, switch_dr)
    with pytest.raises(AttributeError, match="no attribute 'dm'"):
        offpolicy.dm  # noqa: B018 # the access is what is tested


def test_by_hand() -> None:
    reward, propensity, target = [1.0, 0.0, 1.0, 0.0], [0.5, 0.25, 0.5, 0.8], [0.25, 0.5, 0.5, 0.4]
    weights = np.array([0.5, 2.0, 1.0, 0.5])
    assert ips(reward, propensity, target).value == pytest.approx((0.5 + 1.0) / 4)
    assert snips(reward, propensity, target).value == pytest.approx(1.5 / 4.0)
    assert ips(reward, propensity, target).ess == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    right = dr(reward, propensity, target, reward, [0.5] * 4)
    assert right.value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("reward", "propensity", "target", "message"),
    [
        ([1.0, 0.0], [0.5, 0.0], [0.5, 0.5], r"propensity 0\.0 is not in \(0, 1\]"),
        ([1.0, 0.0], [0.5, 0.5], [0.5, 1.5], "target probability"),
        ([1.0, float("nan")], [0.5, 0.5], [0.5, 0.5], "NaN or infinite"),
        ([1.0, 0.0, 1.0], [0.5, 0.5], [0.5, 0.5], "three arrays of one length"),
        ([1.0], [0.5], [0.5], "too few"),
    ],
)
def test_arrays_that_cannot_be_used(
    reward: list[float], propensity: list[float], target: list[float], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        ips(reward, propensity, target)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reward": ["x", "y", "z"]}, "reward contains a value that is not a number"),
        ({"predicted_logged": [0.1]}, r"predicted_logged has shape \(1,\); give one number for each of the 3"),
        ({"predicted_target": 0.1}, r"predicted_target has shape \(\)"),
        ({"predicted_target": [0.1, float("nan"), 0.1]}, "predicted_target contains NaN or infinity"),
        ({"threshold": -1.0}, r"threshold -1\.0 is negative or NaN"),
        ({"threshold": float("nan")}, "threshold nan is negative or NaN"),
        ({"alpha": 1.0}, r"alpha 1\.0 is not between 0 and 1"),
        ({"cluster": ["u", "v"]}, r"cluster has shape \(2,\); give one label for each of the 3"),
    ],
)
def test_a_model_or_an_interval_that_cannot_be_used(given: dict[str, Any], message: str) -> None:
    usable = {"reward": [1.0, 0.0, 1.0], "propensity": [0.5] * 3, "target_probability": [0.5] * 3}
    modelled = {"predicted_logged": [0.5] * 3, "predicted_target": [0.5] * 3, "threshold": np.inf}
    with pytest.raises(BadInput, match=message):
        switch_dr(**(usable | modelled | given))


def test_a_target_that_never_chooses_a_logged_arm() -> None:
    with pytest.raises(BadInput, match="never chooses a logged arm"):
        snips([1.0, 0.0], [0.5, 0.5], [0.0, 0.0])


def test_the_interval_is_that_of_t_for_symmetric_data_and_leans_for_skewed() -> None:
    even = ips([0.0, 1.0] * 50, [0.5] * 100, [0.5] * 100)
    assert Spread.of_influence(np.array([-0.5, 0.5] * 50)).interval(0.5, 0.05) == (
        pytest.approx(even.low),
        pytest.approx(even.high),
    )
    low, high = Spread.of_influence(np.array([0.0] * 97 + [1.0] * 3) - 0.03).interval(0.03, 0.05)
    assert high - 0.03 > 0.03 - low > 0


def test_p_is_alpha_where_the_interval_ends_on_zero() -> None:
    rng = np.random.default_rng(10)
    for values in (rng.exponential(1.0, 300), -rng.exponential(1.0, 300), rng.normal(0.0, 1.0, 300)):
        spread = Spread.of_influence(values - values.mean(), np.arange(300) // 2)
        low, high = spread.interval(0.0, 0.05)
        assert spread.p_value(-low) == pytest.approx(0.05)
        assert spread.p_value(-high) == pytest.approx(0.05)
        assert spread.p_value(-1.01 * low) < 0.05


def test_intervals_cover_where_seven_of_ten_thousand_are_rewarded() -> None:
    """By t alone 91%, and nearly all that is missed is missed above."""
    rng = np.random.default_rng(9)
    above = below = 0
    for _ in range(1000):
        clicks = (rng.random(10_000) < 0.0007).astype(float)
        low, high = Spread.of_influence(clicks - clicks.mean()).interval(float(clicks.mean()), 0.05)
        above += high < 0.0007
        below += low > 0.0007
    assert above + below <= 70
    assert max(above, below) <= 50  # five standard errors above 25


def test_weights_and_models_look_back_only() -> None:
    reward, taken = np.array([1.0, 5.0, 0.0, 7.0]), np.array([True, False, True, True])
    assert running_means(reward, taken).tolist() == [0.0, 1.0, 1.0, 0.5]
    propensity = np.array([0.5, 0.0, 0.5, 0.25])
    snapshot = np.array(["p@1", "p@1", "p@2", "p@3"])
    allocation = lagged_allocation(taken, propensity, snapshot, 2)
    assert allocation.tolist() == [0.5, 0.5, 0.5, 0.25]
