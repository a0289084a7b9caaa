"""Would this data raise false alarms? A/A tests by shuffling the variants of real units many times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.clustered import centres, unit_frame
from engine.analysis.distributions import normal_quantile
from engine.analysis.effects import Settings, absolute, relative, scale
from engine.analysis.estimate import Effect, NotEstimable
from engine.analysis.gathered import gather
from engine.analysis.held import held
from engine.analysis.inference import arms
from engine.analysis.moments import Moments
from engine.analysis.sources import DuckDB, connect
from engine.analysis.table import check_columns, parse_measures
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from engine.analysis.effects import Method, Relative
    from engine.analysis.metrics import Measure
    from engine.analysis.moments import Floats
    from engine.analysis.question import ExperimentQuestion, MetricSpec
    from engine.analysis.sources import Engine, Frame, Row


class Rate(msgspec.Struct, frozen=True):
    """A share of runs with its 95% Wilson interval, and whether that holds the nominal value."""

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


def aa_table(  # noqa: PLR0913 # the command line's flags, one each
    path: str,
    *,
    metrics: Sequence[str],
    unit: str | None = None,
    covariates: Sequence[str] = (),
    method: Method = "fixed",
    alpha: float = 0.05,
    relative: Relative = "fieller",
    runs: int = 1000,
    seed: int = 1,
    engine: str = "duckdb",
) -> list[Check]:
    """Splits a table's units in two at random, `runs` times, and counts what the analysis would have claimed.

    Args:
        path: as `analyze_table`.
        metrics: as `analyze_table`; quantiles are left to it, they have no moments.
        unit: as `analyze_table`.
        covariates: as `analyze_table`.
        method: as `analyze_table`; anytime-valid intervals cover more than they say at a single look.
        alpha: one minus the intervals' coverage.
        relative: as `analyze_table`.
        runs: how many splits.
        seed: of the splits.
        engine: as `analyze_table`.

    Raises:
        BadInput: as `analyze_table`.
    """
    if not metrics:
        raise BadInput("no metric is named; add one, as in --metric mean:revenue")
    measures = parse_measures(metrics, tuple(covariates))
    if any(measure.kind == "quantile" for measure in measures):
        raise BadInput("an A/A check sorts no quantiles at every run; name means, proportions and ratios")
    source = connect(engine)
    table = source.table(path)
    split = unit or next(iter(table.schema()))  # any column will do: the variant is drawn below
    check_columns(source, path, table, split, unit, measures)
    frame, framed = unit_frame(table, split, unit, measures, about=centres(source, table, unit, measures))
    return _all(source, frame, framed, Settings(method, alpha, relative), runs, seed)


def aa_experiment(
    question: ExperimentQuestion,
    metrics: Sequence[MetricSpec],
    log_dir: Path | str,
    *,
    as_of: datetime | None = None,
    runs: int = 1000,
    seed: int = 1,
) -> list[Check]:
    """The check on the units of an experiment's control in the log, which no effect has touched; quantiles left out.

    Its method is `fixed`: an anytime-valid interval covers more than it says at a single look, which is no fault.

    Raises:
        BadInput: as `analyze_experiment`, and if control has too few units.
    """
    with held(Path(log_dir)):
        source = DuckDB()
        data = gather(source, question, metrics, Path(log_dir), as_of)
        control = data.units.filter((data.units["variant"] == question.control) & ~data.units["crossed"])
        measures = data.measures[: len(data.measures) - len(data.trend)]
        settings = Settings("fixed", question.alpha, question.relative)
        return _all(source, control, measures, settings, runs, seed)


def _all(
    source: Engine, frame: Frame, measures: Sequence[Measure], settings: Settings, runs: int, seed: int
) -> list[Check]:
    if not measures:
        raise BadInput("an A/A check sorts no quantiles at every run, and no other metric is named; add a mean")
    if runs < 1:
        raise BadInput(f"{runs} runs count nothing; 1000 are usual")
    columns = sorted({column for measure in measures for column in measure.columns})
    ordered = frame.select(*columns).order_by(*columns)  # engines keep no order, and a seed must mean one split
    rows = source.rows(ordered)
    values = np.array(rows, dtype=np.float64).reshape(-1, len(columns))
    wild = {columns[at] for at in np.flatnonzero(~np.isfinite(values).all(axis=0)) if _wild(rows, int(at))}
    return [
        _refused(measure, runs, len(rows))
        if wild.intersection(measure.columns)
        else aa(values[:, [columns.index(name) for name in measure.columns]], measure, settings, runs, seed)
        for measure in measures
    ]


def _wild(rows: Sequence[Row], at: int) -> bool:
    """Whether a column holds NaN or infinity, which unlike a missing value make its mean unknown."""
    cells = (row[at] for row in rows)
    return any(isinstance(cell, float) and not math.isfinite(cell) for cell in cells)


def _refused(measure: Measure, runs: int, units: int) -> Check:
    why = NotEstimable(f"{measure.name} has values that are NaN or infinite")
    return Check(measure.name, runs, units, why, why, why)


def aa(values: Floats, measure: Measure, settings: Settings, runs: int = 1000, seed: int = 1) -> Check:
    """The check of one measure on its columns (n, k); units with a value missing are left out."""
    values = values[np.all(np.isfinite(values), axis=1)]
    n, k = values.shape
    if n < 8:
        raise BadInput(f"{n} units have a value of {measure.name}; an A/A check needs some more")
    centre = values.mean(axis=0)
    products = np.einsum("ni,nj->nij", values - centre, values - centre).reshape(n, k * k)
    stacked = np.concatenate([np.ones((n, 1)), values - centre, products], axis=1)
    total = stacked.sum(axis=0)
    rng = np.random.default_rng(seed)
    found: list[tuple[Effect, Effect | NotEstimable]] = []
    for start in range(0, runs, 64):
        picked = rng.random((min(64, runs - start), n)) < 0.5
        for sums in picked.astype(np.float64) @ stacked:
            pair = _split(sums, total - sums, centre, k, measure, settings)
            found += [pair] if pair else []
    if not found:
        nothing = NotEstimable(f"{measure.name} does not vary")
        return Check(measure.name, runs, n, nothing, nothing, nothing)
    covered = sum(effect.low <= 0 <= effect.high for effect, _ in found)
    shares = [share for _, share in found if isinstance(share, Effect)]
    inside = sum(share.low <= 0 <= share.high for share in shares)
    nominal = settings.alpha
    unbounded = NotEstimable("control's mean is too near zero for a relative effect")
    return Check(
        measure.name,
        len(found),
        n,
        _rate(len(found) - covered, len(found), nominal),
        _rate(covered, len(found), 1 - nominal),
        _rate(inside, len(shares), 1 - nominal) if shares else unbounded,
    )


def _split(
    one: Floats, other: Floats, centre: Floats, k: int, measure: Measure, settings: Settings
) -> tuple[Effect, Effect | NotEstimable] | None:
    sides = arms(_moments(one, centre, k), _moments(other, centre, k), measure)
    if isinstance(sides, NotEstimable):
        return None
    width = scale(sides[0], sides[1], settings)
    if isinstance(width, NotEstimable):
        return None
    return absolute(sides[0], sides[1], width), relative(sides[0], sides[1], width, settings.relative)


def _moments(sums: Floats, centre: Floats, k: int) -> Moments:
    n = round(float(sums[0]))
    shift = sums[1 : k + 1]
    return Moments(n, centre + shift / n, sums[k + 1 :].reshape(k, k) - np.outer(shift, shift) / n)


def _rate(count: int, runs: int, nominal: float) -> Rate:
    """Wilson 1927."""
    z = normal_quantile(0.975)
    share = count / runs
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    reach = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs**2))
    return Rate(share, middle - reach, middle + reach, nominal, middle - reach <= nominal <= middle + reach)
