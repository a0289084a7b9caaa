"""A/A test of a placement's log: compares offers' values in two random halves of the customers.

The log is adaptive, its customers return, and its policies mix; all of that stays as it is in each half. A half is a
random set of customers, so an offer is worth the same in both. The intervals of the report are wrong if they say
otherwise more often than they should.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.bandits.arm_values import ArmScores, RowOwners, contrast_customers, score_arm
from engine.analysis.bandits.exposed_choices import ExposedChoices, read_exposed_choices
from engine.analysis.checks.random_splits import Check, Errors, Splits, summarize_errors
from engine.analysis.design.methods import Inference
from engine.errors import BadInput

if TYPE_CHECKING:
    from datetime import datetime


def aa_placement(
    log_dir: Path | str,
    placement: str,
    *,
    alpha: float = 0.05,
    as_of: datetime | None = None,
    window: float | None = None,
    runs: int = 1000,
    seed: int = 1,
) -> list[Check]:
    """Splits a placement's customers in two at random, `runs` times, and counts the offers whose values differ.

    Args:
        log_dir: the folder of the log.
        placement: whose policies' choices are read.
        alpha: as `policy_report`.
        as_of: as `policy_report`.
        window: as `policy_report`.
        runs: how many splits.
        seed: of the splits.

    Raises:
        BadInput: as `policy_report`.
    """
    splits = Splits(runs, seed, Inference(method="fixed", alpha=alpha))
    splits.check()
    log, unsettled = read_exposed_choices(Path(log_dir), placement, as_of, window=window)
    if log is None:
        raise BadInput(f"placement {placement!r} has no settled decision of a policy in {log_dir}. {unsettled.text}")
    return [check_offer(name, _score(log, at), splits) for at, name in enumerate(log.offers)]


def check_offer(name: str, arm: ArmScores, splits: Splits) -> Check:
    """The check of one offer's scores."""
    rng, errors = np.random.default_rng(splits.seed), Errors()
    for _ in range(splits.runs):
        half = rng.random(arm.customers) < splits.share
        errors.add([(found := contrast_customers(arm, half, splits.inference.alpha), found, False)])
    return summarize_errors(errors, name, len(np.unique(arm.customer)), splits, loose=False)


def _score(log: ExposedChoices, offer: int) -> ArmScores:
    owners = RowOwners(policy=log.policy, customer=log.customer, customers=log.customers)
    return score_arm(
        candidate=log.find_candidates(offer),
        taken=log.offer == offer,
        propensity=log.propensity,
        reward=log.reward,
        owners=owners,
    )
