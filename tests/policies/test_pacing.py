"""Scarce offers against greed and against the best anyone could have done."""

import numpy as np
import pytest

from policies import Pacing, worth_showing

CUSTOMERS, STOCK = 5000, 300


def shop(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What the scarce offer and the usual one are worth to each customer who comes."""
    random = np.random.default_rng(seed)
    return random.lognormal(0.0, 0.8, CUSTOMERS), random.lognormal(-0.7, 0.3, CUSTOMERS)


def sold(scarce: np.ndarray, usual: np.ndarray, pacing: Pacing) -> tuple[float, Pacing]:
    earned = 0.0
    for at in range(CUSTOMERS):
        price = pacing.price if pacing.left >= 1 else np.inf
        worth = np.array([scarce[at], usual[at]])
        gives = bool(worth_showing(worth, np.array([price, 0.0]))[0]) and pacing.left >= 1 and worth.argmax() == 0
        earned += worth[0] if gives else worth[1]
        pacing = pacing.after(at + 1, float(gives), worth[0] * gives)
    return earned, pacing


@pytest.mark.parametrize("seed", range(5))
def test_a_price_earns_most_of_what_hindsight_would_and_more_than_greed(seed: int) -> None:
    scarce, usual = shop(seed)
    paced, end = sold(scarce, usual, Pacing(STOCK, CUSTOMERS))
    greedy, _ = sold(scarce, usual, Pacing(STOCK, CUSTOMERS, step=1e-12))
    gain = np.sort(scarce - usual)[::-1]
    hindsight = usual.sum() + gain[:STOCK].sum()
    assert end.left >= 0
    assert paced > greedy
    assert (paced - usual.sum()) > 0.85 * (hindsight - usual.sum())
    assert (greedy - usual.sum()) < 0.6 * (hindsight - usual.sum())


def test_plenty_costs_nothing() -> None:
    scarce, usual = shop(9)
    _, end = sold(scarce, usual, Pacing(10.0 * CUSTOMERS, CUSTOMERS))
    assert end.price == 0


def test_the_pace_of_updates_hardly_matters() -> None:
    each = together = Pacing(100, 1000, worth=2.0, price=1.0)
    for at in range(10):
        each = each.after(at + 1, 0.5, 1.0)
    together = together.after(10, 5, 10.0)
    assert each.left == pytest.approx(together.left)
    assert each.price == pytest.approx(together.price, rel=0.02)


def test_a_sold_out_offer_is_not_shown() -> None:
    assert worth_showing(np.array([9.0, 1.0]), np.array([np.inf, 0.0])).tolist() == [False, True]
    assert worth_showing(np.array([9.0, 8.0]), np.array([2.0, 0.5])).tolist() == [True, True]
    assert worth_showing(np.array([1.0, 1.2]), np.array([2.0, 2.0])).tolist() == [False, True]
    assert not worth_showing(np.array([1.0]), np.array([np.inf])).any()


def test_reports_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="once, in order"):
        Pacing(2, 10).after(1, 3, 1.0)
    with pytest.raises(ValueError, match="once, in order"):
        Pacing(2, 10, now=5).after(1, 1, 1.0)
    with pytest.raises(ValueError, match="positive"):
        Pacing(2, 10, step=0)
