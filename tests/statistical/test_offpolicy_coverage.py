"""Intervals of `evaluate` cover the truth, of policies that learnt from the same log too: a share of `coverage`."""

import math
from collections import Counter

import pytest

from tests.statistical.coverage import ESTIMATORS, KINDS, POLICIES, coverage

LOGS = 24
HARDEST = ("arms alike", "arms alike, customers come often", "bandit's, arms alike, customers come often")


def test_intervals_of_every_estimator_cover() -> None:
    found: Counter[tuple[str, str, str]] = Counter()
    for name in HARDEST:
        for key, share in coverage(KINDS[name], LOGS, n=1000, seed=2).items():
            found[key] += round(share * LOGS)
    logs = LOGS * len(HARDEST)
    slack = 3.3 * math.sqrt(0.95 * 0.05 / logs)  # one in a thousand: of twelve that are strongly related
    for policy in POLICIES:
        for estimator in ESTIMATORS:
            assert found[policy, estimator, "t"] / logs == pytest.approx(0.95, abs=slack), (policy, estimator)
            assert found[policy, estimator, "bernstein"] / logs >= 0.95, (policy, estimator)
