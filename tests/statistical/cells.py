"""Experiments of many sizes, splits and outcomes, read daily: false alarms and coverage of thousands of runs at once.

The worlds are those of `outcomes`. The inference is the
report's, written once more over arrays (`keeps`); `test_uneven_arms.py` compares it with `compare` on samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from engine.analysis.stats import proportions, small_arms
from engine.analysis.stats.distributions import normal_quantile
from engine.analysis.stats.sequential import tuned_rho
from tests.statistical.outcomes import Floats, Outcome, World

Flags = NDArray[np.bool_]
ALPHA = 0.05
Z = normal_quantile(1 - ALPHA / 2)
PLANNED = 5000


@dataclass(frozen=True)
class Side:
    """An arm at each look, all (runs, looks): units, value and variance of one unit; and both without covariates."""

    n: Floats
    value: Floats
    unit: Floats
    raw_value: Floats
    raw_unit: Floats
    nonzero: Floats
    size: Floats | None = None
    """The mean size of values of either sign; None where none is negative."""

    def last(self) -> Side:
        """The arm at the last look alone."""
        parts = (self.n, self.value, self.unit, self.raw_value, self.raw_unit, self.nonzero)
        return Side(*(part[:, -1:] for part in parts), None if self.size is None else self.size[:, -1:])


def sides(outcome: Outcome, worlds: tuple[World, World]) -> tuple[Side, Side]:
    """Both arms' values and the variances of one unit, at each look."""
    with np.errstate(all="ignore"):
        moments = []
        for world in worlds:
            n = world.n[..., None]
            mean = world.sums / n
            covariance = (world.products - n[..., None] * mean[..., :, None] * mean[..., None, :]) / (n - 1)[..., None]
            moments.append(
                (world.n, mean, covariance, world.nonzero, None if world.size is None else world.size / world.n)
            )
        if outcome.kind == "ratio":
            return tuple(_ratio(*part[:4]) for part in moments)  # type: ignore[return-value]
        if outcome.kind != "cuped":
            return tuple(
                _plain(n, mean[..., 0], np.maximum(cov[..., 0, 0], 0), k, size) for n, mean, cov, k, size in moments
            )  # type: ignore[return-value]
        total = World(*(a + b for a, b in zip(*((w.n, w.sums, w.products, w.nonzero) for w in worlds), strict=True)))
        centre = total.sums / total.n[..., None]
        spread = total.products / total.n[..., None, None] - centre[..., :, None] * centre[..., None, :]
        theta = np.nan_to_num(spread[..., 0, 1] / spread[..., 1, 1])
        found = []
        for n, mean, cov, k, _ in moments:
            value = mean[..., 0] - theta * (mean[..., 1] - centre[..., 1])
            unit = cov[..., 0, 0] - 2 * theta * cov[..., 0, 1] + theta**2 * cov[..., 1, 1]
            found.append(Side(n, value, np.maximum(unit, 0), mean[..., 0], cov[..., 0, 0], k))
        return found[0], found[1]


def _plain(n: Floats, value: Floats, unit: Floats, nonzero: Floats, size: Floats | None = None) -> Side:
    return Side(n, value, unit, value, unit, nonzero, size)


def _ratio(n: Floats, mean: Floats, cov: Floats, nonzero: Floats) -> Side:
    value = mean[..., 0] / mean[..., 1]
    unit = cov[..., 0, 0] - 2 * value * cov[..., 0, 1] + value**2 * cov[..., 1, 1]
    return _plain(n, value, np.maximum(unit, 0) / mean[..., 1] ** 2, nonzero)


def squared_cv(one: tuple[Floats, Floats, Floats], other: tuple[Floats, Floats, Floats]) -> Floats:
    """As `small_arms.pooled_squared_cv`; each arm is its units, value and variance of one unit."""
    weights = [n * np.abs(value) for n, value, _ in (one, other)]
    parts = [np.where(w > 0, w * unit / value**2, 0) for w, (_, value, unit) in zip(weights, (one, other), strict=True)]
    total: Floats = (parts[0] + parts[1]) / (weights[0] + weights[1])
    return total


def size_squared_cv(a: Side, b: Side, *, raw: bool = False) -> Floats:
    """As `small_arms.size_squared_cv`."""
    arms = [(s.n, s.raw_value, s.raw_unit) if raw else (s.n, s.value, s.unit) for s in (a, b)]
    if a.size is None or b.size is None:
        return squared_cv(arms[0], arms[1])
    weights = [side.size * side.n for side in (a, b)]
    parts = [w * ((u + v**2) / s.size**2 - 1) for w, (_, v, u), s in zip(weights, arms, (a, b), strict=True)]
    total: Floats = np.maximum((np.nan_to_num(parts[0]) + np.nan_to_num(parts[1])) / (weights[0] + weights[1]), 0)
    return total


def is_estimable(a: Side, b: Side, *, share: bool, repeated: bool) -> NDArray[np.bool_]:
    """As `small_arms.too_few_outcomes`."""
    least = np.minimum(a.n, b.n)
    cv2 = size_squared_cv(a, b, raw=True)
    enough = (least >= 2) & (a.unit + b.unit > 0)
    if share:
        rate = (a.n * a.raw_value + b.n * b.raw_value) / (a.n + b.n)
        return enough & (
            least * np.minimum(rate, 1 - rate) >= (small_arms.LEAST_COUNT if repeated else small_arms.LEAST_AT_ONE_LOOK)
        )
    outcomes = np.nan_to_num(least / (1 + cv2))
    if repeated:
        return enough & ((outcomes >= small_arms.LEAST_OUTCOMES) | ((a.size is not None) & (cv2 <= 1)))
    unskew = (unskewed(least, cv2) >= small_arms.LEAST_UNSKEWED) & (outcomes > 0)
    return enough & (unskew | (outcomes >= small_arms.LEAST_OUTCOMES))


def unskewed(n: Floats, cv2: Floats) -> Floats:
    return np.where(cv2 > 1, n / np.maximum(np.sqrt(cv2) - 1 / np.sqrt(cv2), 1e-9) ** 2, np.inf)


def keeps(a: Side, b: Side, effect: float, *, relative: bool, share: bool, repeated: bool, level: float) -> Flags:
    """Whether the interval of each look (runs, looks) contains an effect, absolute or relative."""
    with np.errstate(all="ignore"):
        n = a.n + b.n
        cv2 = squared_cv((a.n, a.value, a.unit), (b.n, b.value, b.unit))
        mean = (a.n * a.value + b.n * b.value) / n
        ratio = 1 + effect if relative else 1.0
        shift = 0.0 if relative else effect
        ours = (a.n * a.value + b.n * (b.value - shift) / ratio) / n
        theirs = ratio * ours + shift
        weight = loan_weight(a, b, size_squared_cv(a, b), repeated=repeated)
        is_scale = follows_mean(a, b, mean)
        pooled = sum((side.n - 1) * side.unit for side in (a, b)) / (n - 2)
        growth = (1.0, 2.0) if repeated else growth_exponents(a, b)
        variances = []
        for side, value in ((a, ours), (b, theirs)):
            lent = np.clip(value, 0, 1) * (1 - np.clip(value, 0, 1)) if share else _scaled(value / mean, growth)
            lent = lent if share else np.where(is_scale, lent * cv2 * mean**2, pooled)
            variances.append((side.unit + np.where(side.unit > 0, weight, 1) * (lent - side.unit)) / side.n)
        spread = variances[1] + ratio**2 * variances[0]
        own = b.unit / b.n + ratio**2 * a.unit / a.n
        spread = np.where(repeated | (~is_scale & (not share)), np.maximum(spread, own), spread)
        z = np.abs(b.value - ratio * a.value - shift) / np.sqrt(spread)
        if repeated:
            grown = np.round(4 * a.n * b.n / n) * tuned_rho(PLANNED, ALPHA) ** 2
            return z <= np.sqrt(2 * (grown + 1) / grown * np.log(np.sqrt(grown + 1) / level))
        va, vb = a.unit / a.n, b.unit / b.n
        welch = (va + vb) ** 2 / (va**2 / (a.n - 1) + vb**2 / (b.n - 1))
        wider = 1.0 if share else widening(a, b)
        return z <= wider * stdtrit((1 - weight) * welch + weight * (n - 2), 1 - level / 2)


def widening(a: Side, b: Side) -> Floats:
    """As `small_arms.widening`."""
    least, cv2 = np.minimum(a.n, b.n), size_squared_cv(a, b, raw=True)
    outcomes, seen = np.nan_to_num(least / (1 + cv2)), (a.nonzero + b.nonzero) / (a.n + b.n) * least
    few = np.clip(2 - outcomes / small_arms.LEAST_OUTCOMES, 0, 1)
    short, long = small_arms.TAIL
    tail = np.clip((short - outcomes / np.maximum(seen, 1e-9)) / (short - long), 0, 1)
    return 1 + np.where(unskewed(least, cv2) < small_arms.LEAST_UNSKEWED, small_arms.MOST_WIDER * few * tail, 0)


def loan_weight(a: Side, b: Side, cv2: Floats, *, repeated: bool) -> Floats:
    """As `small_arms.arrange_loan`."""
    lost = 1 - 4 * a.n * b.n / (a.n + b.n) ** 2
    uneven = np.clip((lost - small_arms.EVEN) / (small_arms.UNEVEN - small_arms.EVEN), 0, 1)
    low, high = (of[0] + uneven * (of[1] - of[0]) for of in (small_arms.FEW, small_arms.ENOUGH))
    outcomes = unskewed(np.minimum(a.n, b.n), cv2)
    if not repeated and a.size is not None and b.size is not None:
        outcomes = (
            outcomes / np.maximum(np.abs(a.n * a.value + b.n * b.value) / (a.n * a.size + b.n * b.size), 1e-9) ** 2
        )
    few = np.clip((high - outcomes) / (high - low), 0, 1)
    return np.maximum(uneven, few) if repeated else few


def follows_mean(a: Side, b: Side, mean: Floats) -> Flags:
    """Whether the variance of one unit follows its mean, as in `small_arms.arrange_loan`."""
    sizes = [np.abs(side.value) if side.size is None else side.size for side in (a, b)]
    gain = a.n * a.value + b.n * b.value - small_arms.LEAST_GAIN * (a.n * sizes[0] + b.n * sizes[1])
    return (mean > 0) & (np.minimum(a.value, b.value) >= 0) & (gain >= 0)


def growth_exponents(a: Side, b: Side) -> tuple[Floats, Floats]:
    """As `small_arms.growth_exponents`."""
    with np.errstate(all="ignore"):
        grown = np.log(b.value / a.value)
        share = np.log(b.nonzero / b.n / (a.nonzero / a.n)) / grown
        seen, (alike, unlike) = (a.nonzero + b.nonzero) / (a.n + b.n), small_arms.ALIKE
        unlikeness = np.clip((alike - 1 / (1 + size_squared_cv(a, b)) / seen) / (alike - unlike), 0, 1)
        error = small_arms.CONFIDENCE * unlikeness * np.sqrt(1 / a.nonzero + 1 / b.nonzero) / np.abs(grown)
        least, most = (
            np.clip(np.nan_to_num(2 - share + side * error, nan=1.5 + side / 2, posinf=2, neginf=1), 1, 2)
            for side in (-1, 1)
        )
    return least, most


def _scaled(ratio: Floats, growth: tuple[Floats, Floats]) -> Floats:
    ratio = np.clip(ratio, 0, small_arms.MOST_GROWTH)
    return np.maximum(ratio ** growth[0], ratio ** growth[1])


@dataclass(frozen=True)
class Cell:
    """The rates of one cell; None where fewer than a twentieth of its runs have an estimate."""

    estimable: float
    alarms: float | None
    anytime: float | None
    fixed: list[float] | None


EFFECTS = (0.0, 0.1, 1.0)


def run_cell(rng: np.random.Generator, outcome: Outcome, daily: float, split: float, runs: int, days: int) -> Cell:
    """Any-look false alarms, any-look coverage (the worst effect and scale) and coverage at the last look."""
    share = outcome.kind == "share"
    base = outcome.draw(rng, daily * split, runs, days, 0.0)
    other = outcome.draw(rng, daily * (1 - split), runs, days, 0.0)
    estimable, alarms, anytime, fixed = 0.0, None, [], []
    for effect in EFFECTS:
        world = other.scaled(1 + effect) if outcome.scales else other
        if effect and not outcome.scales:
            world = outcome.draw(rng, daily * (1 - split), runs, days, effect)
        a, b = sides(outcome, (base, world))
        with np.errstate(all="ignore"):
            made = is_estimable(a, b, share=share, repeated=True)
        last, end = a.last(), b.last()
        with np.errstate(all="ignore"):
            done = is_estimable(last, end, share=share, repeated=False)[:, 0]
        for relative in (False, True):
            target = effect if relative else effect * outcome.mean
            inside = keeps(a, b, target, relative=relative, share=share, repeated=True, level=ALPHA)
            if made.any(axis=1).mean() > 0.05:
                rate = float((inside | ~made).all(axis=1).mean())
                anytime.append(rate)
                alarms = 1 - rate if effect == 0 and not relative else alarms
            if done.mean() >= 0.5:
                at = keeps(last, end, target, relative=relative, share=share, repeated=False, level=ALPHA)[:, 0]
                if share:
                    at, done = exact_where_small(last, end, target, at, done, relative=relative)
                fixed += [float(at[done].mean())] if done.mean() >= 0.5 else []
        estimable = float(made[:, -1].mean()) if effect == 0 else estimable
    return Cell(estimable, alarms, min(anytime) if anytime else None, fixed or None)


def exact_where_small(
    a: Side, b: Side, target: float, kept: Flags, done: Flags, *, relative: bool
) -> tuple[Flags, Flags]:
    """Coverage of shares at one look with small tables by the report's exact test and score intervals."""
    kept, done = kept.copy(), done.copy()
    for run in range(len(kept)):
        sizes = int(a.n[run, 0]), int(b.n[run, 0])
        if not done[run]:
            continue
        counts = round(float(a.value[run, 0]) * sizes[0]), round(float(b.value[run, 0]) * sizes[1])
        if not proportions.is_small(counts, sizes):
            continue
        expected = sizes[0] * sum(counts) / sum(sizes)
        if relative and (counts[0] == 0 or expected < proportions.LEAST_IN_CONTROL):
            done[run] = False
            continue
        score = proportions.ratio_score(counts, sizes, 1 + target) if relative else None
        score = proportions.difference_score(counts, sizes, target) if score is None else score
        kept[run] = abs(score) <= Z
    return kept, done


def alarms_of_family(
    rng: np.random.Generator, outcome: Outcome, daily: float, split: float, runs: int, days: int
) -> float | None:
    """Any-look false alarms of two variants against control, adjusted: Holm's first step halves the level.

    Control has the share `split` of the units, the variants the rest in equal parts.
    """
    share = outcome.kind == "share"
    base, *others = (
        outcome.draw(rng, daily * part, runs, days, 0.0) for part in (split, (1 - split) / 2, (1 - split) / 2)
    )
    alarm, estimated = np.zeros(runs, bool), np.zeros(runs, bool)
    for world in others:
        a, b = sides(outcome, (base, world))
        with np.errstate(all="ignore"):
            made = is_estimable(a, b, share=share, repeated=True)
        inside = keeps(a, b, 0.0, relative=False, share=share, repeated=True, level=ALPHA / 2)
        alarm |= (made & ~inside).any(axis=1)
        estimated |= made.any(axis=1)
    return float(alarm.mean()) if estimated.mean() > 0.05 else None


def days_to_a_verdict(
    rng: np.random.Generator, outcome: Outcome, daily: float, effect: float, runs: int, days: int
) -> tuple[float, float]:
    """The mean days until an anytime interval of even arms excludes zero: by the report, and by a plain sequence.

    The plain one is that of Waudby-Smith et al. (2024) with each arm's own variance and no least number of outcomes.
    A run without a verdict counts with all days.
    """
    share = outcome.kind == "share"
    worlds = (outcome.draw(rng, daily / 2, runs, days, 0.0), outcome.draw(rng, daily / 2, runs, days, effect))
    a, b = sides(outcome, worlds)
    with np.errstate(all="ignore"):
        made = is_estimable(a, b, share=share, repeated=True)
        z = np.abs(b.value - a.value) / np.sqrt(a.unit / a.n + b.unit / b.n)
        grown = (a.n + b.n) * tuned_rho(PLANNED, ALPHA) ** 2
        plain = z > np.sqrt(2 * (grown + 1) / grown * np.log(np.sqrt(grown + 1) / ALPHA))
    found = made & ~keeps(a, b, 0.0, relative=False, share=share, repeated=True, level=ALPHA)
    ours, theirs = (float(np.where(x.any(axis=1), x.argmax(axis=1) + 1, days).mean()) for x in (found, plain))
    return ours, theirs
