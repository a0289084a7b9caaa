"""Thompson sampling on logistic regression, for binary rewards."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policies import special
from policies.base import ArmPositions
from policies.batches import Batch, Floats
from policies.linear.thompson import Drawing
from policies.thompson import check_shares


def _sigmoid(z: float) -> float:
    """1 / (1 + exp(-z)), without overflow."""
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def mode_step(logit: float, variance: float, reward: float, weight: float) -> float:
    """The step c = w (r - sigmoid(logit + variance c)) by which one observation moves the posterior mode along V x.

    Solved by Newton's method. A negative weight takes an observation out: its step is the derivative at the mode, as
    the equation may have no solution.
    """
    if weight <= 0:
        return weight * (reward - _sigmoid(logit))
    step = 0.0
    for _ in range(25):
        chance = _sigmoid(logit + variance * step)
        error = step - weight * (reward - chance)
        step -= error / (1 + weight * variance * chance * (1 - chance))
        if abs(error) < 1e-12:
            break
    return step


@dataclass(frozen=True, eq=False)
class LogisticThompson(Drawing):
    """Thompson sampling on a Laplace approximation, learnt online (Chapelle and Li 2011, algorithm 3).

    Each observation moves the mode by one exact step of the one-dimensional problem along its context and adds its
    curvature there (an online Newton step), with full covariances. Statistics are the natural parameters: the precision
    in `gram`, precision times mode in `moment`. They depend on the order of observations, so weight -1 undoes to first
    order only, and merged learners, or a discount over batches cut otherwise, agree approximately.
    """

    kind: ClassVar[str] = "logistic_thompson"
    noise_known: ClassVar[bool] = True

    def check_rewards(self, reward: Floats) -> None:
        """Raise ValueError for rewards outside [0, 1]."""
        check_shares(reward)

    def means(self, x: Floats, among: ArmPositions) -> Floats:
        """Expected rewards (n,): the chance at the mode, moderated by its variance (MacKay 1992, equation 10)."""
        logit, spread = super().means(x, among), self.predict(x, among).spread(self.posterior.common_cover)
        return np.asarray(special.expit(logit / np.sqrt(1 + np.pi / 8 * spread**2)))

    def absorb(self, batch: Batch, into: dict[str, Floats]) -> None:
        """Add each observation's curvature and shift, one after the other."""
        contexts, cell = self.cells(batch)
        standardized = np.column_stack([self.scaler.regressors(contexts[:, :-1]), contexts[:, -1]])
        ridge = np.eye(contexts.shape[1])
        gram, moment = into["gram"].reshape(-1, *ridge.shape), into["moment"].reshape(-1, contexts.shape[1])
        for at, rows in batch.cells(cell):
            precision, shifted = self.scaler.standardize(gram[at], moment[at])
            cover = np.linalg.inv(precision + ridge)
            mode = cover @ shifted
            curvature, shift = np.empty(rows.size), np.empty(rows.size)
            for i, row in enumerate(rows):
                x, weight = standardized[row], float(batch.weight[row])
                along = cover @ x
                variance, logit = float(along @ x), float(mode @ x)
                step = mode_step(logit, variance, float(batch.reward[row]), weight)
                logit += variance * step
                chance = _sigmoid(logit)
                # A negative curvature is bounded, so that the precision stays positive definite.
                curvature[i] = bent = max(weight * chance * (1 - chance), -0.9 / max(variance, 1e-300))
                shift[i] = step + bent * logit
                mode += along * step
                cover -= np.outer(along * (bent / (1 + bent * variance)), along)
            x = contexts[rows]
            gram[at] += x.T @ (x * curvature[:, None])
            moment[at] += shift @ x
        np.add.at(into["count"], batch.arm, batch.weight)
