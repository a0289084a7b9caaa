"""Baselines of power calculations and priors of effects, from past experiments in the log or from a table."""

from __future__ import annotations

import math
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import CROSSED, Group, aggregate_groups
from engine.analysis.aggregates.clustered import build_unit_frame, row_centres
from engine.analysis.aggregates.covariates import impute_covariates
from engine.analysis.aggregates.quantiles import estimate_quantiles
from engine.analysis.design.log_times import DAY
from engine.analysis.report.experiment_units import read_experiment_units
from engine.analysis.report.table import ALL, parse_measures, table_quantiles
from engine.analysis.report.table_checks import check_columns
from engine.analysis.sources.engines import DuckDB, connect_engine
from engine.analysis.sources.frames import FrameOrFile, open_table, table_name
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.metric_sums import metric_values
from engine.analysis.sources.traced_traits import find_split
from engine.analysis.stats.bayes import estimate_prior
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import Arm, residual_sd
from engine.analysis.stats.moments import Moments
from engine.analysis.stats.power import Baseline
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from engine.analysis.design.metrics import Measure
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.stats.bayes import Prior
    from engine.catalog.plan.plan import Plan

LEAST_PAST = 3


def baseline_of_table(
    frame_or_file: FrameOrFile, metric: str, *, unit: str | None = None, engine: str = "duckdb"
) -> Baseline:
    """A metric's mean and standard deviation per unit in a table, net of its covariates.

    Args:
        frame_or_file: as `analyze_table`.
        metric: `kind:COL|COVARIATE`, as `analyze_table`.
        unit: as `analyze_table`.
        engine: as `analyze_table`.

    Raises:
        BadInput: as `analyze_table`, and if the metric has no variance.
    """
    (measure,) = parse_measures([metric], ())
    source = connect_engine(engine)
    table = open_table(source, frame_or_file, [] if unit is None or unit in measure.columns else [unit])
    split = unit or next(iter(table.schema()))  # any column will do: its groups are summed
    check_columns(source, table, [measure], path=table_name(frame_or_file), variant=split, unit=unit)
    if not measure.rules.has_moments:
        return _quantile_baseline(table_quantiles(source, table, None, unit, measure).get(ALL), measure.name)
    rows, measures = impute_covariates(source, table, [measure])
    frame, (framed,) = build_unit_frame(rows, split, unit, measures, about=row_centres(source, rows, unit, measures))
    return _baseline(aggregate_groups(source, frame, (CROSSED,), [framed]), framed)


def baseline_of_log(
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
) -> Baseline:
    """The primary metric of a past experiment's control, as a baseline for the next.

    Raises:
        BadInput: as `analyze_experiment`, and if the metric has no variance.
    """
    with lock_log_for_reading(Path(log_dir)):
        source = DuckDB()
        split = find_split(question, None)
        data = read_experiment_units(source, question, metrics, Path(log_dir), as_of, segment=split)
        spec = data.specs[0]
        if not spec.rules.has_moments:
            rows = metric_values(source, data.log_dir, data.members, spec, data.as_of)
            found = estimate_quantiles(source, rows, "x", spec.quantile or 0.5, label=spec.name)
            return _quantile_baseline(found.get(question.control), spec.name)
        measure = next(found for found in data.measures if found.name == question.primary)
        control = data.units.filter(data.units["variant"] == question.control)
        groups = aggregate_groups(source, control, ("crossed", "segment"), [measure])
        kept = [group for (crossed, _), group in groups.items() if not crossed and group.units > 1]
        return _baseline({(False,): _pool_within(kept, measure.name)} if kept else {}, measure)


def _pool_within(strata: Sequence[Group], metric: str) -> Group:
    """All strata as one group with the variance within them, which remains in a stratified report."""
    whole = reduce(add, strata)
    parts = [group.moments[metric] for group in strata]
    n, degrees = sum(part.n for part in parts), sum(part.n - 1 for part in parts)
    if len(parts) < 2 or degrees < 1:
        return whole
    comoment = np.sum([part.comoment for part in parts], axis=0) * ((n - 1) / degrees)
    pooled = Moments(n, whole.moments[metric].mean, comoment)
    return Group(whole.units, {**whole.moments, metric: pooled}, whole.outcomes)


class PairTraffic(NamedTuple):
    """The new units per day in the control and in the smallest other variant, and the control's share of these."""

    daily: float
    share: float


def pair_traffic(plan: Plan, key: str, log_dir: Path) -> PairTraffic:
    """The traffic of the pair of variants of experiment `key` with the least power.

    Raises:
        BadInput: as `baseline_of_plan`.
    """
    from engine.analysis.design.question_from_plan import build_question  # noqa: PLC0415 # as below

    question, metrics = build_question(plan, key)
    others = {name: weight for name, weight in question.weights.items() if name != question.control and weight > 0}
    other = min(others, key=lambda name: others[name], default=question.control)
    with lock_log_for_reading(Path(log_dir)):
        source = DuckDB()
        units = read_experiment_units(source, question, metrics, Path(log_dir), None).units
        first = units["first"]
        pair = units["variant"].isin([question.control, other])
        found = units.aggregate(n=pair.sum(), a=first.min(), b=first.max())
        [[count, begin, end]] = source.rows(found)
    both = question.weights[question.control] + others.get(other, 0.0)
    daily = int(count or 0) / max(1.0, (int(end or 0) - int(begin or 0)) / DAY)
    return PairTraffic(daily, question.weights[question.control] / both if both else 0.5)


def baseline_of_plan(plan: Plan, key: str, metric: str | None, log_dir: Path) -> Baseline:
    """A metric of the plan's experiment `key`, its primary one by default, as `baseline_of_log`.

    Raises:
        BadInput: as `baseline_of_log`, and if the plan has no such experiment or metric.
    """
    from engine.analysis.design.question_from_plan import build_question  # noqa: PLC0415 # only where a report is of an experiment

    question, metrics = build_question(plan, key)
    asked = msgspec.structs.replace(question, primary=metric or question.primary)
    return baseline_of_log(asked, metrics, log_dir)


def past_prior(plan: Plan, question: ExperimentQuestion, log_dir: Path, *, as_of: datetime | None = None) -> Prior:
    """A prior of the primary metric's effect from its effects in the plan's other experiments (see `estimate_prior`).

    Experiments with a sample ratio mismatch are left out.

    Raises:
        BadInput: if there are fewer than three such effects.
    """
    from engine.analysis.design.question_from_plan import build_question  # noqa: PLC0415 # as above
    from engine.analysis.report.experiment import analyze_experiment  # noqa: PLC0415 # it needs all of a report

    effects: list[Effect] = []
    for key, other in plan.experiments.items():
        named = other.spec.metrics
        if key == question.key or named is None:
            continue
        if question.primary not in {named.primary, *named.secondary, *named.guardrails}:
            continue
        asked, metrics = build_question(plan, key)
        fixed = msgspec.structs.replace(asked.inference, method="fixed")
        alone = msgspec.structs.replace(asked, primary=question.primary, secondary=(), guardrails=(), inference=fixed)
        report = analyze_experiment(alone, metrics, log_dir, as_of=as_of)
        if report.quality.srm.ok:
            effects += [metric.relative for metric in report.metrics if isinstance(metric.relative, Effect)]
    if len(effects) < LEAST_PAST:
        raise BadInput(
            f"--prior past: other experiments have {len(effects)} effects on {question.primary} in the log, and a "
            f"spread needs {LEAST_PAST}; give MEAN,SD instead"
        )
    return estimate_prior([effect.estimate for effect in effects], [effect.se for effect in effects])


def _baseline(found: dict[tuple[str | int | float | bool | None, ...], Group], measure: Measure) -> Baseline:
    group = found.get((False,))
    if group is None or group.moments[measure.name].n < 2:
        raise BadInput(f"{measure.name} has fewer than two units in the past; a baseline needs a variance")
    value, sd = residual_sd(group.moments[measure.name], measure)
    if not sd > 0:
        raise BadInput(f"{measure.name} does not vary in the past; a baseline needs a variance")
    plain = measure.rules.is_share and measure.y.den is None and not measure.covariates
    return Baseline("proportion" if plain else measure.kind, value, None if plain else sd)


def _quantile_baseline(found: Arm | NotEstimable | None, name: str) -> Baseline:
    """The baseline of a quantile: its standard deviation is its standard error times the root of the units."""
    if found is None:
        raise BadInput(f"{name} has no row with a value in the past; a baseline needs at least two")
    if isinstance(found, NotEstimable):
        raise BadInput(f"{name}: {found.not_estimable}; a baseline needs a variance")
    return Baseline("quantile", found.value, math.sqrt(found.variance * found.n))
