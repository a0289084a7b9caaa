"""The one object that command line, JSON and dashboard render: effects, quality and the decision they lead to."""

from typing import Literal

import msgspec

from engine.analysis.design.methods import Method
from engine.analysis.design.metrics import Direction, Role
from engine.analysis.report.quality import ExposureCheck, SampleRatio
from engine.analysis.stats.estimate import Bayes, Effect, NotEstimable
from engine.metric_kinds import MetricKindName

Verdict = Literal["ship", "keep running", "stop", "fix the data"]


class Novelty(msgspec.Struct, frozen=True):
    """The primary metric's effect per unit and day, among units seen so long, in days since the first exposure."""

    variant: str
    from_day: float
    to_day: float
    effect: Effect | NotEstimable


class Quality(msgspec.Struct, frozen=True):
    """What was checked before any number; `flags` are sentences for people."""

    srm: SampleRatio
    crossovers: int = 0
    flags: list[str] = []
    exposure: ExposureCheck | None = None
    novelty: list[Novelty] = []


class MetricReport(msgspec.Struct, frozen=True):
    """One metric of one variant against control. `adjusted_p` is over the metrics and variants of its role.

    `chance_best` and `loss_best` are against all variants, control too: the chance to be the best, and what choosing
    this one loses to the best on average, relative to control. `guard` is set for guardrails: `passed` once shown to
    be within a margin, `harmed` beyond it, `open` until then.
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
    variance_reduction: float | None = None
    margin: float | None = None
    guard: Literal["passed", "harmed", "open"] | None = None
    chance_best: float | None = None
    loss_best: float | None = None
    words: str = ""


class SegmentEffect(msgspec.Struct, frozen=True):
    """A variant's absolute effect in one segment: as measured, and shrunken towards what all segments say."""

    segment: str
    units: dict[str, int]
    measured: Effect | NotEstimable
    shrunken: Effect | NotEstimable
    adjusted_p: float | None = None


class SegmentReport(msgspec.Struct, frozen=True):
    """One metric of one variant by segment; `heterogeneity_p` asks whether the segments differ at all."""

    metric: str
    variant: str
    trait: str
    heterogeneity_p: float | None
    between_sd: float | None
    effects: list[SegmentEffect]


class Money(msgspec.Struct, frozen=True):
    """What shipping `variant` would bring per month at full traffic, in the shop's currency, and how that is known."""

    estimate: float
    low: float
    high: float
    metric: str = ""
    variant: str = ""
    basis: str = ""


class Decision(msgspec.Struct, frozen=True):
    """What to do, why, and what it is worth."""

    verdict: Verdict
    why: str
    money_per_month: Money | NotEstimable
    days_left: float | None = None
    would_change: str = ""


class Report(msgspec.Struct, frozen=True):
    """The answer to one experiment's question."""

    experiment: str
    as_of: str
    control: str
    alpha: float
    units: dict[str, int]
    quality: Quality
    metrics: list[MetricReport]
    decision: Decision
    segments: list[SegmentReport] = []
    days: float | None = None  # between the first and the last exposure

    def json(self) -> bytes:
        """The report as the JSON of the contract."""
        return msgspec.json.encode(self)
