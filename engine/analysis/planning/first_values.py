"""Customers' metric values after each one's start, from the log, as the baseline of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from engine.analysis.aggregates.aggregate import aggregate_groups
from engine.analysis.design.log_times import DAY, SECOND
from engine.analysis.planning.verdict_days import Arrivals
from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.log import read_log_table
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.metric_sums import Members, measure_members
from engine.analysis.stats.inference import residual_sd
from engine.analysis.stats.power import Baseline
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from engine.analysis.design.question import MeasuredMetric

import numpy as np


def find_log_end(log_dir: Path) -> float:
    """The time of the log's last decision or event, in seconds since 1970; 0 if it has none."""
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        tables = [read_log_table(source, log_dir, name) for name in ("decisions", "events")]
        last = [source.rows(table.aggregate(last=table["time"].max()))[0][0] for table in tables]
    return max(int(one or 0) for one in last) / SECOND


def arrivals_by_day(arrivals: Mapping[str, float], start: float, end: float) -> Arrivals:
    """The customers who arrived in each 24 hours from `start` to `end` (s since 1970)."""
    days = max(int(np.ceil((end - start) / (DAY / SECOND))), 1)
    at = np.array([(one - start) * SECOND / DAY for one in arrivals.values()])
    return Arrivals(np.bincount(np.clip(at.astype(int), 0, days - 1), minlength=days).astype(float))


def baseline_after(log_dir: Path, spec: MeasuredMetric, arrivals: Mapping[str, float], until: float) -> Baseline:
    """A metric of customers from their arrivals to `until` (s since 1970), with windows that may be open.

    Raises:
        BadInput: if fewer than two customers have a value, or all the same.
    """
    if not spec.rules.has_moments:
        raise BadInput(f"{spec.name} is a {spec.kind}, whose days are not computed; name another metric")
    with lock_log_for_reading(log_dir):
        source = DuckDB()
        table = source.load(
            "arrived", customer=list(arrivals), moment=[str(int(at * SECOND)) for at in arrivals.values()]
        )
        members = table.select(
            "customer",
            unit="customer",
            first=table["moment"].cast("int64"),
            variant="customer",
            segment="customer",
            plan="customer",
            crossed=table["customer"] == "",
        )
        decisions = read_log_table(source, log_dir, "decisions").select("decision_id", "customer").limit(0)
        plain = msgspec.structs.replace(spec, covariate_window=None)
        values, (measure,) = measure_members(source, log_dir, Members(members, decisions), [plain], int(until * SECOND))
        group = aggregate_groups(source, values, ("crossed",), [measure]).get((False,))
    if group is None or group.moments[measure.name].n < 2:
        raise BadInput(f"{spec.name}: fewer than two customers that the draft lets in have a value in the log")
    mean, sd = residual_sd(group.moments[measure.name], measure)
    if not sd > 0 or mean == 0:
        raise BadInput(f"{spec.name} is the same for all that the draft lets in; the days need its variance and mean")
    plain_share = spec.rules.is_share and 0 < mean < 1
    return Baseline("proportion" if plain_share else measure.kind, mean, None if plain_share else sd)
