"""Bayesian experiments without any effect, read at 15 looks: how often they ship by a flat and by the default prior."""

import math
import os
import sys

import numpy as np

from engine.analysis.design.methods import SCEPTICAL, Inference
from engine.analysis.stats.bayes import Prior, normal_posterior

RUNS, LOOKS, PER_LOOK = int(os.environ.get("RUNS", "2000")), 15, 1000
MEAN, DEVIATION = 20.0, 40.0


def count_ships(prior: Prior) -> float:
    """The share of runs in which some look has an expected loss below the tolerance and leans to the variant."""
    rng = np.random.default_rng(20_261_131)
    settings = Inference(method="bayesian", prior=prior)
    steps = rng.normal(0.0, DEVIATION * math.sqrt(2 / PER_LOOK) / MEAN, (RUNS, LOOKS))
    counts = np.arange(1, LOOKS + 1)
    shares = np.cumsum(steps, axis=1) / counts
    ships = 0
    for run in shares:
        for looks, share in zip(counts, run, strict=True):
            error = DEVIATION * math.sqrt(2 / (PER_LOOK * looks)) / MEAN
            found = normal_posterior(float(share), error, settings.prior, settings.alpha)
            if found.expected_loss < settings.tolerance and found.chance_to_win > 0.5:
                ships += 1
                break
    return ships / RUNS


def test_the_default_prior_ships_few_experiments_without_an_effect() -> None:
    flat, sceptical = count_ships(Prior()), count_ships(SCEPTICAL)
    sys.stdout.write(f"15 looks, no effect: a flat prior ships {flat:.1%}, the default prior {sceptical:.1%}\n")
    assert flat > 0.1
    assert sceptical <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / RUNS)
