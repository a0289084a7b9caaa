"""Would this data raise false alarms? A/A tests by shuffling the variants of real units many times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.design.methods import decode_inference
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.experiment_units import gather
from engine.analysis.report.table import check_columns, parse_measures
from engine.analysis.sources.clustered import build_unit_frame, row_centres
from engine.analysis.sources.engines import DuckDB, connect_engine
from engine.analysis.sources.log import metric_values
from engine.analysis.sources.log_read_lock import lock_log_for_reading
from engine.analysis.sources.quantiles import sample_quantile
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.effects import absolute_effect, interval_scale, relative_effect
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.inference import estimate_arms
from engine.analysis.stats.moments import Moments, empty_moments
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.question import ExperimentQuestion, MeasuredMetric
    from engine.analysis.sources.engines import Engine, Frame, ResultRow
    from engine.analysis.stats.inference import Arm
    from engine.analysis.stats.moments import Floats

    Claim = tuple[Effect, Effect | NotEstimable]  # absolute and relative
_UNBOUNDED = "control's mean is too near zero for a relative effect"


class Rate(msgspec.Struct, frozen=True):
    """A share of runs with its 95% Wilson interval, and whether that holds the nominal value.

    The intervals of a quantile are made to cover no less than they say; where they cover more, that is `ok` too.
    """

    share: float
    low: float
    high: float
    nominal: float
    ok: bool


class Check(msgspec.Struct, frozen=True):
    """One metric's false-positive rate, and the coverage of no effect by its absolute and relative interval."""

    metric: str
    runs: int
    units: int
    false_positives: Rate | NotEstimable
    coverage: Rate | NotEstimable
    relative_coverage: Rate | NotEstimable

    @property
    def ok(self) -> bool:
        """Whether the false positives and the coverage could be counted and are as said."""
        return all(isinstance(part, Rate) and part.ok for part in (self.false_positives, self.coverage))


def aa_table(
    path: str,
    *,
    metrics: Sequence[str],
    unit: str | None = None,
    covariates: Sequence[str] = (),
    runs: int = 1000,
    seed: int = 1,
    engine: str = "duckdb",
    **options: object,
) -> list[Check]:
    """Splits a table's units in two at random, `runs` times, and counts what the analysis would have claimed.

    Args:
        path: as `analyze_table`.
        metrics: as `analyze_table`.
        unit: as `analyze_table`.
        covariates: as `analyze_table`.
        runs: how many splits.
        seed: of the splits.
        engine: as `analyze_table`.
        options: as `analyze_table`, but `method` is `fixed` by default: at a single look anytime-valid intervals cover
            more than their nominal coverage.

    Raises:
        BadInput: as `analyze_table`.
    """
    inference = decode_inference({"method": "fixed", **options})
    if not metrics:
        raise BadInput("no metric is named; add one, as in --metric mean:revenue")
    measures = parse_measures(metrics, tuple(covariates))
    source = connect_engine(engine)
    table = source.table(path)
    split = unit or next(iter(table.schema()))  # any column will do: the variant is drawn below
    check_columns(source, path, table, split, unit, measures)
    summed = [measure for measure in measures if measure.rules.has_moments]
    frame, framed = build_unit_frame(table, split, unit, summed, about=row_centres(source, table, unit, summed))
    checks = _all(source, frame, framed, inference, runs, seed)
    for measure in measures:
        if not measure.rules.has_moments:
            kept = table if unit is None else table.filter(table[unit].notnull())
            owner = {} if unit is None else {"unit": kept[unit].cast("string")}
            rows = kept.select(x=kept[measure.y.num].cast("float64"), **owner)
            checks[measure.name] = _of_rows(source, rows, measure, inference, runs, seed)
    return [checks[measure.name] for measure in measures]


def aa_experiment(
    question: ExperimentQuestion,
    metrics: Sequence[MeasuredMetric],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
    runs: int = 1000,
    seed: int = 1,
) -> list[Check]:
    """The check on the units of an experiment's control in the log, which no effect has touched.

    Its method is `fixed`: an anytime-valid interval covers more than it says at a single look, which is no fault.

    Raises:
        BadInput: as `analyze_experiment`, and if control has too few units.
    """
    with lock_log_for_reading(Path(log_dir)):
        source = DuckDB()
        data = gather(source, question, metrics, Path(log_dir), as_of)
        control = data.units.filter((data.units["variant"] == question.control) & ~data.units["crossed"])
        measures = data.measures[: len(data.measures) - len(data.trend)]
        inference = msgspec.structs.replace(question.inference, method="fixed")
        checks = _all(source, control, measures, inference, runs, seed)
        members = data.members.filter(data.members["variant"] == question.control)
        for spec in data.specs:
            if not spec.rules.has_moments:
                rows = metric_values(source, data.folder, members, spec, data.moment).select("x", "unit")
                measure = Measure(spec.name, spec.kind, Term("x"), quantile=spec.quantile)
                checks[spec.name] = _of_rows(source, rows, measure, inference, runs, seed)
        return [checks[spec.name] for spec in data.specs]


def _all(
    source: Engine, frame: Frame, measures: Sequence[Measure], inference: Inference, runs: int, seed: int
) -> dict[str, Check]:
    """The checks of measures with moments, by name."""
    if runs < 1:
        raise BadInput(f"{runs} runs count nothing; 1000 are usual")
    if not measures:
        return {}
    columns = sorted({column for measure in measures for column in measure.columns})
    ordered = frame.select(*columns).order_by(*columns)  # engines keep no order, and a seed must mean one split
    rows = source.rows(ordered)
    values = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    wild = {columns[at] for at in np.flatnonzero(~np.isfinite(values).all(axis=0)) if _wild(rows, int(at))}
    return {
        measure.name: _refused(measure, runs, len(rows))
        if wild.intersection(measure.columns)
        else aa(values[:, [columns.index(name) for name in measure.columns]], measure, inference, runs, seed)
        for measure in measures
    }


def _of_rows(source: Engine, rows: Frame, measure: Measure, inference: Inference, runs: int, seed: int) -> Check:
    """The check of a quantile of rows with their value `x` and, where rows are not units, their `unit`."""
    found = source.rows(rows.filter(rows["x"].notnull()).order_by("x"))
    x = np.array([row[0] for row in found], dtype=np.float64)
    unit = np.unique([str(row[-1]) for row in found], return_inverse=True)[1] if found and len(found[0]) > 1 else None
    if not np.all(np.isfinite(x)):
        return _refused(measure, runs, len(x))
    return aa_quantile(x, np.arange(len(x)) if unit is None else unit, measure, inference, runs, seed)


def _wild(rows: Sequence[ResultRow], at: int) -> bool:
    """Whether a column holds NaN or infinity, which unlike a missing value make its mean unknown."""
    cells = (row[at] for row in rows)
    return any(isinstance(cell, float) and not math.isfinite(cell) for cell in cells)


def _refused(measure: Measure, runs: int, units: int) -> Check:
    why = NotEstimable(f"{measure.name} has values that are NaN or infinite")
    return Check(measure.name, runs, units, why, why, why)


def aa(values: Floats, measure: Measure, inference: Inference, runs: int = 1000, seed: int = 1) -> Check:
    """The check of one measure on its columns (n, k); units with a value missing are left out."""
    values = values[np.all(np.isfinite(values), axis=1)]
    n, k = values.shape
    _enough(n, measure)
    centre = values.mean(axis=0)
    products = np.einsum("ni,nj->nij", values - centre, values - centre).reshape(n, k * k)
    stacked = np.concatenate([np.ones((n, 1)), values - centre, products], axis=1)
    total = stacked.sum(axis=0)
    rng = np.random.default_rng(seed)
    claims = []
    for start in range(0, runs, 64):
        picked = rng.random((min(64, runs - start), n)) < 0.5
        for sums in picked.astype(np.float64) @ stacked:
            sides = estimate_arms(_moments(sums, centre, k), _moments(total - sums, centre, k), measure)
            claims.append(sides if isinstance(sides, NotEstimable) else _claim(sides[0], sides[1], inference))
    return _counted(claims, measure, n, inference)


def aa_quantile(
    x: Floats, unit: NDArray[np.intp], measure: Measure, inference: Inference, runs: int = 1000, seed: int = 1
) -> Check:
    """The check of a quantile on rows (n,), rising, whose units (n,) are integers from 0."""
    units = int(unit.max()) + 1 if len(unit) else 0
    _enough(units, measure)
    rng = np.random.default_rng(seed)
    claims: list[Claim | NotEstimable] = []
    for _ in range(runs):
        picked = (rng.random(units) < 0.5)[unit]
        one, other = (
            sample_quantile(x[own], unit[own], measure.quantile or 0.5, label=measure.name) for own in (picked, ~picked)
        )
        if isinstance(one, NotEstimable):
            claims.append(one)
        else:
            claims.append(other if isinstance(other, NotEstimable) else _claim(one, other, inference))
    return _counted(claims, measure, units, inference)


def _enough(units: int, measure: Measure) -> None:
    if units < 8:
        raise BadInput(f"{units} units have a value of {measure.name}; an A/A check needs some more")


def _claim(control: Arm, treatment: Arm, inference: Inference) -> Claim | NotEstimable:
    width = interval_scale(control, treatment, inference)
    if isinstance(width, NotEstimable):
        return width
    return absolute_effect(control, treatment, width), relative_effect(control, treatment, width, inference.relative)


def _counted(claims: Sequence[Claim | NotEstimable], measure: Measure, units: int, inference: Inference) -> Check:
    """How often what was claimed is wrong, among the splits in which something could be."""
    made = [claim for claim in claims if not isinstance(claim, NotEstimable)]
    if not made:
        nothing = next(claim for claim in claims if isinstance(claim, NotEstimable))
        return Check(measure.name, 0, units, nothing, nothing, nothing)
    shares = [share for _, share in made if isinstance(share, Effect)]
    loose = measure.rules.is_conservative
    wrong = _rate([effect for effect, _ in made], inference.alpha, loose=loose)
    relatively = _rate(shares, inference.alpha, loose=loose) if shares else None
    covered = _rest(relatively) if relatively else NotEstimable(_UNBOUNDED)
    return Check(measure.name, len(made), units, wrong, _rest(wrong), covered)


def _moments(sums: Floats, centre: Floats, k: int) -> Moments:
    n = round(float(sums[0]))
    if n == 0:
        return empty_moments(k)
    shift = sums[1 : k + 1]
    return Moments(n, centre + shift / n, sums[k + 1 :].reshape(k, k) - np.outer(shift, shift) / n)


def _rate(claims: Sequence[Effect], nominal: float, *, loose: bool) -> Rate:
    """How many leave zero out, by Wilson 1927; `loose` where fewer than the nominal ones are no fault."""
    runs, z = len(claims), normal_quantile(0.975)
    share = sum(not claim.low <= 0 <= claim.high for claim in claims) / runs
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    reach = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs**2))
    low, high = middle - reach, middle + reach
    return Rate(share, low, high, nominal, low <= nominal and (loose or nominal <= high))


def _rest(wrong: Rate) -> Rate:
    """How many hold zero."""
    return Rate(1 - wrong.share, 1 - wrong.high, 1 - wrong.low, 1 - wrong.nominal, wrong.ok)
