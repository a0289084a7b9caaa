"""Sequential tests that a guardrail got worse, valid at every look, so that they can run after each customer.

`ShareTest` is for outcomes in [0, 1], `AmountTest` for outcomes of any size. Both are stored as JSON with their tag in
the table `evidence` of the learner's file.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np

Treated = bool
"""The side of a customer: True for the variant, False for the control."""
_BETS = np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
_MOST_UNPAIRED = 1000  # beyond these, customers of the side that is ahead are not used: a pair needs both sides
_FEWEST = 100
_RHO_SQUARED = 0.005  # mixture variance for which the boundary is narrowest after some thousand customers


class ShareTest(msgspec.Struct, frozen=True, tag="shares"):
    """A test by betting, pair by pair, that the treated are worse than `margin` allows; outcomes in [0, 1].

    The loss of a treated outcome x and a control outcome y is d = (1 - margin) y - x, or x - (1 + margin) y where less
    is better. While its mean is not above 0, the capital Π (1 + λ d) is a supermartingale, so its mean over the bets λ
    reaches 1/alpha with probability at most alpha, ever (Ville 1939; Waudby-Smith and Ramdas 2024, section 4).

    Attributes:
        margin: the relative loss that the guardrail allows.
        up: whether more is better.
        capital: log capital of each bet.
        waiting: outcomes of the side that is ahead, not paired yet.
        ahead: that side.
        pairs: the number of pairs so far.
    """

    margin: float
    up: bool
    capital: tuple[float, ...] = (0.0,) * _BETS.size
    waiting: tuple[float, ...] = ()
    ahead: Treated = False
    pairs: int = 0

    def add(self, outcomes: Sequence[tuple[Treated, float]]) -> Self:
        """The test with more customers' outcomes, in the order in which they became final."""
        waiting, ahead = list(self.waiting), self.ahead
        losses: list[float] = []
        for treated, value in outcomes:
            outcome = min(max(value, 0.0), 1.0)
            if waiting and treated != ahead:
                other = waiting.pop(0)
                losses.append(self._loss(outcome, other) if treated else self._loss(other, outcome))
            elif len(waiting) < _MOST_UNPAIRED:
                waiting.append(outcome)
                ahead = treated
        # A loss may reach -(1 + margin) where less is better: the bets shrink so that 1 + λ d stays positive.
        bets = _BETS if self.up else _BETS / (1 + self.margin)
        capital = np.array(self.capital) + np.log1p(np.outer(losses, bets)).sum(axis=0)
        return msgspec.structs.replace(
            self,
            capital=tuple(capital.tolist()),
            waiting=tuple(waiting),
            ahead=ahead,
            pairs=self.pairs + len(losses),
        )

    def log_evidence(self) -> float:
        """Log of the evidence of harm: at log(1/alpha) the guardrail is broken, at level alpha over all looks."""
        most = max(self.capital)
        return most + math.log(sum(math.exp(capital - most) for capital in self.capital) / len(self.capital))

    def _loss(self, treated: float, control: float) -> float:
        """The loss of the treated outcome against the control's, beyond the margin; above zero is harm."""
        return (1 - self.margin) * control - treated if self.up else treated - (1 + self.margin) * control


class AmountTest(msgspec.Struct, frozen=True, tag="amounts"):
    """A mixture test that the treated are worse than `margin` allows; outcomes of any size.

    The estimate is treated less (1 ∓ margin) times control; the evidence is the normal mixture over its variance
    (Robbins 1970; asymptotically valid at all looks: Waudby-Smith et al. 2024, Theorem 2.2). There is none before both
    sides have a hundred customers.

    Attributes:
        margin: the relative loss that the guardrail allows.
        up: whether more is better.
        control: count, sum and sum of squares of the control's outcomes.
        treated: the same of the variant's.
    """

    margin: float
    up: bool
    control: tuple[float, float, float] = (0.0, 0.0, 0.0)
    treated: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def add(self, outcomes: Sequence[tuple[Treated, float]]) -> Self:
        """The test with more customers' outcomes."""
        sums = [list(self.control), list(self.treated)]
        for treated_side, value in outcomes:
            of_side = sums[treated_side]
            of_side[0] += 1
            of_side[1] += value
            of_side[2] += value * value
        control, treated = ((n, total, square) for n, total, square in sums)
        return msgspec.structs.replace(self, control=control, treated=treated)

    def log_evidence(self) -> float:
        """Log of the evidence of harm, as in `ShareTest`."""
        if min(self.control[0], self.treated[0]) < _FEWEST:
            return 0.0
        factor = 1 - self.margin if self.up else 1 + self.margin
        (control, control_variance), (treated, treated_variance) = _moments(self.control), _moments(self.treated)
        loss = factor * control - treated if self.up else treated - factor * control
        variance = treated_variance / self.treated[0] + factor**2 * control_variance / self.control[0]
        if loss <= 0 or variance <= 0:
            return 0.0
        mixture = (self.control[0] + self.treated[0]) * _RHO_SQUARED
        return loss**2 / variance * mixture / (mixture + 1) / 2 - math.log(mixture + 1) / 2


SequentialTest = ShareTest | AmountTest


def _moments(sums: tuple[float, float, float]) -> tuple[float, float]:
    """Mean and unbiased variance of (count, sum, sum of squares)."""
    n, total, square = sums
    mean = total / n
    return mean, max(square / n - mean**2, 0.0) * n / (n - 1)
