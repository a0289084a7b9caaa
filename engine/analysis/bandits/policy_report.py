"""How each policy of a placement does in the log: exposures, reward rate, and what uniform choice would have earned."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.design.methods import Inference
from engine.analysis.offpolicy.estimators import Estimate, ips, snips
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import SECOND, read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.stats.adaptive import estimate_arm_value, lagged_allocation
from engine.analysis.stats.effects import absolute_effect, critical_t, interval_scale
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm
from engine.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.analysis.sources.engines import ResultRow
    from engine.analysis.stats.moments import Floats


class RewardRate(msgspec.Struct, frozen=True):
    """A mean reward per exposure with its interval, clustered by customer."""

    estimate: float
    low: float
    high: float


class PolicyRow(msgspec.Struct, frozen=True):
    """One policy of a placement."""

    policy: str
    exposures: int
    rewards: float
    rate: RewardRate | NotEstimable


class OfferRow(msgspec.Struct, frozen=True):
    """One offer of the placement: its reward rate had it been shown every time it could be (`value`, by AIPW).

    `naive_mean` is the plain mean of its rewards, biased because the policy showed it more while it did well.
    """

    offer: str
    exposures: int
    naive_mean: float
    value: Effect | NotEstimable


class PolicyReport(msgspec.Struct, frozen=True):
    """A placement's policies, and the off-policy value of choosing uniformly among the logged candidates.

    `against_uniform` compares each policy's reward rate with that of the uniform slice, two-sided by Welch.
    """

    placement: str
    as_of: str
    policies: list[PolicyRow]
    uniform_ips: Estimate | NotEstimable
    uniform_snips: Estimate | NotEstimable
    against_uniform: dict[str, Effect | NotEstimable]
    arms: list[OfferRow]

    def json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.encode(self)


def policy_report(
    log_dir: Path | str, placement: str, *, alpha: float = 0.05, as_of: datetime | None = None
) -> PolicyReport:
    """The policies that chose a placement's offers, from the log's decisions, exposures and rewards.

    A row is an exposed decision; a corrected reward replaces the earlier one. A policy is its name without the
    snapshot's version ('home_hero@17' is home_hero); fallbacks, which no policy chose, are left out. With `as_of`
    only what was decided, seen and rewarded until then counts.

    Raises:
        BadInput: if the placement has no decision in the log.
    """
    folder = Path(log_dir)
    answer = _exposed(folder, placement, as_of)
    if not answer:
        until = f" until {as_of.isoformat(timespec='seconds')}" if as_of else ""
        raise BadInput(
            f"placement {placement!r} has no exposed decision of a policy in {folder}{until}; check the name"
        )
    log = ExposedDecisions.of(answer)
    arms_by_name = {name: _arm(log.reward[at], log.customer[at]) for name, at in log.by_policy().items()}
    policies = [
        PolicyRow(name, int(at.sum()), float(log.reward[at].sum()), _rate(arms_by_name[name], alpha))
        for name, at in log.by_policy().items()
    ]
    uniform = _uniform(log, alpha)
    return PolicyReport(
        placement=placement,
        as_of=(as_of or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds"),
        policies=policies,
        uniform_ips=uniform[0],
        uniform_snips=uniform[1],
        against_uniform=_against_uniform(arms_by_name, alpha),
        arms=[_offer(log, str(offer), alpha) for offer in np.unique(log.offer)],
    )


def _exposed(folder: Path, placement: str, as_of: datetime | None) -> list[ResultRow]:
    """The exposed choices of the placement's policies, in the order of time."""
    source = DuckDB()
    with lock_log_for_reading(folder):
        tables = [read_log_table(source, folder, name) for name in ("decisions", "exposures", "rewards")]
        if as_of is not None:
            moment = int(as_of.timestamp() * SECOND)
            tables = [table.filter(table["time"] <= moment) for table in tables]
        decided, shown, earned = tables
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
        ordered = rows.order_by("time", "decision_id").select(
            "policy", "variant", "customer", "propensity", "candidates", reward=rows["reward"].fill_null(0.0)
        )
        return source.rows(ordered)


@dataclass(frozen=True)
class ExposedDecisions:
    """The exposed decisions of a placement, in the order of time."""

    policy: NDArray[np.str_]  # without the snapshot's version
    snapshot: NDArray[np.str_]
    offer: NDArray[np.str_]
    customer: NDArray[np.str_]
    propensity: Floats
    candidates: list[list[str]]
    reward: Floats

    @classmethod
    def of(cls, rows: list[ResultRow]) -> ExposedDecisions:
        """The columns of rows (snapshot, offer, customer, propensity, candidates, reward)."""
        snapshot, offer, customer, propensity, candidates, reward = zip(*rows, strict=True)
        return cls(
            policy=np.array([str(name).split("@")[0] for name in snapshot]),
            snapshot=np.array(snapshot, dtype=np.str_),
            offer=np.array(offer, dtype=np.str_),
            customer=np.array(customer, dtype=np.str_),
            propensity=np.array(propensity, dtype=np.float64),
            candidates=[list(names or ()) for names in candidates],
            reward=np.array(reward, dtype=np.float64),
        )

    def by_policy(self) -> dict[str, NDArray[np.bool_]]:
        """For each policy the mask of its rows."""
        return {str(name): self.policy == name for name in np.unique(self.policy)}


def _uniform(log: ExposedDecisions, alpha: float) -> tuple[Estimate | NotEstimable, Estimate | NotEstimable]:
    """IPS and SNIPS of uniform choice on what learned policies logged."""
    learned = np.array([not is_uniform(name) for name in log.policy])
    if learned.sum() < 2:
        nothing = NotEstimable("no decision of a learned policy is in the log")
        return nothing, nothing
    target = 1.0 / np.array([max(len(names), 1) for names in log.candidates], dtype=np.float64)[learned]
    reward, propensity, customer = log.reward[learned], log.propensity[learned], log.customer[learned]
    return (
        ips(reward, propensity, target, cluster=customer, alpha=alpha),
        snips(reward, propensity, target, cluster=customer, alpha=alpha),
    )


def is_uniform(policy: str) -> bool:
    """Whether a logged policy is the uniform slice: `uniform`, or an experiment's variant of that name."""
    return policy.rpartition(".")[2] == "uniform"


def _offer(log: ExposedDecisions, offer: str, alpha: float) -> OfferRow:
    could = np.array([offer in names for names in log.candidates]) | (log.offer == offer)
    taken, reward, propensity = log.offer[could] == offer, log.reward[could], log.propensity[could]
    offers = int(np.mean([max(len(names), 1) for names, own in zip(log.candidates, could, strict=True) if own]))
    allocation = lagged_allocation(taken, propensity, log.snapshot[could], max(offers, 1))
    value = estimate_arm_value(reward, taken, propensity, allocation, alpha=alpha)
    return OfferRow(offer, int(taken.sum()), float(reward[taken].mean()), value)


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


def _rate(arm: Arm, alpha: float) -> RewardRate | NotEstimable:
    if arm.n < 2:
        return NotEstimable("one customer only; an interval needs two")
    if arm.variance == 0:
        return NotEstimable(f"every reward is {arm.value:g}; an interval needs some that differ")
    reach = critical_t(alpha, arm.n - 1) * arm.variance**0.5
    return RewardRate(arm.value, arm.value - reach, arm.value + reach)


def _against_uniform(arms: dict[str, Arm], alpha: float) -> dict[str, Effect | NotEstimable]:
    uniform = next((arm for name, arm in arms.items() if is_uniform(name)), None)
    result: dict[str, Effect | NotEstimable] = {}
    for name, arm in arms.items():
        if is_uniform(name):
            continue
        if uniform is None:
            result[name] = NotEstimable("no uniform slice is in the log")
        elif min(arm.n, uniform.n) < 2 or arm.variance + uniform.variance == 0:
            result[name] = NotEstimable("too few customers, or no reward that differs")
        else:
            result[name] = _difference(uniform, arm, alpha)
    return result


def _difference(uniform: Arm, arm: Arm, alpha: float) -> Effect | NotEstimable:
    width = interval_scale(uniform, arm, Inference(method="fixed", alpha=alpha))
    return width if isinstance(width, NotEstimable) else absolute_effect(uniform, arm, width)
