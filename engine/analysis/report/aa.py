"""A/A tests: a report's false-positive rate and coverage over random splits of real units without an effect."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.aggregates.clustered import build_unit_frame, row_centres
from engine.analysis.aggregates.covariates import impute_covariates
from engine.analysis.checks.open_windows import describe_open_windows
from engine.analysis.checks.random_splits import Check, Splits, check_moments, check_quantile, refuse_check
from engine.analysis.design.methods import decode_inference
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.experiment_units import read_experiment_units
from engine.analysis.report.table import parse_measures
from engine.analysis.report.table_checks import check_columns
from engine.analysis.sources.engines import DuckDB, connect_engine
from engine.analysis.sources.frames import FrameOrFile, open_table, table_name
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.metric_sums import metric_values
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import Engine, Frame, ResultRow
LOOKS = 15
"""The looks of a split by a method that allows for several."""


def aa_table(
    frame_or_file: FrameOrFile,
    *,
    metrics: Sequence[str],
    unit: str | None = None,
    covariates: Sequence[str] = (),
    runs: int = 1000,
    seed: int = 1,
    engine: str = "duckdb",
    **options: object,
) -> list[Check]:
    """Splits a table's units in two at random, `runs` times, and counts the significant effects of the report.

    Args:
        frame_or_file: as `analyze_table`.
        metrics: as `analyze_table`.
        unit: as `analyze_table`.
        covariates: as `analyze_table`.
        runs: how many splits.
        seed: of the splits.
        engine: as `analyze_table`.
        options: as `analyze_table`, but `method` is `fixed` by default. `share` is control's share of the units, 0.5 by
            default, and `looks` how often each split is reported while its units arrive: 15 times by a method that
            allows for several looks.

    Raises:
        BadInput: as `analyze_table`.
    """
    share, looks = options.pop("share", 0.5), options.pop("looks", None)
    inference = decode_inference({"method": "fixed", **options})
    splits = plan_splits(runs, seed, inference, share=share, looks=looks)
    if not metrics:
        raise BadInput("no metric is named; add one, as in --metric mean:revenue")
    measures = parse_measures(metrics, tuple(covariates))
    source = connect_engine(engine)
    names = [] if unit is None or any(unit in measure.columns for measure in measures) else [unit]
    table = open_table(source, frame_or_file, names)
    split = unit or next(iter(table.schema()))  # any column will do: variants are drawn below
    check_columns(source, table, measures, path=table_name(frame_or_file), variant=split, unit=unit)
    summed = [measure for measure in measures if measure.rules.has_moments]
    rows, summed = impute_covariates(source, table, summed)
    frame, framed = build_unit_frame(rows, split, unit, summed, about=row_centres(source, rows, unit, summed))
    checks = _check_measures(source, frame, framed, splits)
    for measure in measures:
        if not measure.rules.has_moments:
            kept = table if unit is None else table.filter(table[unit].notnull())
            owner = {} if unit is None else {"unit": kept[unit].cast("string")}
            rows = kept.select(x=kept[measure.y.num].cast("float64"), **owner)
            checks[measure.name] = _check_quantile(source, rows, measure, splits)
    return [checks[measure.name] for measure in measures]


def aa_experiment(
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
    runs: int = 1000,
    seed: int = 1,
    looks: int | None = None,
    share: float | None = None,
) -> list[Check]:
    """The check on the units of an experiment's control in the log, on which no variant has an effect.

    The units are split by the shares of control and of the smallest variant, or with `share` of them in control, and
    reported by the experiment's method: 15 times, or `looks`, while they arrive; once by `fixed`. Units whose window is
    open are left out.

    Raises:
        BadInput: as `analyze_experiment`, and if control has too few units.
    """
    with lock_log_for_reading(Path(log_dir)):
        source = DuckDB()
        data = read_experiment_units(source, question, metrics, Path(log_dir), as_of)
        own = data.units.filter((data.units["variant"] == question.control) & ~data.units["crossed"])
        control = control_share(question) if share is None else share
        measures = data.measures[: len(data.measures) - len(data.trend)]
        splits = plan_splits(runs, seed, question.inference, share=control, looks=looks)
        checks = _check_measures(source, own, measures, splits)
        table = data.members.table
        members = data.members._replace(table=table.filter(table["variant"] == question.control))
        for spec in data.specs:
            if not spec.rules.has_moments:
                rows = metric_values(source, data.log_dir, members, spec, data.as_of).select("x", "unit")
                measure = Measure(spec.name, spec.kind, Term("x"), quantile=spec.quantile)
                checks[spec.name] = _check_quantile(source, rows, measure, splits)
        for name, part in data.open_windows.items():
            (text,) = describe_open_windows({name: part})
            checks[name] = msgspec.structs.replace(checks[name], note=text)
        return [checks[spec.name] for spec in data.specs]


def control_share(question: ExperimentQuestion) -> float:
    """Control's share of its units and those of the smallest other variant with units."""
    own = question.weights[question.control]
    others = [share for name, share in question.weights.items() if name != question.control and share > 0]
    least = min(others, default=own)
    return own / (own + least) if own else 0.5


def plan_splits(runs: int, seed: int, inference: Inference, *, share: object, looks: object) -> Splits:
    """The splits of a check, with the default number of looks if none is given.

    Raises:
        BadInput: if an argument is out of its range.
    """
    usual = {"fixed": 1, "group_sequential": inference.looks}.get(inference.method, LOOKS)
    found = Splits(
        runs=runs,
        seed=seed,
        inference=inference,
        share=msgspec.convert(share, float),
        looks=usual if looks is None else msgspec.convert(looks, int),
    )
    found.check()
    return found


def _check_measures(source: Engine, frame: Frame, measures: Sequence[Measure], splits: Splits) -> dict[str, Check]:
    """The checks of measures with moments, by name."""
    splits.check()
    if not measures:
        return {}
    columns = sorted({column for measure in measures for column in measure.columns})
    ordered = frame.select(*columns).order_by(*columns)  # engines keep no order, and a seed must give one split
    rows = source.rows(ordered)
    values = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    non_finite = {
        columns[at] for at in np.flatnonzero(~np.isfinite(values).all(axis=0)) if _has_non_finite(rows, int(at))
    }
    return {
        measure.name: refuse_check(measure.name, splits, len(rows))
        if non_finite.intersection(measure.columns)
        else check_moments(values[:, [columns.index(name) for name in measure.columns]], measure, splits)
        for measure in measures
    }


def _check_quantile(source: Engine, rows: Frame, measure: Measure, splits: Splits) -> Check:
    """The check of a quantile of rows with a value `x` and, if rows are not units, a `unit`."""
    splits.check()
    found = source.rows(rows.filter(rows["x"].notnull()).order_by("x"))
    x = np.array([row[0] for row in found], dtype=np.float64)
    unit = np.unique([str(row[-1]) for row in found], return_inverse=True)[1] if found and len(found[0]) > 1 else None
    if not np.all(np.isfinite(x)):
        return refuse_check(measure.name, splits, len(x))
    return check_quantile(x, np.arange(len(x)) if unit is None else unit, measure, splits)


def _has_non_finite(rows: Sequence[ResultRow], at: int) -> bool:
    """Whether a column has NaN or infinity, which (unlike missing values) leave its mean undefined."""
    cells = (row[at] for row in rows)
    return any(isinstance(cell, float) and not math.isfinite(cell) for cell in cells)
