"""What is asked of the log: an experiment's design and its metrics, as the analysis needs them."""

import msgspec

from engine.analysis.design.methods import Inference
from engine.analysis.design.metrics import Direction
from engine.catalog.spec.experiment import Unit
from engine.errors import BadInput
from engine.metric_kinds import METRIC_KINDS, MetricKind, MetricKindName


class MeasuredMetric(msgspec.Struct, frozen=True, kw_only=True):
    """A metric over a customer's events after the first exposure; `filter` is a condition on their properties.

    `mean` sums `value` (the column `revenue`, or a property of the event), `count` counts events, `proportion` asks
    whether there was any, `retention` whether there was any in the `window` that begins `delay` after the exposure,
    `ratio` divides by the sum of `denominator_value` (or the count) of `denominator` events, `quantile` is of single
    events' values. Windows and delays are seconds; no window means up to the report's date.
    """

    name: str
    kind: MetricKindName
    event: str
    value: str | None = None
    denominator: str | None = None
    denominator_value: str | None = None
    denominator_filter: dict[str, object] = {}
    filter: dict[str, object] = {}
    window: float | None = None
    delay: float = 0.0
    quantile: float | None = None
    winsorize: float | None = None  # values above this quantile of all units count as that quantile
    covariate_window: float | None = None  # CUPED: the same metric over this many seconds before the exposure
    direction: Direction = "increase"
    margin: float = 0.0  # the relative loss a guardrail tolerates
    money: float | None = None  # what one more of it is worth, in the shop's currency
    ripe: bool = False  # count only units whose window is over; a retention always does

    def __post_init__(self) -> None:
        rules = self.rules
        if rules.needs_value and self.value is None:
            raise BadInput(f"metric {self.name!r} is a {self.kind} and needs the value it is of, as in value: revenue")
        if rules.has_denominator != (self.denominator is not None):
            raise BadInput(f"metric {self.name!r}: a ratio, and only a ratio, has a denominator")
        if rules.has_level != (self.quantile is not None):
            raise BadInput(f"metric {self.name!r}: a quantile, and only a quantile, has a level, as in quantile: 0.9")
        if (rules.needs_whole_window or self.ripe) and self.window is None:
            raise BadInput(f"metric {self.name!r} must be over to count and needs the window in which the event counts")
        if rules.needs_whole_window and not self.ripe:
            msgspec.structs.force_setattr(self, "ripe", True)

    @property
    def rules(self) -> MetricKind:
        """What holds for its kind."""
        return METRIC_KINDS[self.kind]


class ExperimentQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment as far as its report depends on it. `weights` are the variants' shares, by key."""

    key: str
    control: str
    weights: dict[str, float]
    primary: str
    secondary: tuple[str, ...] = ()
    guardrails: tuple[str, ...] = ()
    inference: Inference = Inference()
    unit: Unit = "customer"
    start: float | None = None  # seconds since 1970: earlier exposures do not count
    coverage: float = 1.0  # the share of eligible units let in, to scale money to full traffic
    min_days: float = 0.0
