"""Standardizes a linear policy's regressors, so that a feature's unit and zero do not matter.

z_j = gain_j (x_j - centre_j x_k), where x_k is the regressor that is constant, the featurizer's leading 1. So
z_k is 1, and the v regressors that vary have mean 0 and variance 1/v on average: a prior of the coefficients says the
same of the rewards however many features there are. A regressor that has not varied yet has gain 0.

Regressors of like deviations keep their proportions: they are likely to have one unit, in which a pixel that is hardly
ever dark says less than one that often is. To standardize each by itself costs LinUCB 14 % on handwritten digits. A
regressor whose deviation is over 3 times or below a 20th of the median has another unit, and is standardized by itself.

Statistics stay sums over x. They are standardized where they are read, by the same linear map, so they add up across
learners whatever the scaling, and a scaling that is estimated again costs no observation.

Means and variances come from the statistics (Σ x xᵀ, Σ x). Every arm is standardized alike, so comparing arms is fair.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from policies.batches import Floats

_LEAST_VARIANCE, _ROUNDING = 1e-13, 1e-16
"""The variance relative to the mean square, at least and per observation, up to which a regressor is constant: sums of
a constant have rounding errors that grow with their number."""
_LEAST_ALIKE, _MOST_ALIKE = 1 / 400, 9.0
"""The variances, relative to the median, between which regressors may have one unit."""
_LEAST_CHANGE = 1e-6
"""Relative to a constant regressor: the deviation by which it has begun to vary."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """The linear map from regressors x (features,) to standardized z (features,).

    Attributes:
        constant: the position of the constant regressor, -1 for none; without one nothing is centred.
        centre: the means of the regressors, relative to the constant one (features,); 0 at `constant`.
        gain: one over √v times the standard deviation in their unit (features,), 0 where they have not varied.
    """

    constant: int
    centre: Floats
    gain: Floats

    @classmethod
    def of(cls, stored: tuple[float, ...]) -> Self:
        """The scaling in the parameter of a policy: position, centres, gains."""
        centre, gain = np.split(np.array(stored[1:], dtype=np.float64), 2)
        return cls(int(stored[0]), centre, gain)

    def stored(self) -> tuple[float, ...]:
        """The scaling as a policy's parameter."""
        return (float(self.constant), *self.centre.tolist(), *self.gain.tolist())

    @classmethod
    def estimate(cls, gram: Floats) -> Self | None:
        """The scaling of regressors with this Gram matrix (features + 1, features + 1), whose last one is 1.

        None where the observations weigh nothing.
        """
        weight = float(gram[-1, -1])
        if weight <= 0:
            return None
        square, mean = np.maximum(np.diag(gram)[:-1], 0) / weight, gram[-1, :-1] / weight
        variance = square - mean**2
        varies = variance > max(_LEAST_VARIANCE, _ROUNDING * weight) * square
        constants = np.flatnonzero(~varies & (mean != 0))
        gain = np.zeros(mean.size)
        if not constants.size:
            gain[varies] = 1 / np.sqrt(varies.sum() * _by_unit(square[varies]))
            return cls(-1, np.zeros(mean.size), gain)
        constant = int(constants[0])
        gain[varies] = 1 / np.sqrt(varies.sum() * _by_unit(variance[varies]))
        centre = mean / mean[constant]
        gain[constant], centre[constant] = 1 / mean[constant], 0.0
        return cls(constant, centre, gain)

    def regressors(self, x: Floats) -> Floats:
        """Regressors (..., features), standardized."""
        if self.constant < 0:
            return x * self.gain
        return np.asarray((x - x[..., self.constant, None] * self.centre) * self.gain)

    def first_change(self, x: Floats) -> int | None:
        """The first of these rows (n, features) in which a constant regressor varies; None if there is none."""
        level = 1.0 if self.constant < 0 else x[:, self.constant, None]
        steady = self.gain == 0
        deviation = np.abs(x[:, steady] - level * self.centre[steady])
        changed = (deviation > _LEAST_CHANGE * np.abs(level * self.centre[steady])).any(axis=1)
        if self.constant >= 0:
            changed |= np.abs(x[:, self.constant] * self.gain[self.constant] - 1) > _LEAST_CHANGE
        rows = np.flatnonzero(changed)
        return int(rows[0]) if rows.size else None

    def standardize(self, gram: Floats, moment: Floats) -> tuple[Floats, Floats]:
        """Gram matrices (..., features + 1, features + 1) and moments (..., features + 1) of z instead of x."""
        centre, gain = np.append(self.centre, 0.0), np.append(self.gain, 1.0)
        if self.constant >= 0:
            gram = gram - centre[:, None] * gram[..., self.constant, None, :]
            gram -= gram[..., self.constant, None] * centre
            moment = moment - moment[..., self.constant, None] * centre
        return gram * np.outer(gain, gain), moment * gain

    def coefficients(self, standardized: Floats) -> Floats:
        """Coefficients (..., features) on z as coefficients on x."""
        own = np.array(standardized * self.gain)
        if self.constant >= 0:
            own[..., self.constant] -= own @ self.centre
        return own

    def matrix(self) -> Floats:
        """The map as a matrix: z = A x."""
        matrix = np.diag(self.gain)
        if self.constant >= 0:
            matrix[:, self.constant] -= self.gain * self.centre
        return matrix

    def inverse(self) -> Floats:
        """The inverse map x = L z; a regressor that has not varied stays at its centre."""
        matrix = np.diag(np.divide(1.0, self.gain, out=np.zeros(self.gain.size), where=self.gain != 0))
        if self.constant >= 0:
            matrix[:, self.constant] += self.centre / self.gain[self.constant]
        return matrix


def _by_unit(variance: Floats) -> Floats:
    """The variances (v,), averaged over regressors with a common unit."""
    if variance.size < 2:
        return variance
    median = float(np.median(variance))
    alike = (variance < _MOST_ALIKE * median) & (variance > _LEAST_ALIKE * median)
    return np.where(alike, variance[alike].mean() if alike.any() else median, variance)


def map_common(of_traits: Floats, of_regressors: Floats, gram: Floats, moment: Floats) -> tuple[Floats, Floats]:
    """Gram and moment of the common coefficients (q x features, and the constant) under maps of traits and regressors.

    Args:
        of_traits: the traits' map (q, q).
        of_regressors: the regressors' map (features, features).
        gram: (q features + 1, q features + 1).
        moment: (q features + 1,).
    """
    size = moment.size - 1
    whole = np.eye(size + 1)
    whole[:size, :size] = np.kron(of_traits, of_regressors)
    return whole @ gram @ whole.T, whole @ moment
