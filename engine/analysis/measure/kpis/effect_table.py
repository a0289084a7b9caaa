"""Past experiments' effects from a table, for the edges of a KPI tree without a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.analysis.measure.columns import check_numbers
from engine.analysis.measure.kpis.variant_effects import MeasuredTree, VariantEffects
from engine.catalog.spec.metrics import KpiSpec
from engine.errors import BadInput

if TYPE_CHECKING:
    from engine.analysis.measure.sources import EventSource


def read_effect_table(source: EventSource) -> tuple[list[KpiSpec], MeasuredTree]:
    """The nodes and effects of a table with a row per experiment and edge.

    `lead_effect` and `lag_effect` may be empty where one is not known yet; without a `covariance` it is 0.

    Raises:
        BadInput: if a column is missing, holds no number, or a standard error is not above 0.
    """
    numbers = ("lead_effect", "lead_se", "lag_effect", "lag_se")
    source.require(*numbers)
    check_numbers(source, *numbers, "covariance")
    texts = (("experiment", "'experiment ' || row_number() OVER ()"), ("lead", "'lead'"), ("lag", "'lag'"))
    names = ", ".join(f"CAST({source.optional(role, other)} AS VARCHAR)" for role, other in texts)
    values = ", ".join(source.number_sql(role) for role in numbers)
    covariance = source.number_sql("covariance", "0")
    tree, edges = MeasuredTree(), set()
    for experiment, lead, lag, *cells in source.engine.run(
        f"SELECT {names}, {values}, {covariance} FROM {source.table.sql}"  # nosec B608
    ):
        x, x_se, y, y_se, shared = (np.nan if cell is None else float(str(cell)) for cell in cells)
        if (np.isfinite(x) and not x_se > 0) or (np.isfinite(y) and not y_se > 0):
            raise BadInput(
                f"{source.place}: {experiment} has a standard error that is not above 0; give the errors of its effects"
            )
        if abs(shared) > x_se * y_se:
            raise BadInput(
                f"{source.place}: {experiment} has the covariance {shared:g}, beyond the product of its standard "
                f"errors; it is in the unit of their product, not a correlation"
            )
        edges.add((str(lead), str(lag)))
        tree.effects.append(
            VariantEffects(
                experiment=str(experiment),
                variant="",
                names=(str(lead), str(lag)),
                estimates=np.array([x, y]),
                covariance=np.array([[x_se**2, shared], [shared, y_se**2]]),
            )
        )
    lags = {lag for _, lag in edges}
    leads = {lead for lead, _ in edges}
    nodes = [
        KpiSpec(
            metric=name,
            tier="implementation" if name not in lags else "business" if name not in leads else "strategy",
            drives=sorted(lag for lead, lag in edges if lead == name),
        )
        for name in sorted(leads | lags)
    ]
    return nodes, tree
