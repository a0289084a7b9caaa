"""Splits units at random, so that no effect exists, and counts how often the report finds one.

A run draws a side for each unit, control with the probability `share`, and the look at which it arrives. Every look is
reported by the report's own `compare`, with its rules for small arms and few outcomes. An interval that holds at every
look is wrong if it is at any of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from engine.analysis.aggregates.aggregate import Group
from engine.analysis.aggregates.quantiles import sample_quantile
from engine.analysis.design.methods import MOST_LOOKS
from engine.analysis.report.compare import Evidence, compare
from engine.analysis.report.verdict import is_better
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.estimate import Effect, NotEstimable
from engine.analysis.stats.moments import Moments, Outcomes, empty_moments
from engine.analysis.stats.small_arms import claims_nothing
from engine.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from engine.analysis.design.methods import Inference
    from engine.analysis.design.metrics import Measure
    from engine.analysis.stats.moments import Floats

CONTROL, VARIANT = "control", "variant"
FEWEST_UNITS = 8
LEAST_ESTIMATED = 0.05
"""The share of runs with an estimate below which their errors are those of odd splits."""
BATCH = 4_000_000
"""Units times runs that are drawn at once, at most 64 runs."""
_UNBOUNDED = "control's mean is too near zero for a relative effect"


class Splits(NamedTuple):
    """The random splits of one check: their number, seed, method, control's share, and looks per split."""

    runs: int
    seed: int
    inference: Inference
    share: float = 0.5
    looks: int = 1

    def of_units(self, units: int) -> Splits:
        """The splits, for a group-sequential experiment whose planned units are all units."""
        if self.inference.method != "group_sequential":
            return self
        planned = msgspec.structs.replace(self.inference, planned=units, looks=min(self.looks, MOST_LOOKS))
        return self._replace(inference=planned)

    def check(self) -> None:
        """Raises BadInput if a number is out of its range."""
        if self.runs < 1:
            raise BadInput(f"{self.runs} runs are too few; give 1 or more, 1000 are usual")
        if self.looks < 1:
            raise BadInput(f"{self.looks} looks are too few; give 1 or more")
        if not 0 < self.share < 1:
            raise BadInput(f"share {self.share:g} of control is not between 0 and 1; 0.5 splits evenly, 0.1 is 10 : 90")


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """A share of runs with its 95% Wilson interval; `ok` if that interval contains the nominal value.

    Intervals of a quantile, those that hold at several looks, and exact ones are conservative: fewer errors than the
    nominal share are `ok` too.
    """

    share: float
    low: float
    high: float
    nominal: float
    ok: bool


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One metric's false-positive rate, and the share of its absolute and relative intervals that contain zero.

    With several looks they are of runs, at any of their looks. `false_ships` is the share of runs in which the method's
    rule calls the variant better at any look, `estimated` that in which some look has an estimate. `share` is control's
    of the units.
    """

    metric: str
    runs: int
    units: int
    false_positives: Rate | NotEstimable
    coverage: Rate | NotEstimable
    relative_coverage: Rate | NotEstimable
    false_ships: Rate | NotEstimable
    estimated: float
    share: float
    looks: int
    method: str
    note: str = ""
    """The units that are left out, such as those whose window is open."""

    @property
    def ok(self) -> bool:
        """Whether errors are at most as frequent as they should be; a report without an estimate makes none."""
        parts = (self.false_ships,) if self.method == "bayesian" else (self.false_positives, self.coverage)
        return all(part.ok if isinstance(part, Rate) else claims_nothing(part) for part in parts)


@dataclass
class Errors:
    """The runs with an estimate, absolute and relative, and those that are wrong at any look."""

    runs: int = 0
    made: int = 0
    wrong: int = 0
    relative: int = 0
    relative_wrong: int = 0
    ships: int = 0
    reasons: list[NotEstimable] = field(default_factory=list)

    def add(self, looks: Sequence[tuple[Effect | NotEstimable, Effect | NotEstimable, bool]]) -> None:
        """Counts a run: both effects at each look, and whether the variant was called better."""
        absolute = [effect for effect, _, _ in looks if isinstance(effect, Effect)]
        relative = [effect for _, effect, _ in looks if isinstance(effect, Effect)]
        self.runs += 1
        self.made += bool(absolute)
        self.wrong += any(_excludes_zero(effect) for effect in absolute)
        self.relative += bool(relative)
        self.relative_wrong += any(_excludes_zero(effect) for effect in relative)
        self.ships += any(better for _, _, better in looks)
        if not absolute and not self.reasons:
            self.reasons += [effect for effect, _, _ in looks if isinstance(effect, NotEstimable)][-1:]


def _excludes_zero(effect: Effect) -> bool:
    return not effect.low <= 0 <= effect.high


def refuse_check(name: str, splits: Splits, units: int, why: NotEstimable | None = None) -> Check:
    """The check of a metric that has no estimate in any split."""
    why = why or NotEstimable(f"{name} has values that are NaN or infinite")
    return Check(
        metric=name,
        runs=splits.runs,
        units=units,
        false_positives=why,
        coverage=why,
        relative_coverage=why,
        false_ships=why,
        estimated=0.0,
        share=splits.share,
        looks=splits.looks,
        method=splits.inference.method,
    )


def check_moments(values: Floats, measure: Measure, splits: Splits) -> Check:
    """The check of one measure on its columns (n, k); units with a value missing are left out."""
    values = values[np.all(np.isfinite(values), axis=1)]
    n, k = values.shape
    _check_count(n, measure)
    centre = values.mean(axis=0)
    products = np.einsum("ni,nj->nij", values - centre, values - centre).reshape(n, k * k)
    size = np.abs(values[:, 0] + measure.y.offset * (1.0 if measure.y.den is None else values[:, 1]))
    outcomes = np.column_stack([size > 1e-9 * abs(measure.y.offset), size])
    stacked = np.concatenate([np.ones((n, 1)), values - centre, products, outcomes], axis=1)
    splits, rng, errors = splits.of_units(n), np.random.default_rng(splits.seed), Errors()

    def group(sums: Floats) -> Group:
        moments = _moments(sums, centre, k)
        return Group(moments.n, {measure.name: moments}, {measure.name: (Outcomes(round(sums[-2]), float(sums[-1])),)})

    for sides in _draw_sums(stacked, splits, rng):
        looks = [{CONTROL: group(ours), VARIANT: group(theirs)} for ours, theirs in zip(*sides, strict=True)]
        errors.add([_report(measure, Evidence(control=CONTROL, groups=groups), splits.inference) for groups in looks])
    return _rates(errors, measure, n, splits)


def _draw_sums(stacked: Floats, splits: Splits, rng: np.random.Generator) -> Iterator[tuple[Floats, Floats]]:
    """The sums (looks, m) of the rows (n, m) of control and of the variant up to each look, by run."""
    n = len(stacked)
    size = max(1, min(64, BATCH // n))
    for start in range(0, splits.runs, size):
        runs = min(size, splits.runs - start)
        side = rng.random((runs, n)) < splits.share
        look = rng.integers(splits.looks, size=(runs, n)) if splits.looks > 1 else np.zeros((runs, n), np.int64)
        parts = [
            np.stack([(mine & (look == at)).astype(np.float64) @ stacked for at in range(splits.looks)], axis=1)
            for mine in (side, ~side)
        ]
        for run in range(runs):
            yield parts[0][run].cumsum(axis=0), parts[1][run].cumsum(axis=0)


def check_quantile(x: Floats, unit: NDArray[np.intp], measure: Measure, splits: Splits) -> Check:
    """The check of a quantile on rows (n,), rising, whose units (n,) are integers from 0."""
    units = int(unit.max()) + 1 if len(unit) else 0
    _check_count(units, measure)
    splits, rng, errors = splits.of_units(units), np.random.default_rng(splits.seed), Errors()
    for _ in range(splits.runs):
        side = rng.random(units) < splits.share
        look = rng.integers(splits.looks, size=units) if splits.looks > 1 else np.zeros(units, np.int64)
        found = []
        for at in range(splits.looks):
            arms = {
                name: sample_quantile(x[own], unit[own], measure.quantile or 0.5, label=measure.name)
                for name, mine in ((CONTROL, side), (VARIANT, ~side))
                for own in [(mine & (look <= at))[unit]]
            }
            none = {name: Group(0) for name in arms}
            evidence = Evidence(control=CONTROL, groups=none, quantiles={measure.name: arms})
            found.append(_report(measure, evidence, splits.inference))
        errors.add(found)
    return _rates(errors, measure, units, splits)


def _report(
    measure: Measure, evidence: Evidence, inference: Inference
) -> tuple[Effect | NotEstimable, Effect | NotEstimable, bool]:
    row = compare(measure, VARIANT, evidence, inference)
    return row.absolute, row.relative, is_better(row, inference)


def _check_count(units: int, measure: Measure) -> None:
    if units < FEWEST_UNITS:
        raise BadInput(f"{units} units have a value of {measure.name}; an A/A check needs at least {FEWEST_UNITS}")


def _rates(errors: Errors, measure: Measure, units: int, splits: Splits) -> Check:
    loose = measure.rules.is_conservative or measure.rules.is_share or splits.inference.method != "fixed"
    return summarize_errors(errors, measure.name, units, splits, loose=loose)


def summarize_errors(errors: Errors, name: str, units: int, splits: Splits, *, loose: bool) -> Check:
    """The rates over runs with an estimate; `loose` accepts fewer errors than the level."""
    alpha = splits.inference.alpha
    if errors.made < LEAST_ESTIMATED * errors.runs:
        refused = refuse_check(name, splits, units, errors.reasons[0])
        return msgspec.structs.replace(refused, runs=errors.made, estimated=errors.made / errors.runs)
    wrong = rate(errors.wrong, errors.made, alpha, loose=loose)
    covered: Rate | NotEstimable = NotEstimable(_UNBOUNDED)
    if errors.relative:
        covered = _complement(rate(errors.relative_wrong, errors.relative, alpha, loose=loose))
    return Check(
        metric=name,
        runs=errors.made,
        units=units,
        false_positives=wrong,
        coverage=_complement(wrong),
        relative_coverage=covered,
        false_ships=rate(errors.ships, errors.runs, alpha, loose=True),
        estimated=errors.made / errors.runs,
        share=splits.share,
        looks=splits.looks,
        method=splits.inference.method,
    )


def _moments(sums: Floats, centre: Floats, k: int) -> Moments:
    n = round(float(sums[0]))
    if n == 0:
        return empty_moments(k)
    shift = sums[1 : k + 1]
    return Moments(n, centre + shift / n, sums[k + 1 : k + 1 + k * k].reshape(k, k) - np.outer(shift, shift) / n)


def rate(errors: int, runs: int, nominal: float, *, loose: bool) -> Rate:
    """The share of wrong runs with its interval (Wilson 1927); `loose` accepts less than the nominal."""
    z, share = normal_quantile(0.975), errors / runs
    middle = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    reach = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs**2))
    low, high = middle - reach, middle + reach
    return Rate(share=share, low=low, high=high, nominal=nominal, ok=low <= nominal and (loose or nominal <= high))


def _complement(wrong: Rate) -> Rate:
    """The share of intervals that contain zero."""
    return Rate(share=1 - wrong.share, low=1 - wrong.high, high=1 - wrong.low, nominal=1 - wrong.nominal, ok=wrong.ok)
