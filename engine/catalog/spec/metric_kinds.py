"""The kinds of metrics, one entry each: what `check` asks of a metric's YAML and of a reward that uses it.

How a kind is estimated is in `engine.analysis.design`; a new kind needs an entry there and one here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MetricKindName = Literal["proportion", "mean", "count", "revenue", "ratio", "quantile", "retention"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRules:
    """What holds for every metric of one kind."""

    required: str | None = None
    """The key that a metric of this kind cannot do without."""
    rewards_are_counts: bool = False
    """Whether each event is a reward of 1, which every policy can learn from; else it carries an amount."""
    is_share: bool = False
    """Whether it is the share of customers with the event, between 0 and 1, whose deviation follows from it."""


METRIC_KINDS: Mapping[MetricKindName, MetricRules] = {
    "proportion": MetricRules(rewards_are_counts=True, is_share=True),
    "mean": MetricRules(required="value"),
    "count": MetricRules(rewards_are_counts=True),
    "revenue": MetricRules(),
    "ratio": MetricRules(required="denominator"),
    "quantile": MetricRules(required="quantile"),
    "retention": MetricRules(required="window", rewards_are_counts=True, is_share=True),
}
