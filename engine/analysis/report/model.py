"""The report object that the command line, JSON and the dashboard render: effects, data quality, recommendation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from engine.analysis.checks.open_windows import OpenWindows
from engine.analysis.checks.uncounted import UncountedEvents
from engine.analysis.design.methods import Method
from engine.analysis.design.metrics import Direction, Role
from engine.analysis.report.quality import ExposureCheck
from engine.analysis.report.sample_ratio import SampleRatio
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable
from engine.metric_kinds import MetricKindName

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from altair import LayerChart

Verdict = Literal["ship", "keep running", "stop", "fix the data"]


class RampPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """A ramp step in the report's period: the admitted share of its audience, and its new units."""

    coverage: float
    begin: str
    end: str
    units: int


class Novelty(msgspec.Struct, frozen=True):
    """The primary metric's effect per unit and day, in a window of days since a unit's first exposure.

    Only units whose window is over are counted.
    """

    variant: str
    from_day: float
    to_day: float
    effect: Effect | NotEstimable


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """A covariate from before the exposure in control and a variant: `ok` unless it differs more than by chance.

    `p` is times the number of covariates and variants.
    """

    metric: str
    variant: str
    covariate: str
    mean: dict[str, float]
    p: float
    ok: bool


class Quality(msgspec.Struct, frozen=True, kw_only=True):
    """The checks of the data; `flags` are their findings as sentences, `uncounted` has events left out, by metric."""

    srm: SampleRatio
    crossovers: int = 0
    flags: list[str] = []
    exposure: ExposureCheck | None = None
    novelty: list[Novelty] = []
    balance: list[Balance] = []
    uncounted: dict[str, UncountedEvents] = {}


class Winsorized(msgspec.Struct, frozen=True, kw_only=True):
    """The cap of a winsorized metric: the quantile `level` of the sizes of its non-zero values, over all variants.

    `share` is the share of all units whose value is larger than the cap, or smaller than its negative, and counts as
    that.
    """

    level: float
    cap: float
    share: float


class MetricReport(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one variant against control. `adjusted_p` is over the metrics and variants of its role.

    `chance_best` is the probability that the variant is the best of all variants and control, and `loss_best` the
    expected loss against the best of them, relative to control. `guard` is set for guardrails: `passed` once the
    interval lies within the margin, `harmed` once it lies beyond, `open` until then. `joint` is the relative effect of
    a guardrail whose interval lies beyond its margin, with the interval that holds for all guardrails and variants
    together: harm is judged by it. `parts` has the relative effects on the `numerator` and `denominator` of a ratio,
    each per unit. `response` is the share of each
    variant's units that answered, where the metric is of answers.
    """

    metric: str
    kind: MetricKindName
    variant: str
    method: Method
    role: Role
    direction: Direction
    units: dict[str, int]
    mean: dict[str, float]
    absolute: Effect | NotEstimable
    relative: Effect | NotEstimable
    bayes: Bayes | NotEstimable
    adjusted_p: float | None = None
    covariates: list[str] = []
    raw_mean: dict[str, float] = {}
    response: dict[str, float] = {}
    """Each variant's mean before the adjustment for covariates, which `mean` has; empty without covariates."""
    variance_reduction: float | None = None
    margin: float | None = None
    guard: Literal["passed", "harmed", "open"] | None = None
    joint: Effect | NotEstimable | None = None
    parts: dict[str, Effect | NotEstimable] = {}
    chance_best: float | None = None
    loss_best: float | None = None
    winsorized: Winsorized | None = None
    open_windows: OpenWindows | None = None
    interpretation: str = msgspec.field(default="", name="words")
    """The relation of the chance to win to the p-value and the interval, as a sentence."""


class SegmentEffect(msgspec.Struct, frozen=True, kw_only=True):
    """A variant's absolute effect in one segment: as measured, and shrunken towards the mean of all segments."""

    segment: str
    units: dict[str, int]
    measured: Effect | NotEstimable
    shrunken: Effect | NotEstimable
    adjusted_p: float | None = None


class SegmentReport(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one variant by segment; `heterogeneity_p` tests whether all segments have the same effect."""

    metric: str
    variant: str
    trait: str
    heterogeneity_p: float | None
    between_sd: float | None
    effects: list[SegmentEffect]


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """The value of shipping `variant` per month at full traffic, in the shop's currency; `basis` is the traffic.

    It is `settled` once the effect is significant: its interval excludes zero, at the adjusted p-value too.
    """

    estimate: float
    low: float
    high: float
    metric: str = ""
    variant: str = ""
    basis: str = ""
    settled: bool = False


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, its reason, its money value and what would change it. `days_left` is until a verdict."""

    verdict: Verdict
    why: str
    money_per_month: Money | NotEstimable
    days_left: float | None = None
    would_change: str = ""


class FirstVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """The recommendation by the question of the first exposure, where it is other now; `plan` is the one that ran."""

    plan: str
    changes: list[str]
    recommendation: Recommendation = msgspec.field(name="decision")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one experiment or table.

    `title` to `currency` are those of the experiment's file, `start` and `end` the planned dates. `first_exposure` and
    `last_exposure` are the dates in the log, and `days` the time between them. Of a holdout, `covers` are the
    experiments that it is kept out of, and `cumulated` says what they come to together.
    `first_verdict` is set where the question changed after the first exposure, `unverified_question` where it could not
    be verified whether it did, with the reason.
    """

    experiment: str
    as_of: str
    control: str
    alpha: float
    units: dict[str, int]
    quality: Quality
    metrics: list[MetricReport]
    recommendation: Recommendation = msgspec.field(name="decision")
    segments: list[SegmentReport] = []
    days: float | None = None
    method: Method = "sequential"
    title: str = ""
    hypothesis: str = ""
    owner: str = ""
    start: str | None = None
    end: str | None = None
    first_exposure: str | None = None
    last_exposure: str | None = None
    channels: list[str] = []
    audience: dict[str, object] = {}
    currency: str = ""
    conclusion: str = ""  # of an experiment that is over: the day, the person and the reason of its decision
    ramp_stop: str = ""  # of a ramp that holds itself and returned everyone to control: since when, and why
    design: str = ""  # of a switchback: its periods, and what its effects rest on
    covers: list[str] = []
    ramp: list[RampPeriod] = []
    cumulated: str = ""
    first_verdict: FirstVerdict | None = None
    unverified_question: str = ""

    def json(self) -> bytes:
        """The report as the JSON of the contract."""
        return msgspec.json.encode(self)

    # The renderings import this module, and their libraries are optional.

    def _repr_html_(self) -> str:
        """The report as HTML for notebooks, without charts; see `plot`."""
        from engine.analysis.render.html import notebook_html  # noqa: PLC0415

        return notebook_html(self)

    def to_pandas(self) -> pd.DataFrame:
        """A row per metric and variant; columns as `render.tabular.COLUMNS`.

        Raises:
            BadInput: if pandas is not installed.
        """
        from engine.analysis.render.tabular import pandas_frame  # noqa: PLC0415

        return pandas_frame(self)

    def to_polars(self) -> pl.DataFrame:
        """As `to_pandas`.

        Raises:
            BadInput: if polars is not installed.
        """
        from engine.analysis.render.tabular import polars_frame  # noqa: PLC0415

        return polars_frame(self)

    def plot(self) -> LayerChart:
        """The relative effects with their intervals as an Altair chart.

        Raises:
            BadInput: if altair is not installed, or no metric has a relative effect.
        """
        from engine.analysis.render.html import report_chart  # noqa: PLC0415

        return report_chart(self)
