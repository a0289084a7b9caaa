"""Proposes seeds that split few units, such as stores, into variants that are alike before the experiment.

Of many seeds the one is proposed whose variants differ least in the covariates: by the Hotelling-Lawley trace, which
for two variants is the Mahalanobis distance of Morgan and Rubin 2012, "Rerandomization to improve covariate balance in
experiments", The Annals of Statistics 40(2), eq. 3; and by how far the variants' numbers are from their shares.

The choice does not look at outcomes, and makes an effect's true error smaller than that of one random seed. A report
that does not know of it gives intervals that are too wide, not too narrow (Li, Ding and Rubin 2018, PNAS 115(37)).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.sources.engines import DuckDB
from engine.analysis.sources.frames import FrameOrFile, open_table, table_name
from engine.catalog.plan.compile import unit_hash
from engine.errors import BadInput
from engine.hashing import choose_variant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.catalog.plan.plan import Experiment

    Floats = NDArray[np.float64]

FEWEST = 4


class CovariateBalance(msgspec.Struct, frozen=True, kw_only=True):
    """One covariate's means by variant, and their largest difference in standard deviations.

    `usual` is the median of that difference over all seeds that were tried.
    """

    covariate: str
    means: dict[str, float]
    difference: float
    usual: float


class ProposedSeed(msgspec.Struct, frozen=True, kw_only=True):
    """The seed with the best balance of those tried, and the units of each variant.

    `now` is the largest difference of any covariate by the experiment's present seed.
    """

    experiment: str
    unit: str
    seed: str
    tried: int
    units: dict[str, int]
    covariates: list[CovariateBalance]
    now: float


class _CovariateTable(msgspec.Struct, frozen=True):
    """The units' ids, their covariates' names, and standardized values (units, covariates)."""

    ids: list[str]
    names: list[str]
    raw: Floats
    scaled: Floats


def propose_seed(
    experiment: Experiment, frame_or_file: FrameOrFile, *, covariates: Sequence[str] = (), seeds: int = 1000
) -> ProposedSeed:
    """The seed, of `seeds` tried, with the best balance of a table's units.

    Args:
        experiment: by whose unit and ranges the table's units are assigned; layers and audiences are left aside.
        frame_or_file: a row per unit: a column with its id, named as the unit, and columns of numbers.
        covariates: the columns to balance; all of numbers if left out.
        seeds: how many to try.

    Raises:
        BadInput: if the table has no such columns or too few units, or no seed gives each variant two units.
    """
    if seeds < 1:
        raise BadInput(f"--seeds {seeds}: is not at least 1; try 1000")
    if experiment.switchback is not None:
        raise BadInput(
            f"{experiment.key}: its units change their variants by time, which balances them; no seed is better"
        )
    units = _read_units(experiment.spec.unit, frame_or_file, covariates)
    spec = experiment.spec
    names = [variant.key for variant in spec.variants]
    shares = np.array(experiment.shares)
    own = spec.seed or spec.key
    tried = [f"{spec.key}-{number}" for number in range(1, seeds + 1)]
    drawn = {seed: _assign(experiment, seed, units.ids) for seed in tried}
    scores = {seed: _imbalance(units.scaled, variant, shares) for seed, variant in drawn.items()}
    best = min(tried, key=lambda seed: scores[seed])
    if not np.isfinite(scores[best]):
        raise BadInput(f"{len(units.ids)} units are too few: no seed gives each of {', '.join(names)} two; add units")
    spread = {seed: _differences(units.scaled, drawn[seed], len(names)) for seed in tried if np.isfinite(scores[seed])}
    usual = np.median(np.array(list(spread.values())), axis=0)
    variant = drawn[best]
    present = _differences(units.scaled, _assign(experiment, own, units.ids), len(names))
    return ProposedSeed(
        experiment=spec.key,
        unit=spec.unit,
        seed=best,
        tried=seeds,
        units={name: int((variant == index).sum()) for index, name in enumerate(names)},
        covariates=[
            CovariateBalance(
                covariate=column,
                means={name: float(units.raw[variant == index, at].mean()) for index, name in enumerate(names)},
                difference=float(spread[best][at]),
                usual=float(usual[at]),
            )
            for at, column in enumerate(units.names)
        ],
        now=float(np.max(present)),
    )


def _read_units(unit: str, frame_or_file: FrameOrFile, covariates: Sequence[str]) -> _CovariateTable:
    """The units of a table with their covariates."""
    source, path = DuckDB(), table_name(frame_or_file)
    table = open_table(source, frame_or_file, [unit])
    schema = table.schema()
    if unit not in schema:
        raise BadInput(f"{path} has no column {unit!r}; name the column with the unit's id {unit}")
    numeric = [name for name, kind in schema.items() if name != unit and kind.is_numeric()]
    names = list(covariates) or numeric
    wrong = [name for name in names if name not in numeric]
    if wrong or not names:
        what = f"{wrong[0]!r} is not a column of numbers" if wrong else "there is no column of numbers"
        raise BadInput(f"{path}: {what}; it has {', '.join(numeric) or 'none'}")
    rows = source.rows(table.select(unit, *names).filter(table[unit].notnull()).order_by(unit))
    ids = [str(row[0]) for row in rows]
    if len(set(ids)) < len(ids):
        raise BadInput(f"{path}: {unit} {next(one for one in ids if ids.count(one) > 1)!r} has two rows; give it one")
    if len(ids) < FEWEST:
        raise BadInput(f"{path} has {len(ids)} units; give at least {FEWEST}")
    raw = np.array([[np.nan if value is None else float(value) for value in row[1:]] for row in rows])
    if not np.isfinite(raw).all():
        row, column = (int(at[0]) for at in np.nonzero(~np.isfinite(raw)))
        raise BadInput(f"{path}: {ids[row]} has no {names[column]}; fill it in, or leave the column out")
    deviation = raw.std(axis=0, ddof=1)
    constant = [name for name, one in zip(names, deviation, strict=True) if not one > 0]
    if constant:
        raise BadInput(
            f"{path}: {constant[0]!r} is the same for every unit, so there is nothing to balance; leave it out"
        )
    return _CovariateTable(ids, names, raw, (raw - raw.mean(axis=0)) / deviation)


def _assign(experiment: Experiment, seed: str, ids: Sequence[str]) -> NDArray[np.intp]:
    """The index of each unit's variant; -1 for a unit that is not admitted."""
    place, ranges = unit_hash(seed, experiment.spec), experiment.steps[-1][1]
    return np.array([choose_variant(place(one), ranges) for one in ids])


def _imbalance(scaled: Floats, variant: NDArray[np.intp], shares: Floats) -> float:
    """The difference between the variants; infinite if one has fewer than two units."""
    counts = np.array([(variant == index).sum() for index in range(len(shares))])
    if (counts[shares > 0] < 2).any():
        return float("inf")
    kept = scaled[variant >= 0]
    inverse = np.linalg.pinv(np.atleast_2d(np.cov(kept, rowvar=False)))
    total, centre = counts.sum(), kept.mean(axis=0)
    gaps = [scaled[variant == index].mean(axis=0) - centre for index in range(len(shares)) if counts[index]]
    trace = math.fsum(float(n) * float(gap @ inverse @ gap) for n, gap in zip(counts[counts > 0], gaps, strict=True))
    expected = total * shares
    return trace + float((((counts - expected) ** 2)[expected > 0] / expected[expected > 0]).sum())


def _differences(scaled: Floats, variant: NDArray[np.intp], variants: int) -> Floats:
    """The largest difference of each covariate between two variants, in a unit's standard deviations."""
    means = [scaled[variant == index].mean(axis=0) for index in range(variants) if (variant == index).any()]
    return np.ptp(np.array(means), axis=0) if means else np.full(scaled.shape[1], np.nan)
