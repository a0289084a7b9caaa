"""Further tables of a customer value report: churn, cost to serve, and an experiment's variants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.analysis.measure.model import CellUnit, ReportCell, ReportTable, units_of
from engine.analysis.stats.estimate import Effect, NotEstimable

if TYPE_CHECKING:
    from engine.analysis.measure.value.costs import CostToServe
    from engine.analysis.measure.value.experiment_value import VariantValue


def value_tables(
    churn: Effect | NotEstimable, cost: CostToServe | NotEstimable, variants: list[VariantValue]
) -> list[ReportTable]:
    """Churn and cost to serve if known, and an experiment's variants if requested."""
    rows: list[list[ReportCell]] = []
    units: list[CellUnit] = []
    if isinstance(churn, Effect):
        rows.append(["share of customers who have left", churn.estimate, churn.low, churn.high])
        units.append("share")
    if not isinstance(cost, NotEstimable):
        each = cost.per_customer
        rows += [
            ["cost to serve a customer until now", each.estimate, each.low, each.high],
            ["cost to serve per order", cost.per_order, None, None],
            ["cost to serve as a share of revenue", cost.share, None, None],
        ]
        units += ["money", "money", "share"]
        if not isinstance(net := cost.net, NotEstimable):
            rows.append(["value ahead after cost to serve", net.estimate, net.low, net.high])
            units.append("money")
    found = []
    if rows:
        columns = ["what", "value", "low", "high"]
        by_row = units_of("row", 1, 2, 3)
        title = "Churn and cost to serve"
        found.append(ReportTable(title=title, columns=columns, rows=rows, units=by_row, row_units=units))
    if variants:
        compared: list[list[ReportCell]] = []
        for one in variants:
            ends: list[ReportCell] = [None] * 3
            if isinstance(one.effect, Effect):
                ends = [one.effect.estimate, one.effect.low, one.effect.high]
            compared.append([one.variant, one.customers, one.value, one.expected, *ends])
        columns = ["variant", "customers", "value each", "of it expected", "effect", "low", "high"]
        money = units_of("money", *range(2, 7))
        note = f"Causal: revenue since the exposure and expected value, against {variants[0].control}; 95% intervals."
        found.append(ReportTable(title="Value by variant", columns=columns, rows=compared, note=note, units=money))
    return found
