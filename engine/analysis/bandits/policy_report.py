"""Reports the policies of a placement from the log: reward rates, the values of offers, and whether rewards drift.

Every interval is by customer: the rows of one customer are added before they are squared, and differences are paired.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import combinations, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.bandits.arm_values import ArmScores, RowOwners, contrast_arms, score_arm, trend_p_value
from engine.analysis.bandits.creative_values import CreativeValue, value_creatives
from engine.analysis.bandits.exposed_choices import ExposedChoices, read_exposed_choices
from engine.analysis.bandits.quarantined import count_quarantined_rewards
from engine.analysis.bandits.settled import Unsettled
from engine.analysis.design.log_times import SECOND
from engine.analysis.offpolicy.estimators import Estimate, ips, snips
from engine.analysis.stats.clusters import ClusteredMean
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.multiplicity import holm
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.sources.traced_traits import ReportSplit
    from engine.analysis.stats.moments import Floats

PERIODS = 4
"""Periods with a value of their own; each has as many decisions."""
MOST_CONTRASTED = 20
"""With more offers there are no contrasts: the pairs would be hundreds."""


class NothingExposed(BadInput):
    """The error of a log without exposed decisions of the placement's policies."""


class RewardRate(msgspec.Struct, frozen=True):
    """A mean reward per exposure with its interval, clustered by customer."""

    estimate: float
    low: float
    high: float


class PolicyRow(msgspec.Struct, frozen=True):
    """The exposures and rewards of one policy of a placement."""

    policy: str
    exposures: int
    rewards: float
    rate: RewardRate | NotEstimable


class PeriodValue(msgspec.Struct, frozen=True):
    """An offer's value in the decisions from `start` to `end`."""

    start: str
    end: str
    value: Effect | NotEstimable


class OfferRow(msgspec.Struct, frozen=True, kw_only=True):
    """The rewards of one offer at the placement.

    `value` is the expected reward of showing it whenever it is a candidate, by AIPW: the mean over the time of the
    log. `naive_mean` is the plain mean of its rewards, which is biased because a policy shows an offer more often
    while its rewards are high.
    """

    offer: str
    exposures: int
    naive_mean: float
    value: Effect | NotEstimable
    trend_p: float | None
    """The p-value of the hypothesis that its reward has no trend, adjusted for several offers by Holm's method."""
    periods: list[PeriodValue]
    """Its value in each quarter of the decisions."""


class PositionRow(msgspec.Struct, frozen=True):
    """The exposures and rewards of one list position, counted from 1, over all policies."""

    position: int
    exposures: int
    rewards: float
    rate: RewardRate | NotEstimable


class OfferContrast(msgspec.Struct, frozen=True, kw_only=True):
    """The value of an offer minus that of `against`, where both were candidates."""

    offer: str
    against: str
    effect: Effect | NotEstimable


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """The assumption of the values about time, and whether the log contradicts it."""

    statement: str
    p: float | None
    """The least adjusted p-value of a trend; None where no offer has one."""
    offers: list[str]
    """Those whose reward changed: their adjusted p-value is below alpha."""


class PolicyReport(msgspec.Struct, frozen=True, kw_only=True):
    """A placement's policies, and the off-policy value of choosing uniformly among the logged candidates.

    `against_uniform` compares each policy's reward rate with that of the uniform slice, paired by customer.
    """

    placement: str
    as_of: str
    policies: list[PolicyRow]
    uniform_ips: Estimate | NotEstimable
    uniform_snips: Estimate | NotEstimable
    against_uniform: dict[str, Effect | NotEstimable]
    arms: list[OfferRow]
    contrasts: list[OfferContrast]
    """Every pair of offers; empty where there are more than 20."""
    drift: Drift
    unsettled: Unsettled
    positions: list[PositionRow] = []
    """The positions of a list; empty for a placement that shows a single offer."""
    creatives: list[CreativeValue] = []
    """The creatives by offer, channel and segment; empty where no offer has any."""
    quarantined: dict[str, int] = {}
    """Rewards of its decisions, or of unknown ones, that could not be used, by reason."""

    def json(self) -> bytes:
        """The report as JSON."""
        return msgspec.json.encode(self)


def policy_report(
    log_dir: Path | str,
    placement: str,
    *,
    alpha: float = 0.05,
    as_of: datetime | None = None,
    window: float | None = None,
    ripe: bool = True,
    split: ReportSplit | None = None,
) -> PolicyReport:
    """Report the policies that chose a placement's offers, from the log's decisions, exposures and rewards.

    A row is an exposed decision; a corrected reward replaces the earlier one. A policy is its name without the
    snapshot's version ('home_hero@17' is home_hero); fallbacks, which no policy chose, are left out. Exposures
    whose reward may still arrive do not count: `window` has the seconds in which one may, where the log has no zero
    that tells; with `ripe` false they count as they are. `split` splits the values of creatives by a segment. With
    `as_of` only decisions, exposures and rewards until then count.

    Raises:
        BadInput: if the placement has no decision in the log.
    """
    folder = Path(log_dir)
    log, unsettled = read_exposed_choices(folder, placement, as_of, window=window, ripe=ripe, split=split)
    if log is None and unsettled.exposures:
        raise BadInput(
            f"placement {placement!r}: {unsettled.text} None has settled; report it after that, or --no-ripe counts "
            "them as they are"
        )
    if log is None:
        until = f" until {as_of.isoformat(timespec='seconds')}" if as_of else ""
        raise NothingExposed(
            f"placement {placement!r} has no exposed decision of a policy in {folder}{until}; check the name"
        )
    means = {name: _mean_reward(log, at) for at, name in enumerate(log.policies)}
    arms = {name: _score_offer(log, at) for at, name in enumerate(log.offers)}
    rows = _offer_rows(log, arms, alpha)
    uniform = _uniform(log, alpha)
    return PolicyReport(
        placement=placement,
        as_of=_format_time((as_of or datetime.now(UTC)).timestamp()),
        policies=[_policy_row(log, at, means[name], alpha) for at, name in enumerate(log.policies)],
        uniform_ips=uniform[0],
        uniform_snips=uniform[1],
        against_uniform=_against_uniform(means, alpha),
        arms=rows,
        contrasts=_contrasts(arms, alpha),
        drift=_describe_drift(log, rows, alpha),
        creatives=[] if log.shown is None else list(value_creatives(log.shown, alpha)),
        unsettled=unsettled,
        positions=[_position_row(log, int(at), alpha) for at in np.unique(log.position) if at],
        quarantined=count_quarantined_rewards(folder, placement, as_of),
    )


def is_uniform(policy: str) -> bool:
    """Whether a logged policy is the uniform slice: `uniform`, or an experiment's variant of that name."""
    return policy.rpartition(".")[2] == "uniform"


def _mean_reward(log: ExposedChoices, policy: int) -> ClusteredMean:
    """A policy's mean reward per exposure."""
    own = log.policy == policy
    return ClusteredMean.of_rows(log.reward[own], np.ones(int(own.sum())), log.customer[own], log.customers)


def _policy_row(log: ExposedChoices, policy: int, mean: ClusteredMean, alpha: float) -> PolicyRow:
    rewards = log.reward[log.policy == policy]
    return PolicyRow(log.policies[policy], len(rewards), float(rewards.sum()), _reward_rate(rewards, mean, alpha))


def _position_row(log: ExposedChoices, position: int, alpha: float) -> PositionRow:
    own = log.position == position
    rewards = log.reward[own]
    mean = ClusteredMean.of_rows(rewards, np.ones(len(rewards)), log.customer[own], log.customers)
    return PositionRow(position, len(rewards), float(rewards.sum()), _reward_rate(rewards, mean, alpha))


def _reward_rate(rewards: Floats, mean: ClusteredMean, alpha: float) -> RewardRate | NotEstimable:
    if np.ptp(rewards) == 0 and mean.clusters > 1:
        return NotEstimable(f"every reward is {mean.value:g}; an interval needs some that differ")
    effect = mean.effect(alpha)
    return effect if isinstance(effect, NotEstimable) else RewardRate(effect.estimate, effect.low, effect.high)


def _against_uniform(means: Mapping[str, ClusteredMean], alpha: float) -> dict[str, Effect | NotEstimable]:
    """Each policy's mean reward minus that of the uniform slice; a customer may have decisions of both."""
    uniform = next((mean for name, mean in means.items() if is_uniform(name)), None)
    result: dict[str, Effect | NotEstimable] = {}
    for name, mean in means.items():
        if is_uniform(name):
            continue
        if uniform is None:
            result[name] = NotEstimable("no uniform slice is in the log")
            continue
        effect = (mean - uniform).effect(alpha)
        if min(mean.clusters, uniform.clusters) < 2 or isinstance(effect, NotEstimable):
            effect = NotEstimable("one of the two has fewer than two customers, or all rewards are equal")
        result[name] = effect
    return result


def _uniform(log: ExposedChoices, alpha: float) -> tuple[Estimate | NotEstimable, Estimate | NotEstimable]:
    """IPS and SNIPS estimates of uniform choice on the rows of learned policies."""
    learned = np.array([not is_uniform(name) for name in log.policies])[log.policy]
    if learned.sum() < 2:
        nothing = NotEstimable("no decision of a learned policy is in the log")
        return nothing, nothing
    customer = log.customer[learned]
    if np.ptp(customer) == 0:
        alone = NotEstimable("one customer only; an interval needs two")
        return alone, alone
    reward, propensity, target = log.reward[learned], log.propensity[learned], 1 / log.count_candidates()[learned]
    return (
        ips(reward, propensity, target, cluster=customer, alpha=alpha),
        snips(reward, propensity, target, cluster=customer, alpha=alpha),
    )


def _score_offer(log: ExposedChoices, offer: int) -> ArmScores:
    """An offer's scores in the rows in which it was a candidate."""
    owners = RowOwners(policy=log.policy, customer=log.customer, customers=log.customers)
    return score_arm(
        candidate=log.find_candidates(offer),
        taken=log.offer == offer,
        propensity=log.propensity,
        reward=log.reward,
        owners=owners,
    )


def _offer_rows(log: ExposedChoices, arms: Mapping[str, ArmScores], alpha: float) -> list[OfferRow]:
    """A row per offer, with its value overall and in each period."""
    trends = {name: trend_p_value(arm) for name, arm in arms.items()}
    tested = [name for name, p in trends.items() if p is not None]
    adjusted = dict(zip(tested, holm([p for p in trends.values() if p is not None]), strict=True))
    edges = np.arange(1, PERIODS) * len(log) // PERIODS
    return [
        OfferRow(
            offer=name,
            exposures=arm.shown,
            naive_mean=float(log.reward[arm.rows][arm.taken].mean()),
            value=arm.value(alpha),
            trend_p=adjusted.get(name),
            periods=_period_values(log, arm, edges.tolist(), alpha),
        )
        for name, arm in arms.items()
    ]


def _period_values(log: ExposedChoices, arm: ArmScores, edges: Sequence[int], alpha: float) -> list[PeriodValue]:
    """An offer's values in the periods of the log between the rows `edges`."""
    bounds = [0, *edges, len(log)]
    return [
        PeriodValue(
            start=_format_time(float(log.time[first]) / SECOND),
            end=_format_time(float(log.time[last - 1]) / SECOND),
            value=arm.select((arm.rows >= first) & (arm.rows < last)).value(alpha),
        )
        for first, last in pairwise(bounds)
        if last > first
    ]


def _contrasts(arms: Mapping[str, ArmScores], alpha: float) -> list[OfferContrast]:
    """The difference of each pair of offers."""
    if len(arms) > MOST_CONTRASTED:
        return []
    return [
        OfferContrast(offer=one, against=other, effect=contrast_arms(arms[one], arms[other], alpha))
        for one, other in combinations(arms, 2)
    ]


def _describe_drift(log: ExposedChoices, rows: Sequence[OfferRow], alpha: float) -> Drift:
    """Describes the period of the means, and the offers whose rewards changed during it."""
    first, last = (_format_time(float(log.time[at]) / SECOND)[:16].replace("T", " ") for at in (0, -1))
    known = [row.trend_p for row in rows if row.trend_p is not None]
    drifting = [row.offer for row in rows if row.trend_p is not None and row.trend_p < alpha]
    statement = f"Values are means over the time of the log, {first} to {last} UTC."
    if drifting:
        statement += (
            f" The reward of {', '.join(drifting)} changed meanwhile, so these means do not hold for later: "
            "read the values by period, and let the policy forget (`discount`)."
        )
    else:
        seen = "no offer's reward shows a trend" if known else "the log is too small to test that"
        statement += f" They hold for later if rewards stay as they are; {seen}."
    return Drift(statement=statement, p=min(known, default=None), offers=drifting)


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
