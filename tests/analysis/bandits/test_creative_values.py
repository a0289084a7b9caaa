"""The values of creatives: unbiased whatever their policy did, by offer, channel and segment."""

import numpy as np

from engine.analysis.bandits.creative_values import value_creatives
from engine.analysis.bandits.exposed_choices import CreativeChoices
from engine.analysis.stats.estimate import Effect, NotEstimable

TRUTH = {("DE", "photo"): 0.5, ("DE", "text"): 0.2, ("AT", "photo"): 0.1, ("AT", "text"): 0.3}


def showings(seed: int, count: int = 3000) -> CreativeChoices:
    """A policy that prefers the photo in its second half, while what it earns falls by half over time."""
    rng = np.random.default_rng(seed)
    country = np.where(rng.random(count) < 0.6, "DE", "AT")
    late = np.arange(count) >= count // 2
    photo = np.where(late, 0.9, 0.5)
    chosen = np.where(rng.random(count) < photo, "photo", "text")
    rate = np.array([TRUTH[cell] for cell in zip(country.tolist(), chosen.tolist(), strict=True)])
    return CreativeChoices(
        offer=("tea",) * count,
        channel=("web",) * count,
        segment=tuple(country.tolist()),
        creative=tuple(chosen.tolist()),
        candidates=(frozenset(("photo", "text")),) * count,
        policy=("hero#creatives",) * count,
        customer=np.arange(count),
        propensity=np.where(chosen == "photo", photo, 1 - photo),
        reward=(rng.random(count) < np.where(late, 0.5, 1.0) * rate).astype(np.float64),
    )


def test_values_cover_the_mean_over_time_though_the_policy_followed_the_drift() -> None:
    covered = worlds = 0
    naive = []
    for seed in range(40):
        for row in value_creatives(showings(seed), 0.05):
            truth = 0.75 * TRUTH[row.segment or "", row.creative]
            assert isinstance(row.value, Effect)
            covered += row.value.low <= truth <= row.value.high
            worlds += 1
            naive.append(row.naive_mean - truth if row.creative == "text" else 0.0)
            assert (row.against_first is None) == (row.creative == "photo")
            assert not isinstance(row.against_first, NotEstimable)
    assert worlds == 160
    assert covered >= 144  # of 152 expected; the binomial error of 160 worlds is 2.8
    assert np.mean(naive) > 0.01  # the plain mean has more of the good first half
