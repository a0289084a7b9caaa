"""The probability of being the best arm, by counting joint posterior draws that all contexts of a policy share.

In draw d arm k scores mean_k + f(z_dk spread_k + c_d loading_k): z are standard normal draws, c draws of the common
coefficients, and f(v) = max(v, v / 1000) for an optimistic policy, else f(v) = v. Only means, spreads and loadings
depend on the context.

Of many arms few can win a draw: those with a great z. `Leaders` are the arms with the greatest z of each draw, and no
other arm scores above max_k mean_k + f(z' spread_k + c_d loading_k), with z' the least of theirs. Where a leader scores
above that bound it wins, without a look at the others; the remaining draws are computed in full. Every operation in the
bound is monotonic in floating point as well, so the winners are the same to the last bit.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies import special
from policies.batches import Floats, Ints

try:
    from policies.best_arms import best_arms
except ImportError:  # not compiled
    best_arms = None  # type: ignore[assignment]

Pool = NDArray[np.float32]
"""Draws (256, columns) that all contexts of a policy share; float32 halves the memory that a decision reads."""
DRAWS = 256
MANY = 1000
"""The number of arms from which a search among the leaders is faster than all scores."""
_LEADERS = 192
_BLOCK = 16
_CELLS = 16_384
"""Scores computed at a time: their 64 kB stay in the cache of a core, and larger arrays are new pages of memory."""
_SHRUNK = np.float32(1e-3)
_BANDS = 16
"""Bands of arms with like spreads, for which the bound is computed."""


@dataclass(frozen=True, slots=True, eq=False)
class Arms:
    """The components of the arms' scores at one context.

    Attributes:
        mean: their expected scores (n,).
        spread: the standard deviations of their own coefficients' part (n,).
        loading: their coefficients on the common draws (n, c).
        optimistic: whether a deviation below zero counts a thousandth.
    """

    mean: Pool
    spread: Pool
    loading: Pool
    optimistic: bool

    def deviations_to_scores(self, deviations: Pool, mean: Pool, spare: Pool) -> None:
        """Turn deviations into scores, in place; `spare` is an array of the same shape."""
        if self.optimistic:
            np.multiply(deviations, _SHRUNK, out=spare)
            np.maximum(deviations, spare, out=deviations)
        deviations += mean


@dataclass(frozen=True, slots=True, eq=False)
class Leaders:
    """The columns of a pool with the greatest draws in each row, in ascending order.

    Attributes:
        columns: (draws, m).
        standard: their draws (draws, m).
        rest: a bound (draws, 1) on the draws of all other columns.
    """

    columns: NDArray[np.intp]
    standard: Pool
    rest: Pool

    @classmethod
    def of(cls, standard: Pool) -> Self:
        """The leaders of a pool (draws, columns)."""
        columns = np.sort(np.argpartition(standard, -_LEADERS, axis=1)[:, -_LEADERS:], axis=1)
        leading = np.take_along_axis(standard, columns, axis=1)
        return cls(columns, leading, leading.min(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def _quantiles() -> Pool:
    """The normal quantiles at the midpoints of 256 equal slices."""
    return np.asarray(special.ndtri((np.arange(DRAWS) + 0.5) / DRAWS), np.float32)


def normal_pool(seed: int, version: int, columns: int, stream: int = 0) -> Pool:
    """Standard normal draws, (256, columns), the same for the same seed, version and stream whatever `columns` is.

    Each column is a random order of the same 256 normal quantiles (Latin hypercube sampling, McKay et al. 1979). So
    every arm's draws have exactly the right spread, and counts vary less than those of independent draws.
    """
    blocks = []
    for block in range(-(-columns // _BLOCK)):
        random = np.random.default_rng((seed, version, stream, block))
        blocks.append(random.permuted(np.broadcast_to(_quantiles(), (_BLOCK, DRAWS)), axis=1).T)
    return np.ascontiguousarray(np.concatenate(blocks, axis=1)[:, :columns])


def joint_winners(arms: Arms, standard: Pool, common: Pool, leaders: Leaders | None = None) -> Ints:
    """The arm that scores best in each joint draw (draws,); the first of equal scores wins.

    Args:
        arms: n arms at a context.
        standard: standard draws of at least n columns (draws, columns).
        common: draws of the common coefficients (draws, c).
        leaders: those of `standard`; used where the arms have one common coefficient.
    """
    if leaders is None or common.shape[1] != 1:
        return _winners_of_all(arms, standard, common)
    winners, certain = _winners_of_leaders(arms, leaders, common)
    if not certain.all():
        open_ = ~certain
        winners[open_] = _winners_of_all(arms, standard[open_], common[open_])
    return winners


def count_winners(winners: Ints, arms: int) -> Floats:
    """The share (arms,) of the draws that each arm wins."""
    return np.asarray(np.bincount(winners, minlength=arms) / winners.size)


def _winners_of_all(arms: Arms, standard: Pool, common: Pool) -> Ints:
    """The winners, from every arm's score in every draw."""
    draws, n = standard.shape[0], arms.mean.size
    if best_arms is not None and common.shape[1] == 1 and _are_plain(standard, common, arms):
        found = np.empty(draws, np.intp)
        best_arms(
            standard=standard,
            common=common,
            mean=arms.mean,
            spread=arms.spread,
            loading=arms.loading,
            optimistic=arms.optimistic,
            shrunk=float(_SHRUNK),
            winners=found,
        )
        return found
    size = max(_BLOCK, min(draws, _CELLS // n))
    scores, others = np.empty((size, n), np.float32), np.empty((size, n), np.float32)
    winners = np.empty(draws, np.intp)
    weights = arms.loading.T
    for start in range(0, draws, size):
        stop = min(start + size, draws)
        score, other = scores[: stop - start], others[: stop - start]
        np.multiply(standard[start:stop, :n], arms.spread, out=score)
        if weights.shape[0] == 1:
            np.multiply(common[start:stop], weights, out=other)
        else:
            np.matmul(common[start:stop], weights, out=other)
        score += other
        arms.deviations_to_scores(score, arms.mean, other)
        score.argmax(axis=1, out=winners[start:stop])
    return winners


def _are_plain(standard: Pool, common: Pool, arms: Arms) -> bool:
    """Whether the compiled loop accepts these arrays: 4-byte numbers, and draws in C order."""
    arrays = (standard, common, arms.mean, arms.spread, arms.loading)
    return standard.flags.c_contiguous and all(array.dtype == np.float32 for array in arrays)


def _winners_of_leaders(arms: Arms, leaders: Leaders, common: Pool) -> tuple[Ints, NDArray[np.bool_]]:
    """The best of the leaders in each draw, and whether no other arm can score as high."""
    n, columns = arms.mean.size, leaders.columns
    inside = columns < n
    at = columns if inside.all() else np.minimum(columns, n - 1)
    loading = arms.loading[:, 0]
    scores = leaders.standard * arms.spread.take(at)
    other = common * loading.take(at)
    scores += other
    arms.deviations_to_scores(scores, arms.mean.take(at), other)
    if at is not columns:
        scores[~inside] = -np.inf
    best = scores.argmax(axis=1)
    rows = np.arange(best.size)
    mean, spread = _bands(arms)
    bound = leaders.rest * spread
    bound += np.maximum(common * loading.min(), common * loading.max())
    arms.deviations_to_scores(bound, mean, np.empty_like(bound))
    certain = (scores[rows, best] > bound.max(axis=1)) & (leaders.rest[:, 0] >= 0)
    return columns[rows, best], certain


def _bands(arms: Arms) -> tuple[Pool, Pool]:
    """The greatest mean (16,) and spread (16,) of bands of arms with similar spreads."""
    low, high = arms.spread.min(), arms.spread.max()
    band = ((arms.spread - low) * ((_BANDS - 1) / max(high - low, np.float32(1e-30)))).astype(np.intp)
    mean, spread = np.full(_BANDS, -np.inf, np.float32), np.zeros(_BANDS, np.float32)
    np.maximum.at(mean, band, arms.mean)
    np.maximum.at(spread, band, arms.spread)
    return mean, spread
