"""How each policy of a placement does in the log: exposures, reward rate, and what uniform choice would have earned."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.effects import Settings, absolute, critical_t, scale
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.inference import Arm
from engine.analysis.log import log_table
from engine.analysis.offpolicy import Estimate, ips, snips
from engine.analysis.sources import DuckDB
from engine.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.moments import Floats


class Rate(msgspec.Struct, frozen=True):
    """A mean reward per exposure with its interval, clustered by customer."""

    estimate: float
    low: float
    high: float


class PolicyRow(msgspec.Struct, frozen=True):
    """One policy of a placement."""

    policy: str
    exposures: int
    rewards: float
    rate: Rate | NotEstimable


class PolicyReport(msgspec.Struct, frozen=True):
    """A placement's policies, and the off-policy value of choosing uniformly among the logged candidates.

    `against_uniform` compares each policy's reward rate with that of the uniform slice, two-sided by Welch.
    """

    placement: str
    policies: list[PolicyRow]
    uniform_ips: Estimate | NotEstimable
    uniform_snips: Estimate | NotEstimable
    against_uniform: dict[str, Effect | NotEstimable]
    offers: dict[str, int]

    def json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.encode(self)


def policy_report(log_dir: Path | str, placement: str, *, alpha: float = 0.05) -> PolicyReport:
    """The policies that chose a placement's offers, from the log's decisions, exposures and rewards.

    A row is an exposed decision; a corrected reward replaces the earlier one. A policy is its name without the
    snapshot's version ('home_hero@17' is home_hero); fallbacks, which no policy chose, are left out.

    Raises:
        BadInput: if the placement has no decision in the log.
    """
    source = DuckDB()
    folder = Path(log_dir)
    decided, shown, earned = (log_table(source, folder, name) for name in ("decisions", "exposures", "rewards"))
    chosen = decided.filter(
        (decided["kind"] == "offer")
        & (decided["key"] == placement)
        & decided["policy"].notnull()
        & decided["variant"].notnull()
    )
    seen = shown.filter(shown["key"] == placement).select("decision_id").distinct()
    counted = earned.filter(earned["key"] == placement).group_by("decision_id")
    last = counted.aggregate(reward=earned["reward"].argmax(earned["time"]))
    rows = chosen.inner_join(seen, "decision_id").left_join(last, "decision_id")
    answer = source.rows(
        rows.select(
            policy=rows["policy"].split("@")[0],
            offer=rows["variant"],
            customer=rows["customer"],
            propensity=rows["propensity"],
            arms=rows["candidates"].length(),
            reward=rows["reward"].fill_null(0.0),
        )
    )
    if not answer:
        raise BadInput(f"placement {placement!r} has no exposed decision of a policy in {folder}; check the name")
    policy, offer, customer, propensity, arms, reward = (np.array(column) for column in zip(*answer, strict=True))
    arms_by_name = {str(name): _arm(reward[policy == name], customer[policy == name]) for name in np.unique(policy)}
    policies = [
        PolicyRow(name, int(np.sum(policy == name)), float(reward[policy == name].sum()), _rate(arm, alpha))
        for name, arm in arms_by_name.items()
    ]
    learned = policy != "uniform"
    values: tuple[Estimate | NotEstimable, Estimate | NotEstimable]
    if learned.sum() < 2:
        values = (NotEstimable("no decision of a learned policy is in the log"),) * 2
    else:
        target = 1.0 / np.maximum(arms[learned].astype(float), 1.0)
        data = (reward[learned], propensity[learned].astype(float), target)
        values = (
            ips(*data, cluster=customer[learned], alpha=alpha),
            snips(*data, cluster=customer[learned], alpha=alpha),
        )
    names, counts = np.unique(offer, return_counts=True)
    return PolicyReport(
        placement=placement,
        policies=policies,
        uniform_ips=values[0],
        uniform_snips=values[1],
        against_uniform=_against_uniform(arms_by_name, alpha),
        offers={str(name): int(count) for name, count in zip(names, counts, strict=True)},
    )


def _arm(reward: Floats, customer: NDArray[np.str_]) -> Arm:
    """The mean reward per exposure; customers are independent, their exposures are not."""
    _, index = np.unique(customer, return_inverse=True)
    exposures = np.bincount(index).astype(float)
    value = float(reward.mean())
    clusters = len(exposures)
    if clusters < 2:
        return Arm(clusters, value, float("nan"))
    residuals = np.bincount(index, weights=reward) - value * exposures
    return Arm(clusters, value, float(residuals @ residuals) * clusters / (clusters - 1) / len(reward) ** 2)


def _rate(arm: Arm, alpha: float) -> Rate | NotEstimable:
    if arm.n < 2:
        return NotEstimable("one customer only; an interval needs two")
    if arm.variance == 0:
        return NotEstimable(f"every reward is {arm.value:g}; an interval needs some that differ")
    reach = critical_t(alpha, arm.n - 1) * arm.variance**0.5
    return Rate(arm.value, arm.value - reach, arm.value + reach)


def _against_uniform(arms: dict[str, Arm], alpha: float) -> dict[str, Effect | NotEstimable]:
    uniform = arms.get("uniform")
    result: dict[str, Effect | NotEstimable] = {}
    for name, arm in arms.items():
        if name == "uniform":
            continue
        if uniform is None:
            result[name] = NotEstimable("no uniform slice is in the log")
        elif min(arm.n, uniform.n) < 2 or arm.variance + uniform.variance == 0:
            result[name] = NotEstimable("too few customers, or no reward that differs")
        else:
            result[name] = _difference(uniform, arm, alpha)
    return result


def _difference(uniform: Arm, arm: Arm, alpha: float) -> Effect | NotEstimable:
    width = scale(uniform, arm, Settings("fixed", alpha))
    return width if isinstance(width, NotEstimable) else absolute(uniform, arm, width)
