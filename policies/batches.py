"""Batches of observations, checked before a policy learns from them."""

from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]
LONGEST = 1e8
"""The greatest Euclidean length of a context: beyond it sums of squares lose the digits that separate coefficients."""
LARGEST = 1e12
"""The greatest absolute reward: its square still leaves digits for the other rewards."""
UNUSABLE = f"x holds NaN, infinity or a number beyond {LONGEST:.0e}; encode what is missing, scale what is large"


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Observations in the order they are learnt: x (n, dim), arm (n,), reward (n,), weight (n,)."""

    x: Floats
    arm: Ints
    reward: Floats
    weight: Floats

    def rows(self, which: slice) -> "Batch":
        """The observations in these rows."""
        return Batch(self.x[which], self.arm[which], self.reward[which], self.weight[which])

    def cells(self, of: Ints) -> list[tuple[int, Ints]]:
        """Each distinct cell in `of` (n,) with its rows, in order."""
        if of.size == 1:
            return [(int(of[0]), np.zeros(1, np.intp))]
        order = np.argsort(of, kind="stable")
        found, first = np.unique(of[order], return_index=True)
        return list(zip(found.tolist(), np.split(order, first[1:]), strict=True))


def _read_column(name: str, values: ArrayLike, length: int) -> Floats:
    """One number per observation, finite."""
    column = np.atleast_1d(np.asarray(values, dtype=np.float64))
    if column.shape != (length,):
        raise ValueError(f"{name} has shape {column.shape}, but {length} arms were chosen; give one {name} for each")
    if not np.isfinite(column).all():
        row = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(
            f"{name}[{row}] is {column[row]}, not a finite number; leave the record out, it teaches nothing"
        )
    return column


def read_batch(
    x: ArrayLike | None,
    arm: ArrayLike | SupportsIndex,
    reward: ArrayLike,
    p: ArrayLike,
    weight: ArrayLike | None,
    *,
    arms: int,
    dim: int,
) -> Batch:
    """Check and shape the observations of one call; scalars are a batch of one.

    Raises:
        ValueError: a shape that does not fit, a number that is not finite, an arm that does not exist, or a propensity
            outside (0, 1], each with the value and what to do.
    """
    chosen = np.atleast_1d(np.asarray(arm))
    if chosen.ndim != 1 or (chosen.size and chosen.dtype.kind not in "iu"):
        raise ValueError(f"arm is {chosen.dtype} of shape {chosen.shape}; give the arms' positions as integers (n,)")
    chosen = chosen.astype(np.intp, copy=False)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= arms):
        raise ValueError(
            f"arms reach from {int(chosen.min())} to {int(chosen.max())}; a position is between 0 and {arms - 1}"
        )
    rewards = _read_column("reward", reward, chosen.size)
    if np.ndim(arm) == 0 and np.shape(p) == (arms,):  # type: ignore[arg-type] # any index has a dimension
        p = np.asarray(p)[chosen]
    propensities = _read_column("p", p, chosen.size)
    if chosen.size and (propensities.min() <= 0 or propensities.max() > 1 + 1e-9):
        raise ValueError(
            f"p reaches from {propensities.min()} to {propensities.max()}; give propensities of drawn arms, in (0, 1]"
        )
    weights = np.ones(chosen.size) if weight is None else _read_column("weight", weight, chosen.size)
    if dim == 0:
        return Batch(np.empty((chosen.size, 0)), chosen, rewards, weights)
    contexts = np.atleast_2d(np.asarray(x, dtype=np.float64))
    if not chosen.size and not contexts.size:
        contexts = np.empty((0, dim))
    if contexts.shape != (chosen.size, dim):
        raise ValueError(
            f"x has shape {contexts.shape}; {chosen.size} observations in {dim} dimensions need ({chosen.size}, {dim})"
        )
    if contexts.size and not float(np.einsum("ij,ij->i", contexts, contexts).max()) <= LONGEST**2:
        raise ValueError(UNUSABLE)
    return Batch(contexts, chosen, rewards, weights)


def discount_weights(discount: float, weight: Floats) -> tuple[float, Floats]:
    """The discount of earlier statistics by a batch, and the weight of each of its observations at its end.

    Time is counted in observed weight: one observation ages all earlier ones by `discount`. A negative weight takes its
    observation out first and then turns time back, so it undoes the latest equal observation exactly.

    Returns:
        The factor on earlier statistics, and the effective weights (n,).
    """
    if discount == 1.0:
        return 1.0, weight
    after = np.cumsum(weight)
    applied = np.where(weight < 0, after - weight, after)
    return float(discount ** after[-1]), weight * discount ** (after[-1] - applied)
