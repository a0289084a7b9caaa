"""Lists in worlds whose truth is known: regret below that of independent draws, and values of lists without bias."""

import itertools
from functools import cache

import numpy as np
import pytest

from engine.analysis.offpolicy.crossfit import Predictions
from engine.analysis.offpolicy.list_value import as_lists, mean_of_scores, score_lists, value_positions
from engine.analysis.offpolicy.logged_choices import LoggedChoices
from policies.examination import ExaminedList, learnt_shares
from tests.statistical.list_worlds import EXAMINED, Carousel, compare, run

ARMS = ("a", "b", "c", "d")
LOGGING, TARGET = (0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4)
PAYS = np.array([0.1, 0.2, 0.4, 0.7])


@cache
def chances(weights: tuple[float, ...], above: tuple[int, ...]) -> np.ndarray:
    left = np.where(np.isin(np.arange(4), above), 0.0, weights)
    return np.asarray(left / left.sum())


@cache
def pays(items: tuple[int, ...], place: int) -> float:
    """An item pays less below one that pays well: rewards depend on the items above."""
    return float(PAYS[items[place]] * np.prod(1 - 0.5 * PAYS[list(items[:place])]))


def truth(weights: tuple[float, ...]) -> list[float]:
    totals = [0.0, 0.0, 0.0]
    for items in itertools.permutations(range(4), 3):
        chance = np.prod([chances(weights, items[:k])[items[k]] for k in range(3)])
        totals = [total + chance * pays(items, k) for k, total in enumerate(totals)]
    return totals


def simulate(rng: np.random.Generator, lists: int) -> tuple[LoggedChoices, Predictions]:
    every = list(itertools.permutations(range(4), 3))
    shares = [np.prod([chances(LOGGING, items[:k])[items[k]] for k in range(3)]) for items in every]
    drawn = [every[at] for at in rng.choice(len(every), lists, p=shares).tolist()]
    arm = np.array(drawn).ravel()
    place = np.tile([1, 2, 3], lists)
    above = [items[:k] for items in drawn for k in range(3)]
    logged = np.array([chances(LOGGING, up)[one] for up, one in zip(above, arm, strict=True)])
    wanted = np.array([chances(TARGET, up)[one] for up, one in zip(above, arm, strict=True)])
    reward = (rng.random(arm.size) < [pays(items, k) for items in drawn for k in range(3)]).astype(float)
    decision = np.repeat(np.arange(lists), 3)
    zeros = np.zeros(arm.size)
    model = np.array([0.2, 0.3, 0.3, 0.5])  # wrong, as models are
    log = LoggedChoices(
        place="simulated",
        placement="row",
        arms=ARMS,
        arm=arm,
        reward=reward,
        propensity=logged,
        customer=decision,
        sets=(np.arange(4),),
        which=np.zeros(arm.size, np.intp),
        contexts=({},),
        context=np.zeros(arm.size, np.intp),
        position=place,
        decision=decision,
    )
    predictions = Predictions(
        rows=np.arange(arm.size),
        target=wanted,
        of_logged=model[arm],
        of_target=np.array([chances(TARGET, up) @ model for up in above]),
        unlogged=zeros,
        likeliest=zeros,
        even=zeros,
    )
    return log, predictions


def test_the_value_of_lists_covers_the_truth_where_rewards_depend_on_the_items_above() -> None:
    rng, runs = np.random.default_rng(3), 60
    wanted = truth(TARGET)
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    widths = dict.fromkeys(covered, 0.0)
    for _ in range(runs):
        log, predictions = simulate(rng, 500)
        scores, lists = score_lists(log, predictions), as_lists(log)
        for name in covered:
            estimate = mean_of_scores(getattr(scores, name), scores.weights, lists.customer, 0.05)
            covered[name] += estimate.low <= sum(wanted) <= estimate.high
            widths[name] += estimate.high - estimate.low
        positions = value_positions(log, scores, lists, 0.0001)
        assert all(row.ips.low <= value <= row.ips.high for row, value in zip(positions, wanted, strict=True))
    assert min(covered.values()) >= 51  # at 95 %, fewer of 60 have a probability below 1e-3
    assert widths["dr"] < widths["ips"]


def test_lists_lose_less_than_independent_draws_and_those_less_than_even_lists() -> None:
    worlds = [Carousel(items=8, rounds=400, seed=seed) for seed in (1, 2)]
    lost = compare(worlds, ("lists", "independent draws", "even lists"))
    assert lost["lists"][0] < 0.6 * lost["independent draws"][0]
    assert lost["independent draws"][0] < lost["even lists"][0]


def test_examination_is_learnt_from_rewards() -> None:
    shares = np.mean([run(Carousel(items=8, rounds=800, seed=seed), "lists").shares for seed in (1, 2)], axis=0)
    assert shares == pytest.approx(EXAMINED, abs=0.2)


def test_the_weights_of_a_position_add_up_to_its_share() -> None:
    listed, rng, rate = ExaminedList((1.0, 0.4), (), 2), np.random.default_rng(5), 0.3
    clicks = rng.random(20_000) < 0.4 * rate
    weights = [listed.weight(2, float(click), rate, is_count=True) for click in clicks.tolist()]
    assert np.mean(weights) == pytest.approx(0.4, abs=0.01)
    assert np.sum(clicks) / np.sum(weights) == pytest.approx(rate, abs=0.02)
    assert learnt_shares([]) == []
