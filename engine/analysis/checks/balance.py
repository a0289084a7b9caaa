"""Tests balance before the exposure: whether covariates differ between variants by more than chance.

A covariate is from before the exposure, so no variant can have changed it. If it differs, the split is not random, or
the covariate is not from before: its effect would be taken out of the metric's. So it is with the units that lack a
covariate: their indicator would absorb the effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.aggregates.clustered import OWN_ENDINGS, WITH
from engine.analysis.aggregates.covariates import IMPUTED, MISSING_VALUE, count_missing, is_indicator
from engine.analysis.design.metrics import Measure, Term
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.report.model import Balance
from engine.analysis.report.quality import exposure_check
from engine.analysis.report.sample_ratio import FIXED_GATE, SEQUENTIAL_GATE
from engine.analysis.stats.estimate import Effect
from engine.analysis.stats.moments import Moments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.analysis.design.methods import Inference

LACKING = ", missing"
"""Ends the name of a covariate whose share of missing values was compared."""


def check_balance(measures: Sequence[Measure], evidence: Evidence, inference: Inference) -> list[Balance]:
    """The difference of each covariate of each variant, whose p-values are adjusted by the number of them all.

    By Welch's test at 0.001 for a single look, by the anytime-valid one at 0.01 for repeated looks. Covariates with too
    few outcomes for either are left out.
    """
    gate = SEQUENTIAL_GATE if inference.has_repeated_looks else FIXED_GATE
    method = "sequential" if inference.has_repeated_looks else "fixed"
    settings = msgspec.structs.replace(inference, method=method, alpha=gate, tau=None)
    found: list[tuple[Measure, str, str, dict[str, float], float]] = []
    for measure in measures:
        for index, term in enumerate(measure.covariates):
            if not measure.rules.has_moments:
                continue
            if is_indicator(term) and term.den is None:
                found += _missing(measure, term, evidence, is_repeated=inference.has_repeated_looks)
                continue
            alone, groups = _alone(measure, index, evidence)
            for name in evidence.groups:
                if name == evidence.control:
                    continue
                row = compare(alone, name, Evidence(control=evidence.control, groups=groups), settings)
                if isinstance(row.absolute, Effect) and row.absolute.p is not None:
                    found.append((measure, _covariate_name(term), name, row.mean, row.absolute.p))
    tests = len(found)
    return [
        Balance(
            metric=measure.name,
            variant=name,
            covariate=covariate,
            mean=mean,
            p=min(1.0, p * tests),
            ok=p * tests >= gate,
        )
        for measure, covariate, name, mean, p in found
    ]


def _missing(
    measure: Measure, indicator: Term, evidence: Evidence, *, is_repeated: bool
) -> list[tuple[Measure, str, str, dict[str, float], float]]:
    """The share of units without a covariate in control and each variant, tested exactly for extreme shares.

    Of units with several rows the share of rows is compared as any other covariate, by unit.
    """
    sides = {name: group.moments[measure.name] for name, group in (evidence.whole or evidence.groups).items()}
    covariate = _covariate_name(indicator)
    found = []
    for name in sides:
        pair = {side: sides[side] for side in (evidence.control, name)}
        if len(pair) == 2 and all(side.n for side in pair.values()):
            lacking = {key: count_missing(side, measure, indicator) for key, side in pair.items()}
            sizes = {key: side.n for key, side in pair.items()}
            p = exposure_check(sizes, lacking, 0, 0, sequential=is_repeated).p
            shares = {key: lacking[key] / sizes[key] for key in pair}
            found.append((measure, covariate, name, shares, p))
    return found


def _covariate_name(term: Term) -> str:
    """The name of a covariate or of its missing-value indicator, without the suffixes of the unit frame."""
    if is_indicator(term):
        return f"{term.num.partition(MISSING_VALUE)[0]}{LACKING}"
    return next((term.num.partition(end)[0] for end in (IMPUTED, WITH, *OWN_ENDINGS) if end in term.num), str(term))


def _alone(measure: Measure, index: int, evidence: Evidence) -> tuple[Measure, dict[str, Group]]:
    """A covariate as a measure, with its moments by variant."""
    term = measure.covariates[index]
    start = len(measure.y.columns) + sum(len(other.columns) for other in measure.covariates[:index])
    at = list(range(start, start + len(term.columns)))
    alone = Measure("covariate", "mean", Term("x", "y" if term.den else None, term.offset), stratified=True)
    groups = {}
    for name, group in evidence.groups.items():
        whole = group.moments[measure.name]
        part = Moments(whole.n, whole.mean[at], whole.comoment[np.ix_(at, at)])
        own = group.outcomes.get(measure.name, ())[index + 1 : index + 2]
        groups[name] = Group(group.units, {alone.name: part}, {alone.name: own})
    return alone, groups


def flag_imbalance(found: Sequence[Balance]) -> list[str]:
    """A sentence for each covariate that differs."""
    return [
        f"before the exposure {row.variant} differs from control in {row.metric}{_lacking(row)}: "
        f"{', '.join(f'{name} {mean:.4g}' for name, mean in row.mean.items())} (p = {row.p:.2g}); "
        "the split is not random, or the covariate is from after an exposure"
        for row in found
        if not row.ok
    ]


def _lacking(row: Balance) -> str:
    """The denominator of a share of missing values, in words; empty for a mean."""
    return f", share without {row.covariate.removesuffix(LACKING)}" if row.covariate.endswith(LACKING) else ""
