"""Opportunity: where additional money is, by segment, placement and channel; coverage holes; customer groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from engine.analysis.measure.journeys.choices import create_choices
from engine.analysis.measure.model import (
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureMark,
    ReportCell,
    ReportTable,
    units_of,
)
from engine.analysis.measure.opportunity.cells import OpportunityCell, measure_cells, sum_best
from engine.analysis.measure.opportunity.holes import CoverageHole, find_holes
from engine.analysis.measure.opportunity.personas import Persona, find_personas
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource

MOST_BARS: Final = 12
_LIMITS = [
    "Uplifts are causal, by the logged propensities, within the offers that exist; a new offer may do better or worse.",
    "A month from now is taken to be like the months of the log.",
    "The revenue at stake in a hole is what such customers spend anyway; that an offer adds to it is to be tested.",
    "Groups of customers describe the past. They are found in these data, and no effect is claimed of being in one.",
]


class OpportunityOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The days after a decision that count, the margin share of revenue, and the segment's trait.

    Without a trait the segment is the journey stage before the decision, as far as orders say it.
    """

    window: float = 7.0
    margin: float = 1.0
    by: str | None = None


class OpportunityReport(MeasureReport, frozen=True, kw_only=True):
    """The cells by value, the holes by revenue at stake, and the personas."""

    options: OpportunityOptions
    days: float
    cells: list[OpportunityCell]
    together: Effect | NotEstimable
    holes: list[CoverageHole]
    personas: list[Persona] | NotEstimable

    def tables(self) -> list[ReportTable]:
        """The best offer of each place, the holes, and the personas; then all cells."""
        worth = "margin" if self.options.margin < 1 else "revenue"
        columns = ["segment", "placement", "channel", "offer", f"{worth} a month", "low", "high"]
        columns += ["eligible a month", "uplift", "low", "high"]

        def cell_row(one: OpportunityCell) -> list[ReportCell]:
            return [*one.place, one.offer, *_ends(one.value), one.eligible, *_ends(one.uplift)]

        units = units_of("money", *range(4, 11)) | units_of("count", 7)
        note = "Uplift: revenue after one decision if this offer is shown instead of today's choice, shrunken."
        best = [cell_row(one) for one in self.cells if one.best]
        found = [ReportTable(title="Best offer of each place", columns=columns, rows=best, note=note, units=units)]
        if self.holes:
            names = ["segment", "stage", "channel", "placement", "decisions", "without offer", "low", "high"]
            rows: list[list[ReportCell]] = [
                [
                    *(one.segment, one.stage, one.channel, one.placement, one.decisions, one.empty.estimate),
                    *(one.empty.low, one.empty.high, one.at_stake),
                ]
                for one in self.holes
            ]
            note = "Revenue that these customers spend after such decisions (observational)."
            found.append(
                ReportTable(
                    title="Holes in the offers",
                    columns=[*names, "at stake a month"],
                    rows=rows,
                    note=note,
                    units=units_of("share", 5, 6, 7) | units_of("money", 8),
                )
            )
        if not isinstance(self.personas, NotEstimable):
            found.append(_persona_table(self.personas))
        every = [cell_row(one) for one in self.cells]
        return [*found, ReportTable(title="All offers", columns=columns, rows=every, units=units)]

    def picture(self) -> Picture | None:
        """The value of the best offer of each place, with its interval."""
        marks = [
            PictureMark(
                name=f"{one.offer}: {one.segment}, {one.placement} on {one.channel}",
                value=one.value.estimate,
                low=one.value.low,
                high=one.value.high,
            )
            for one in self.cells
            if one.best and isinstance(one.value, Effect)
        ][:MOST_BARS]
        worth = "Margin" if self.options.margin < 1 else "Revenue"
        title = f"{worth} a month that the best offer would add"
        return Picture(shape="bars", title=title, marks=marks, unit="money") if marks else None


def measure_opportunity(
    source: EventSource, options: OpportunityOptions | None = None, *, alpha: float = 0.05
) -> OpportunityReport:
    """The report on offers, holes and customer groups with unused value.

    Raises:
        BadInput: if the source is a table, or an option is out of range.
    """
    options = options or OpportunityOptions()
    if not 0 < options.margin <= 1:
        raise BadInput(f"--margin {options.margin:g}: is not a share of revenue; give one above 0, up to 1")
    segment = "'all'" if options.by is None else _trait_sql(options.by)
    cells: list[OpportunityCell] = []
    days = 0.0
    if create_choices(source, options.window):
        rows = "choices"
        if options.by is not None:  # a trait is parsed once
            rows = "split_choices"
            source.create(rows, f"SELECT *, {segment} AS trait FROM choices")  # nosec B608
        by = "stage" if options.by is None else "trait"
        source.engine.run(f"CREATE OR REPLACE TEMP VIEW parts AS SELECT *, {by} AS segment FROM {rows}")  # nosec B608
        days = float(source.rows("SELECT coalesce((max(time) - min(time)) / 86400e6, 0) FROM choices")[0][0] or 0)
        cells = measure_cells(source, days=days, margin=options.margin, alpha=alpha)
    together = sum_best(cells, alpha)
    span = source.rows(
        "SELECT coalesce((max(time) - min(time)) / 86400e6, 0) FROM {decisions} WHERE kind = 'offer'",
        decisions=source.log_rows("decisions"),
    )
    holes = find_holes(source, segment=segment, days=float(span[0][0] or 0), window_days=options.window)
    personas = find_personas(source, alpha)
    return OpportunityReport(
        report="opportunity",
        as_of=source.as_of,
        sentence=_sentence(cells, together, holes, personas),
        money=_money(together, options),
        standing="causal",
        limits=_LIMITS,
        currency=source.currency,
        options=options,
        days=days,
        cells=cells,
        together=together,
        holes=holes,
        personas=personas,
    )


def _trait_sql(name: str) -> str:
    pointer = "/" + name.replace("~", "~0").replace("/", "~1")
    return f"coalesce(json_extract_string(context, {text_literal(pointer)}), 'unknown')"


def _persona_table(personas: list[Persona]) -> ReportTable:
    columns = ["persona", "customers", "share", "orders each", "worth of an order", "days since", "channels", "visits"]
    columns += ["channel", "motive", "revenue each", "low", "high", "value driver"]
    rows: list[list[ReportCell]] = []
    for one in personas:
        known: list[ReportCell] = [one.name, one.customers, one.share, one.orders, one.worth, one.days]
        rows.append([*known, one.channels, one.visits, one.channel, one.motive or "-", *_ends(one.revenue), one.driver])
    note = "Groups of a mixture model, named by what sets them apart; days since the last visit."
    units = (
        units_of("share", 2) | units_of("decimal", 3, 6) | units_of("count", 5, 7) | units_of("money", 4, 10, 11, 12)
    )
    return ReportTable(title="Personas", columns=columns, rows=rows, note=note, units=units)


def _ends(effect: Effect | NotEstimable) -> list[ReportCell]:
    return [None] * 3 if isinstance(effect, NotEstimable) else [effect.estimate, effect.low, effect.high]


def _money(together: Effect | NotEstimable, options: OpportunityOptions) -> MoneyFigure | NotEstimable:
    if isinstance(together, NotEstimable):
        return together
    worth = "margin" if options.margin < 1 else "revenue"
    what = f"{worth} a month that the best offer of each place would add to today's choices"
    return MoneyFigure(what=what, estimate=together.estimate, low=together.low, high=together.high)


def _sentence(
    cells: list[OpportunityCell],
    together: Effect | NotEstimable,
    holes: list[CoverageHole],
    personas: list[Persona] | NotEstimable,
) -> str:
    best = [one for one in cells if one.best and isinstance(one.value, Effect)]
    if isinstance(together, NotEstimable):
        text = "Where offers would add value cannot be estimated yet"
    elif not best:
        text = "No offer is expected to do better than what is shown today"
    else:
        one = best[0]
        text = f"The largest gain is of {one.offer} for segment {one.segment!r} at {one.placement} on {one.channel}"
    if holes:
        empty = sum(round(one.empty.estimate * one.decisions) for one in holes)
        text += f"; {empty:,} decisions had no offer of their own"
    if not isinstance(personas, NotEstimable):
        groups = "one group, so no traits set some apart" if len(personas) == 1 else f"{len(personas)} groups"
        text += f"; customers fall into {groups}"
    return f"{text}."
