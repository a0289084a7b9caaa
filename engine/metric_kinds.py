"""The kinds of metrics: one value per kind, with every property that other code reads.

Code asks a kind for an attribute and never compares its name. To add a kind, add its name to `MetricKindName` and its
value to `METRIC_KINDS`. Write more only if it is computed in a new way. How events add up to a customer's value is in
`EventAdds`, `MetricKind.add_event` and `analysis.sources.orders`. An estimate that is no mean or ratio of units' values
has a module beside `analysis.aggregates.quantiles`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

MetricKindName = Literal[
    "proportion",
    "mean",
    "count",
    "revenue",
    "ratio",
    "quantile",
    "retention",
    "csat",
    "nps",
    "ces",
    "funnel",
    "threshold",
    "active_days",
]
"""The names in `metrics.yaml`, in reports and on the command line."""
MOST_VALUE: Final = 1e12
"""The largest number of an event that a metric counts: sums of squares stay finite, and policies compute up to it.

What is no JSON number up to this, `"NaN"` say, counts as missing to the learner, to a breaker and to reports alike.
"""
EventAdds = Literal["amount", "one", "presence", "days"]
"""The amount that an event adds to its customer: the number it carries, or one.

`presence` is one however many events there are, `days` one for each calendar day with an event.
"""
COUNTED: frozenset[EventAdds] = frozenset(("one", "presence", "days"))
"""The kinds whose events add 1, whatever number they carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricKind:
    """One kind of metric."""

    name: MetricKindName
    required: tuple[str, ...] = ()
    """The keys of `metrics.yaml` that a metric of this kind cannot do without."""
    measured_as: MetricKindName | None = None
    """The kind under which a report measures and prints it, if another: this kind is only a shorter way to write it."""
    default_value: str | None = None
    """The value of an event where the metric names none."""
    default_money: float | None = None
    """The worth of one more of it in the shop's currency, where the metric states none."""

    event_adds: EventAdds = "amount"
    refund_leaves_rest: bool = False
    """Whether a refund of a part of an amount leaves the rest of it as the reward."""

    has_moments: bool = True
    """Whether it is a mean, or a ratio of means, over units, and so estimated from moments; else it needs the rows."""
    is_share: bool = False
    """Whether it is a share of units, between 0 and 1: its variance follows from it, and it is printed in percent."""
    has_dominant_units: bool = False
    """Whether a single unit can hold so much of the total that the mean is what that unit did."""
    has_daily_trend: bool = False
    """Whether its effect can be measured in windows of days since the exposure (novelty)."""
    is_conservative: bool = False
    """Whether its intervals may cover more than their nominal coverage."""

    needs_value: bool = False
    """Whether a report needs to know which number of an event it is of."""
    has_denominator: bool = False
    has_level: bool = False
    needs_whole_window: bool = False
    """Whether only units count whose window is over."""

    has_steps: bool = False
    """Whether it asks for several events in an order; the steps are in the place of its event."""
    has_least: bool = False
    """Whether a unit counts 1 from a least number of events, or a least sum of their values, on; else 0."""

    is_of_answers: bool = False
    """Whether it is a mean over answers, not over customers: who does not answer has no score, and not a score of 0."""
    score_bounds: tuple[float, float] | None = None
    """The answers up to which the score is -100, and from which it is 100; 0 between. None: an answer is its score."""

    table_form: str | None = None
    """The written form of a metric over a table's columns; None if it needs events."""
    takes_covariates: bool = True
    baseline_form: Literal["share", "mean,sd"] | None = None
    """The numbers that describe it for a power calculation; None if only the log can give them."""

    @property
    def is_money(self) -> bool:
        """Whether the value is an amount in the shop's currency, into which events are converted."""
        return self.default_money is not None

    @property
    def needs_history(self) -> bool:
        """Whether the value depends on several events of a unit, so that no single event earns a reward."""
        return self.has_steps or self.has_least or self.event_adds == "days"

    @property
    def is_read_from_tables(self) -> bool:
        """Whether rows of a table outside the log may be its events; answers are those of the log's surveys."""
        return not self.is_of_answers

    @property
    def rewards_are_counts(self) -> bool:
        """Whether a rewarded event counts 1, so that rewards lie in [0, 1]; otherwise rewards are amounts."""
        return self.event_adds in COUNTED

    def add_event(self, value: float, amount: float) -> float:
        """A customer's value after one more event of this amount, as guardrails add events up."""
        return value + amount

    def score(self, answer: float) -> float:
        """The score of an answer."""
        if self.score_bounds is None:
            return answer
        low, high = self.score_bounds
        return 100.0 if answer >= high else -100.0 if answer <= low else 0.0

    @property
    def format(self) -> str:
        """The format string of the metric's mean for people."""
        return "{:.2%}" if self.is_share else "{:.4g}"


METRIC_KINDS: Mapping[MetricKindName, MetricKind] = {
    kind.name: kind
    for kind in (
        MetricKind(
            name="proportion",
            event_adds="presence",
            is_share=True,
            has_daily_trend=True,
            table_form="proportion:COL",
            baseline_form="share",
        ),
        MetricKind(
            name="mean",
            required=("value",),
            needs_value=True,
            refund_leaves_rest=True,
            has_dominant_units=True,
            has_daily_trend=True,
            table_form="mean:COL",
            baseline_form="mean,sd",
        ),
        MetricKind(
            name="count",
            event_adds="one",
            has_dominant_units=True,
            has_daily_trend=True,
            baseline_form="mean,sd",
        ),
        MetricKind(
            name="revenue",
            measured_as="mean",
            default_value="revenue",
            default_money=1.0,
            refund_leaves_rest=True,
            has_dominant_units=True,
            has_daily_trend=True,
        ),
        MetricKind(
            name="ratio",
            required=("denominator",),
            has_denominator=True,
            has_dominant_units=True,
            table_form="ratio:NUM/DEN",
            baseline_form="mean,sd",
        ),
        MetricKind(
            name="quantile",
            required=("quantile", "value"),
            has_moments=False,
            is_conservative=True,
            needs_value=True,
            has_level=True,
            table_form="quantile:COL@0.9",
            takes_covariates=False,
            baseline_form="mean,sd",
        ),
        MetricKind(
            name="retention",
            required=("window",),
            event_adds="presence",
            is_share=True,
            needs_whole_window=True,
        ),
        MetricKind(name="csat", default_value="csat", is_of_answers=True, baseline_form="mean,sd"),
        MetricKind(name="nps", default_value="nps", is_of_answers=True, score_bounds=(6, 9), baseline_form="mean,sd"),
        MetricKind(name="ces", default_value="ces", is_of_answers=True, baseline_form="mean,sd"),
        MetricKind(
            name="funnel",
            required=("steps", "window"),
            event_adds="presence",
            has_steps=True,
            is_share=True,
            baseline_form="share",
        ),
        MetricKind(
            name="threshold",
            required=("at_least", "window"),
            has_least=True,
            is_share=True,
            baseline_form="share",
        ),
        MetricKind(name="active_days", event_adds="days", has_dominant_units=True, baseline_form="mean,sd"),
    )
}
