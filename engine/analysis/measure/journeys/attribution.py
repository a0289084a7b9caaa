"""Attribution: credit for orders by rules, beside the causal credit from randomized choices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.columns import to_microseconds
from engine.analysis.measure.journeys.causal_credit import CausalCredit, causal_credits
from engine.analysis.measure.journeys.credit import RULES, CreditRow, credit_names
from engine.analysis.measure.journeys.touches import TouchName, create_steps
from engine.analysis.measure.model import (
    CellUnit,
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

STAMP: Final = "not causal"
MOST_BARS: Final = 10
_LIMITS = [
    "Not causal: a rule shares orders out among what was seen before them. Who would have ordered anyway is in it.",
    "Causal credit compares each offer with what else could have been shown then, by the logged propensities.",
    "It does not say what a channel is worth: channels were not randomized.",
    "Orders without a touch in the window are credited to nothing.",
]


class AttributionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What gets credit, the days before an order that count, and the half-life of decay in days."""

    by: TouchName = "channel"
    window: float = 30.0
    half_life: float = 7.0
    outcome_window: float = 7.0
    against: str | None = None


class AttributionReport(MeasureReport, frozen=True, kw_only=True):
    """The credits by rule, which sum to `attributed`, and the causal credits of a log's offers by channel."""

    options: AttributionOptions
    conversions: float
    attributed: float
    credits: list[CreditRow]
    causal: list[CausalCredit] | NotEstimable

    def tables(self) -> list[ReportTable]:
        """Credited conversions, credited value, and the causal credits."""
        kinds: tuple[tuple[str, CellUnit, list[tuple[CreditRow, dict[str, float]]]], ...] = (
            ("orders", "count", [(row, row.conversions) for row in self.credits]),
            ("revenue", "money", [(row, row.value) for row in self.credits]),
        )
        found = [
            ReportTable(
                title=f"Credited {what} ({STAMP})",
                columns=[self.options.by, "touches", *RULES, "removal effect"],
                rows=[_cells(row, values) for row, values in pairs],
                note=f"{STAMP.capitalize()}: each column shares out the same {what}.",
                units=units_of(unit, *range(2, 2 + len(RULES))) | {2 + len(RULES): "share"},
            )
            for what, unit, pairs in kinds
        ]
        if isinstance(self.causal, NotEstimable) or not self.causal:
            return found
        columns = ["offer", "channel", "shown", "orders caused", "low", "high", "revenue caused", "low", "high"]
        rows: list[list[ReportCell]] = [
            [row.offer, row.channel, row.shown, *_effect_row(row.credit), *_effect_row(row.money)]
            for row in self.causal
        ]
        note = (
            "Causal: by the logged propensities, doubly robust, against silence where it was drawn too, else against "
            "what else could be shown; 95% intervals."
        )
        units = units_of("count", 3, 4, 5) | units_of("money", 6, 7, 8)
        return [*found, ReportTable(title="Causal credit (causal)", columns=columns, rows=rows, note=note, units=units)]

    def picture(self) -> Picture | None:
        """The credited orders of the largest names by last touch, Shapley and Markov."""
        marks = [
            PictureMark(name=row.name, series=rule, value=row.conversions[rule])
            for row in self.credits[:MOST_BARS]
            for rule in ("last", "shapley", "markov")
        ]
        return Picture(shape="bars", title=f"Credited orders ({STAMP})", marks=marks) if self.attributed else None


def measure_attribution(source: EventSource, options: AttributionOptions | None = None) -> AttributionReport:
    """The credits of channels or offers.

    Raises:
        BadInput: if the source cannot be read, or its table has neither paths nor touches.
    """
    options = options or AttributionOptions()
    to_microseconds("half-life", options.half_life)
    create_steps(source, options.by, options.window)
    rows = credit_names(source, options.half_life)
    attributed, value = (sum(values) for values in ([row.conversions["last"] for row in rows], _worth(rows)))
    is_path = source.log_dir is None and source.column("path") is not None
    conversions = attributed
    if not is_path:
        conversions = float(source.rows("SELECT count(*) FROM {orders} WHERE is_order")[0][0] or 0)
    causal: list[CausalCredit] | NotEstimable
    if source.log_dir is None:
        causal = NotEstimable("a table has no logged propensities")
    else:
        causal = causal_credits(source, window_days=options.outcome_window, against=options.against)
    return AttributionReport(
        report="attribution",
        as_of="" if is_path else source.as_of,
        sentence=_sentence(rows, causal, conversions, attributed),
        money=_money(causal, value),
        standing="not causal",
        limits=_LIMITS,
        currency=source.currency,
        options=options,
        conversions=conversions,
        attributed=attributed,
        credits=rows if attributed else [],
        causal=causal,
    )


def _worth(rows: list[CreditRow]) -> list[float]:
    return [row.value["last"] for row in rows]


def _money(causal: list[CausalCredit] | NotEstimable, value: float) -> MoneyFigure | NotEstimable:
    """The revenue caused by the most valuable offer if the log shows it; else the attributed revenue."""
    known = [] if isinstance(causal, NotEstimable) else [(r, e) for r in causal if isinstance(e := r.money, Effect)]
    if known:
        row, effect = max(known, key=lambda pair: pair[1].estimate)
        what = f"revenue caused by {row.offer} on {row.channel} (causal)"
        return MoneyFigure(what=what, estimate=effect.estimate, low=effect.low, high=effect.high)
    if not value:
        return NotEstimable("no order with revenue follows a touch")
    return MoneyFigure(what="revenue shared out by each rule (not causal)", estimate=value)


def _sentence(
    rows: list[CreditRow], causal: list[CausalCredit] | NotEstimable, conversions: float, attributed: float
) -> str:
    if not conversions:
        return "There is no order yet, so there is no credit."
    if not attributed:
        return f"None of {conversions:,.0f} orders follows a touch, so there is no credit."
    most = rows[0]
    share = most.conversions["last"] / attributed
    text = f"{attributed:,.0f} of {conversions:,.0f} orders follow a touch; the last was {most.name} in {share:.0%}"
    if isinstance(causal, NotEstimable):
        return f"{text}."
    sure = [row for row in causal if isinstance(row.money, Effect) and row.money.low > 0]
    return f"{text}. {len(sure)} of {len(causal)} offers by channel have a significant positive effect on revenue."


def _cells(row: CreditRow, values: dict[str, float]) -> list[ReportCell]:
    return [row.name, row.touches, *(values[rule] for rule in RULES), row.removal]


def _effect_row(effect: Effect | NotEstimable) -> list[ReportCell]:
    return [None] * 3 if isinstance(effect, NotEstimable) else [effect.estimate, effect.low, effect.high]
