"""The YAML of metrics, as structs that reject unknown keys."""

from typing import Annotated, Literal

from msgspec import Meta

from engine.catalog.spec.fields import Condition, Key, Positive, Probability, PropertyName, Span, Spec, Text
from engine.catalog.spec.sources import TableSpec
from engine.metric_kinds import METRIC_KINDS, MetricKindName


class StepSpec(Spec, frozen=True, kw_only=True):
    """A step of a funnel: an event, and a condition on its properties."""

    event: Text
    filter: Condition = {}


class MetricSpec(Spec, frozen=True, kw_only=True):
    """One metric: which events count, and how they become one number per customer.

    Events count from the first exposure, or `delay` after it, for `window`; `filter` is a condition on their
    properties. A proportion or retention asks only whether an event occurred, whatever its `value`. A ratio divides
    by the number of `denominator` events, or by their sum of `denominator_value`. With `covariate_window` the same
    metric over that span before the exposure reduces the variance (CUPED). A customer counts once `delay` and `window`
    are over; with `ripe: false` all count as they are, except in a retention. Sizes above the quantile `winsorize` of
    those other than zero are set to that quantile. `margin` is the largest relative loss that a guardrail
    tolerates; `money` is the worth of one unit of the metric.

    A `funnel` is the share of customers with all `steps` in this order, and with `within` no longer apart than that; a
    step is an event, or `{event: …, filter: …}`. A `threshold` is the share with `at_least` so many events, or with
    `value` so large a sum of it. `active_days` are the calendar days, in the shop's zone, with such an event.

    With a `source` the rows of a table outside the log are the events. `filter` is then a condition on its columns.

    `check` warns of a run that is too short if four keys describe the metric. `baseline` is its value without any
    change, `deviation` its standard deviation (not needed for a proportion). `daily_units` is the number of units per
    day, and `mde` the least relative change worth detecting.
    """

    key: Key
    title: Text | None = None
    kind: MetricKindName = "proportion"
    event: Text | None = None
    source: TableSpec | None = None
    steps: Annotated[list[Text | StepSpec], Meta(min_length=2, max_length=10)] | None = None
    within: Span | None = None
    at_least: Positive | None = None
    value: PropertyName | None = None
    denominator: Text | None = None
    denominator_value: PropertyName | None = None
    denominator_filter: Condition = {}
    quantile: Probability | None = None
    delay: Span | None = None
    window: Span | None = None
    ripe: bool | None = None
    covariate_window: Span | None = None
    filter: Condition = {}
    winsorize: Annotated[float, Meta(gt=0.5, le=1)] | None = None
    direction: Literal["up", "down"] = "up"
    margin: Annotated[float, Meta(ge=0)] | None = None
    money: float | None = None
    baseline: Positive | None = None
    deviation: Positive | None = None
    daily_units: Positive | None = None
    mde: Positive | None = None

    @property
    def ordered_steps(self) -> list[StepSpec]:
        """The steps of a funnel; for any other metric its single event."""
        if self.steps is not None:
            return [StepSpec(event=step) if isinstance(step, str) else step for step in self.steps]
        return [] if self.event is None else [StepSpec(event=self.event, filter=self.filter)]

    @property
    def events(self) -> tuple[str, ...]:
        """The events that the metric counts, each once, without those of a ratio's denominator."""
        return tuple(dict.fromkeys(step.event for step in self.ordered_steps))


def is_in_money(metric: MetricSpec) -> bool:
    """Whether the metric is an amount of money, or has a worth in money."""
    return metric.money is not None or METRIC_KINDS[metric.kind].is_money


KpiTier = Literal["implementation", "strategy", "business"]
"""Operational lead measures, what customers experience, and what the business lives on, in the order of cause."""
KPI_TIERS: tuple[KpiTier, ...] = ("implementation", "strategy", "business")


class KpiSpec(Spec, frozen=True, kw_only=True):
    """One node of the KPI tree: a metric of this file, its tier, and the metrics that it is expected to drive.

    A driven metric is a node of its own, of the same tier or a later one. `assumed` is the slope that the team expects
    of such an edge: the change of the driven metric when this one rises by 1. `measure kpis` shows it beside the slope
    that past experiments have, and never computes with it.
    """

    metric: Key
    tier: KpiTier
    drives: list[Key] = []
    assumed: dict[Key, float] = {}


CurrencyCode = Annotated[
    str,
    Meta(
        pattern="^[A-Z]{3}$",
        description="an ISO 4217 code: EUR",
        extra={"remedy": "use an ISO 4217 code such as EUR"},
    ),
]


class MetricsFile(Spec, frozen=True, kw_only=True):
    """`metrics.yaml`: the shop's metrics, and as `kpis` which of them drives which; every amount is in `currency`.

    An event that states another `currency` is converted where it enters: `rates` has what one unit of it is worth in
    the shop's. Without a rate the event is rejected. Converted are `revenue`, a refund's `amount`, and the values of
    metrics of kind revenue.
    """

    metrics: Annotated[list[MetricSpec], Meta(min_length=1)]
    kpis: list[KpiSpec] = []
    currency: CurrencyCode = "EUR"
    rates: dict[CurrencyCode, Annotated[float, Meta(gt=0, le=1e6)]] = {}
