"""The question that a report answers: an experiment's design and its metrics, as the analysis needs them."""

from collections.abc import Mapping

import msgspec

from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import Direction
from engine.catalog.conditions.compile import Predicate
from engine.catalog.plan.switchback import Switchback
from engine.catalog.spec.sources import SourceSpec
from engine.catalog.spec.units import STORE_TRAIT, Unit
from engine.customer import IdKind
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS, MetricKind, MetricKindName


class MeasuredStep(msgspec.Struct, frozen=True):
    """One step of a funnel: an event whose properties meet the filter."""

    event: str
    filter: dict[str, object] = {}


class MeasuredTable(msgspec.Struct, frozen=True, kw_only=True):
    """The table outside the log whose rows are a metric's events, and its columns.

    `rates` has the worth of one unit of each currency in the shop's, the shop's own included.
    """

    connection: SourceSpec
    table: str
    customer: str
    time: str
    value: str | None = None
    denominator: str | None = None
    currency: str | None = None
    event: str | None = None
    identifier: IdKind | None = None
    rates: dict[str, float] = {}


class MeasuredExposures(msgspec.Struct, frozen=True, kw_only=True):
    """A table outside the log with an experiment's exposures, its columns, and the experiment's `key` in it."""

    connection: SourceSpec
    table: str
    customer: str
    time: str
    variant: str
    experiment: str | None = None
    key: str | None = None
    identifier: IdKind | None = None


class MeasuredMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over a customer's events after the first exposure; `filter` is a condition on their properties.

    `mean` sums `value` (the column `revenue`, or a property of the event), `count` counts events, `proportion` asks
    whether there was any, `retention` whether there was any in the `window` that begins `delay` after the exposure,
    `ratio` divides by the sum of `denominator_value` (or the count) of `denominator` events, `quantile` is of single
    events' values. Windows and delays are seconds; no window means up to the report's date.

    `funnel` asks whether the events of `steps` came in their order, `within` so many seconds, `threshold` whether the
    sum (or the count) is `at_least` so large, and `active_days` counts the days, by the clock of `zone`, with an event.
    With a `source` the rows of its table are the events, and `filter` is of its columns.
    """

    name: str
    kind: MetricKindName
    event: str = ""
    source: MeasuredTable | None = None
    steps: tuple[MeasuredStep, ...] = ()
    within: float | None = None
    at_least: float | None = None
    zone: str = "UTC"
    value: str | None = None
    denominator: str | None = None
    denominator_value: str | None = None
    denominator_filter: dict[str, object] = {}
    filter: dict[str, object] = {}
    window: float | None = None
    delay: float = 0.0
    quantile: float | None = None
    winsorize: float | None = None  # values above this quantile of the non-zero values count as that quantile
    covariate_window: float | None = None  # CUPED: the same metric over this many seconds before the exposure
    direction: Direction = "increase"
    margin: float = 0.0  # the relative loss a guardrail tolerates
    money: float | None = None  # the worth of one unit of it, in the shop's currency
    ripe: bool | None = None  # count only units whose window is over: by default; False counts all as they are

    def __post_init__(self) -> None:
        rules = self.rules
        if rules.needs_value and self.value is None and self.source is None:
            raise BadInput(
                f"metric {self.name!r} is a {self.kind} and needs the property that it measures, as in value: revenue"
            )
        if self.source is None and rules.has_denominator != (self.denominator is not None):
            raise BadInput(f"metric {self.name!r}: a ratio, and only a ratio, has a denominator")
        if rules.has_level != (self.quantile is not None):
            raise BadInput(f"metric {self.name!r}: a quantile, and only a quantile, has a level, as in quantile: 0.9")
        is_of_one_event = bool(self.event) or (self.source is not None and not self.steps)
        if rules.has_steps != bool(self.steps) or rules.has_steps == is_of_one_event:
            raise BadInput(f"metric {self.name!r}: a funnel, and only a funnel, has steps in the place of an event")
        if rules.has_least != (self.at_least is not None):
            raise BadInput(
                f"metric {self.name!r}: a threshold, and only a threshold, has a least value, as in at_least: 3"
            )
        if (rules.needs_whole_window or self.ripe) and self.window is None:
            raise BadInput(
                f"metric {self.name!r} counts units whose window is over, and has none; add one, as in window: 7d"
            )

    @property
    def rules(self) -> MetricKind:
        """The rules of the metric's kind."""
        return METRIC_KINDS[self.kind]

    @property
    def events(self) -> tuple[str, ...]:
        """The events that the metric counts, each once, without those of a ratio's denominator."""
        if self.steps:
            return tuple(dict.fromkeys(step.event for step in self.steps))
        return (self.event,) if self.event else ()

    @property
    def span(self) -> float:
        """The seconds after the first exposure until a unit's value is complete; 0 if it never is."""
        return self.delay + (self.window or 0.0)

    @property
    def needs_closed_window(self) -> bool:
        """Whether a unit counts only once its window is over, as for any retention."""
        return bool(self.span) and (self.rules.needs_whole_window or self.ripe is not False)


class ExperimentDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of an experiment's file for the head of a report. Dates are planned, in ISO 8601."""

    title: str = ""
    hypothesis: str = ""
    owner: str = ""
    start: str | None = None
    end: str | None = None
    channels: list[str] = []
    audience: dict[str, object] = {}
    currency: str = ""
    design: str = ""
    conclusion: str = ""
    ramp_stop: str = ""


class ExperimentQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as its report needs it. `weights` are the variants' shares, by key."""

    key: str
    control: str
    weights: dict[str, float]
    primary: str
    secondary: tuple[str, ...] = ()
    guardrails: tuple[str, ...] = ()
    inference: Inference = Inference()
    description: ExperimentDescription = ExperimentDescription()
    unit: Unit = "customer"
    unit_trait: str | None = None  # of a unit of units.yaml: the trait with its id
    switchback: Switchback | None = None  # then a unit of the report is a unit in one period
    has_period_strata: bool = False  # of a switchback: its stratum is the unit at one time of day
    placeholders: frozenset[str] = frozenset()  # ids that name no unit, beside the usual ones
    segments: Mapping[str, Predicate] = {}  # those of segments.yaml, by key
    zone: str = "UTC"  # of customers without a time zone of their own, for segments by the local hour
    start: float | None = None  # seconds since 1970: earlier exposures do not count
    coverage: float = 1.0  # the share of eligible units let in, to scale money to full traffic
    ramp: tuple[tuple[float, float], ...] = ()  # where it changes: the coverage from each time on (s since 1970)
    held_steps: tuple[float, ...] = ()  # the steps of a ramp that holds itself, whose moves are in the log
    min_days: float = 0.0
    is_shipped: bool = False
    decided: float | None = None  # the end of the day of the decision, in seconds since 1970: the report's last moment
    exposures: MeasuredExposures | None = None  # None: those of the log
    side_key: str | None = None  # of a frozen holdout: its key, under which every decision logs its side
    covers: tuple[str, ...] = ()  # of a holdout: the keys of the experiments that its units are kept out of

    @property
    def is_holdout(self) -> bool:
        """Whether the question is about a holdout, whose units count with or without an exposure."""
        return bool(self.covers) or self.side_key is not None

    @property
    def logged_keys(self) -> tuple[str, ...]:
        """The log keys of the decisions that count."""
        return self.covers if self.covers and self.side_key is None else (self.key,)

    @property
    def trait(self) -> str | None:
        """The trait with the unit's id in a decision's context; None for customers and devices."""
        return STORE_TRAIT if self.unit == STORE_TRAIT else self.unit_trait

    def coverage_at(self, time: float) -> float:
        """The coverage at a time (s since 1970)."""
        return next((share for at, share in reversed(self.ramp) if at <= time), self.coverage)
