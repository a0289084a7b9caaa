"""The KPI tree: which metric drives which, the evidence, and the predicted effects of experiments on lags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from engine.analysis.measure.kpis.edge_fit import (
    CarriedEffect,
    EdgeSlope,
    EffectPairs,
    carry_effect,
    fit_edge,
    is_surrogate,
)
from engine.analysis.measure.kpis.levels import KpiLevel, read_levels
from engine.analysis.measure.kpis.variant_effects import MeasuredTree, VariantEffects, measure_effects
from engine.analysis.measure.model import (
    CellUnit,
    MeasureReport,
    MoneyFigure,
    Picture,
    PictureLink,
    PictureMark,
    ReportCell,
    ReportTable,
    count_of,
    units_of,
)
from engine.analysis.sources.duckdb_expressions import text_literal
from engine.analysis.stats.estimate import NotEstimable
from engine.catalog.spec.metrics import KPI_TIERS
from engine.vocabulary import PURCHASES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.analysis.measure.sources import EventSource
    from engine.catalog.archive import Archive
    from engine.catalog.plan.plan import Plan
    from engine.catalog.spec.metrics import KpiSpec

EdgeState = Literal["assumed", "correlational", "validated"]
_LIMITS = [
    "A validated edge held in past experiments. A new kind of change may move the lag by another way.",
    "A correlation over customers is not an effect: who clicks more also buys more, whatever the shop does.",
    "What is carried to a lag is a prediction of its effect; it does not replace measuring the lag where one can wait.",
    "The figures of the tiers are levels of the whole log, not effects.",
]


class KpiEdge(msgspec.Struct, frozen=True, kw_only=True):
    """An edge of the tree, its state, and the evidence.

    `slope` is from past experiments; `correlation` is over the `customers` of their controls; `why` says in words what
    the state rests on, and that a surrogate fails where it does.
    """

    lead: str
    lag: str
    state: EdgeState
    slope: EdgeSlope | NotEstimable
    correlation: float | None = None
    customers: int = 0
    assumed: float | None = None
    fails: bool = False
    why: str = ""


class CarriedRow(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment's effect on a lag, predicted from its effect on a lead, beside the measured one if known.

    The slope is that of the other experiments.
    """

    experiment: str
    variant: str
    lead: str
    lag: str
    effect: float
    carried: CarriedEffect | NotEstimable
    measured: float | None = None
    worth: float | None = None
    """The carried effect in money per customer, where the lag has a worth."""


class KpiReport(MeasureReport, frozen=True, kw_only=True):
    """The nodes by tier, the edges with their states, carried effects, and each tier's usual figures."""

    nodes: list[KpiSpec]
    edges: list[KpiEdge]
    carried: list[CarriedRow]
    levels: list[KpiLevel]
    experiments: int

    def tables(self) -> list[ReportTable]:
        """Edges, carried effects, figures."""
        columns = ["lead", "lag", "state", "why", "slope", "low", "high", "experiments", "explained", "assumed"]
        rows: list[list[ReportCell]] = []
        for one in self.edges:
            known: list[ReportCell] = [None] * 5
            if isinstance(fit := one.slope, EdgeSlope):
                known = [fit.slope, fit.low, fit.high, fit.experiments, fit.explained]
            rows.append([one.lead, one.lag, one.state, one.why, *known, one.assumed, one.correlation])
        note = "Slope: the lag's effect per unit of the lead's effect; errors in variables, 95% intervals."
        units: dict[int, CellUnit] = {8: "share", 10: "decimal"}
        found = [ReportTable(title="Edges", columns=[*columns, "correlation"], rows=rows, note=note, units=units)]
        if self.carried:
            carried: list[list[ReportCell]] = []
            for row in self.carried:
                ends: list[ReportCell] = [None] * 3
                if isinstance(c := row.carried, CarriedEffect):
                    ends = [c.estimate, c.low, c.high]
                names: list[ReportCell] = [row.experiment, row.variant, row.lead, row.effect, row.lag]
                carried.append([*names, *ends, row.measured])
            columns = ["experiment", "variant", "lead", "effect", "lag", "carried", "low", "high", "measured"]
            note = (
                "Carried: the surrogate index, with the slope of the other experiments; measured: the lag's own effect."
            )
            found.append(ReportTable(title="Carried to the lag", columns=columns, rows=carried, note=note))
        if self.levels:
            levels: list[list[ReportCell]] = []
            for level in self.levels:
                value = level.level
                cells: list[ReportCell] = [None, None, None, ""]
                if isinstance(value, NotEstimable):
                    cells[3] = value.not_estimable
                else:
                    cells = [value.estimate, value.low, value.high, ""]
                levels.append([level.tier, level.name, *cells])
            names_of = ["tier", "figure", "level", "low", "high", "why not"]
            kinds = [level.unit for level in self.levels]
            title, units = "Figures of the three tiers", units_of("row", 2, 3, 4)
            found.append(ReportTable(title=title, columns=names_of, rows=levels, units=units, row_units=kinds))
        return found

    def picture(self) -> Picture | None:
        """The tree: a row per tier, the business on top, and each edge by its state."""
        if not self.nodes:
            return None
        marks = []
        for tier in KPI_TIERS:
            names = [node.metric for node in self.nodes if node.tier == tier]
            for at, name in enumerate(names):
                place = (at + 0.5) / len(names)
                marks.append(PictureMark(name=name, value=float(KPI_TIERS.index(tier)), at=place, series=tier))
        links = [
            PictureLink(
                start=edge.lead,
                end=edge.lag,
                state=edge.state,
                label="" if isinstance(edge.slope, NotEstimable) else f"{edge.slope.slope:+z.3g}",
            )
            for edge in self.edges
        ]
        return Picture(shape="tree", title="What drives what", marks=marks, links=links)


def measure_kpis(
    source: EventSource, plan: Plan | None = None, *, archive: Archive | None = None, alpha: float = 0.05
) -> KpiReport:
    """The tree of a shop's `metrics.yaml` on its log, or the edges of a table of past effects.

    Args:
        source: of a log; or of tables with the columns `lead_effect, lead_se, lag_effect, lag_se` and perhaps
            `experiment, lead, lag, covariance`, a row per experiment.
        plan: of the shop, for a log.
        archive: of the plans that ran, for deleted experiments.
        alpha: one minus the intervals' coverage.

    Raises:
        BadInput: if the source cannot be read.
    """
    if source.log_dir is None or plan is None:
        from engine.analysis.measure.kpis.effect_table import read_effect_table  # noqa: PLC0415 # it builds on this

        nodes, tree = read_effect_table(source)
        levels, money = [], {}
    else:
        nodes = list(plan.kpis)
        tree = measure_effects(source, plan, [node.metric for node in nodes], archive=archive)
        levels = read_levels(source, ", ".join(text_literal(name) for name in sorted(PURCHASES)), alpha)
        money = {name: spec.money for name, spec in plan.metrics.items()}
    edges = [_edge(node.metric, lag, node.assumed.get(lag), tree, alpha) for node in nodes for lag in node.drives]
    carried = _carry_all(edges, tree, money, alpha)
    return KpiReport(
        report="kpis",
        as_of=source.as_of if source.has_times else "",
        sentence=_sentence(nodes, edges, carried),
        money=_money(carried, levels),
        standing="causal" if any(edge.state == "validated" for edge in edges) else "observational",
        limits=_LIMITS,
        currency=source.currency,
        nodes=nodes,
        edges=edges,
        carried=carried,
        levels=levels,
        experiments=len({one.experiment for one in tree.effects}),
    )


def _edge(lead: str, lag: str, assumed: float | None, tree: MeasuredTree, alpha: float) -> KpiEdge:
    fit = _fit(tree.effects, lead, lag, alpha)
    found = tree.correlation(lead, lag)
    correlation, customers = (None, 0) if found is None else found
    state: EdgeState = "assumed" if found is None else "correlational"
    fails, why = False, ""
    if isinstance(fit, NotEstimable):
        why = fit.not_estimable
    elif is_surrogate(fit):
        state, why = "validated", f"{fit.experiments} past experiments agree"
    else:
        fails = True
        reason = "the slope may be zero" if fit.low <= 0 <= fit.high else f"the lead explains {fit.explained:.0%} of it"
        why = f"fails as a surrogate: over {fit.experiments} experiments {reason}"
    return KpiEdge(
        lead=lead,
        lag=lag,
        state=state,
        slope=fit,
        correlation=correlation,
        customers=customers,
        assumed=assumed,
        fails=fails,
        why=why,
    )


def _fit(effects: Sequence[VariantEffects], lead: str, lag: str, alpha: float) -> EdgeSlope | NotEstimable:
    pairs = [pair for one in effects if (pair := _pair(one, lead, lag)) is not None]
    columns = np.array(pairs, dtype=np.float64).reshape(-1, 5).T
    return fit_edge(EffectPairs(columns[0], columns[1], columns[2], columns[3], columns[4]), alpha)


def _pair(one: VariantEffects, lead: str, lag: str) -> tuple[float, float, float, float, float] | None:
    return one.pair(lead, lag) if lead in one.names and lag in one.names else None


def _carry_all(
    edges: list[KpiEdge], tree: MeasuredTree, money: Mapping[str, float | None], alpha: float
) -> list[CarriedRow]:
    """Each variant's effect on a lead, carried along each edge by the slope of the other experiments."""
    rows = []
    for edge in edges:
        if isinstance(edge.slope, NotEstimable):
            continue
        for one in tree.effects:
            if edge.lead not in one.names:
                continue
            at = one.names.index(edge.lead)
            effect, variance = float(one.estimates[at]), float(one.covariance[at, at])
            if not np.isfinite(effect) or not variance > 0:
                continue
            known = _pair(one, edge.lead, edge.lag)
            fit: EdgeSlope | NotEstimable = edge.slope
            if known is not None:
                fit = _fit([other for other in tree.effects if other is not one], edge.lead, edge.lag, alpha)
            carried: CarriedEffect | NotEstimable = NotEstimable(edge.why)
            if edge.state == "validated":
                carried = fit if isinstance(fit, NotEstimable) else carry_effect(fit, effect, variance, alpha)
            worth = money.get(edge.lag)
            rows.append(
                CarriedRow(
                    experiment=one.experiment,
                    variant=one.variant,
                    lead=edge.lead,
                    lag=edge.lag,
                    effect=effect,
                    carried=carried,
                    measured=None if known is None else known[1],
                    worth=carried.estimate * worth if worth and isinstance(carried, CarriedEffect) else None,
                )
            )
    return sorted(rows, key=lambda row: (row.measured is not None, row.experiment, row.variant, row.lead))


def _money(carried: list[CarriedRow], levels: list[KpiLevel]) -> MoneyFigure | NotEstimable:
    """The largest carried effect in money, unmeasured lags first; else revenue per customer."""
    for waiting in (True, False):
        known = [
            (row, row.carried)
            for row in carried
            if row.worth is not None and isinstance(row.carried, CarriedEffect) and (row.measured is None) == waiting
        ]
        if known:
            row, effect = max(known, key=lambda pair: abs(pair[0].worth or 0.0))
            factor = (row.worth or 0.0) / effect.estimate if effect.estimate else 1.0
            ends = sorted((effect.low * factor, effect.high * factor))
            what = f"{row.lag} per customer that {row.experiment} {row.variant} adds, by its effect on {row.lead}"
            return MoneyFigure(what=what, estimate=row.worth or 0.0, low=ends[0], high=ends[1])
    for level in levels:
        if level.name == "revenue per customer" and not isinstance(level.level, NotEstimable):
            e = level.level
            return MoneyFigure(what="revenue per customer who ordered", estimate=e.estimate, low=e.low, high=e.high)
    return NotEstimable("no lag with a worth in money has a validated lead yet")


def _sentence(nodes: Sequence[KpiSpec], edges: list[KpiEdge], carried: list[CarriedRow]) -> str:
    if not nodes:
        return "metrics.yaml has no `kpis`, so there is no tree; add its nodes to see which edges hold."
    counts = {state: sum(edge.state == state for edge in edges) for state in ("validated", "correlational", "assumed")}
    text = ", ".join(f"{count} {state}" for state, count in counts.items())
    failing = [edge for edge in edges if edge.fails]
    fails = "" if not failing else f"; {failing[0].lead} fails as a surrogate of {failing[0].lag}"
    waiting = sum(row.measured is None and isinstance(row.carried, CarriedEffect) for row in carried)
    more = f"; {waiting} effects are carried to a lag that is not measured yet" if waiting else ""
    return f"{count_of(len(nodes), 'KPI')} with {count_of(len(edges), 'edge')}: {text}{fails}{more}."
