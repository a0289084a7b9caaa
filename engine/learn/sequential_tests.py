"""Evidence that a guardrail got worse, to be looked at after every customer: it seldom ever cries wolf."""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np

Side = bool  # True for the treated
_BETS = np.array([0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
_UNPAIRED = 1000
_FEWEST = 100
_RHO_SQUARED = 0.005  # narrowest after some thousand customers


class ShareTest(msgspec.Struct, frozen=True, tag="shares"):
    """A bet, pair by pair, that the treated do worse than `margin` allows; outcomes in [0, 1].

    Of a treated customer's outcome x and a control's y the loss is d = (1 - margin) y - x, or x - (1 + margin) y where
    less is better. While its mean is not above 0, capital Π (1 + λ d) is a supermartingale, so that its mean over some
    λ reaches 1/alpha with probability at most alpha, ever (Ville 1939; Waudby-Smith and Ramdas 2024, section 4).
    `waiting` are outcomes of the side that is ahead, positive side `ahead`.
    """

    margin: float
    up: bool
    capital: tuple[float, ...] = (0.0,) * _BETS.size
    waiting: tuple[float, ...] = ()
    ahead: Side = False
    pairs: int = 0

    def add(self, outcomes: Sequence[tuple[Side, float]]) -> Self:
        """With the outcomes of more customers, in the order in which they became known."""
        waiting, ahead = list(self.waiting), self.ahead
        losses: list[float] = []
        for side, value in outcomes:
            outcome = min(max(value, 0.0), 1.0)
            if waiting and side != ahead:
                other = waiting.pop(0)
                losses.append(self._loss(outcome, other) if side else self._loss(other, outcome))
            elif len(waiting) < _UNPAIRED:
                waiting.append(outcome)
                ahead = side
        bets = _BETS if self.up else _BETS / (1 + self.margin)
        grown = np.array(self.capital) + np.log1p(np.outer(losses, bets)).sum(axis=0)
        return msgspec.structs.replace(
            self,
            capital=tuple(grown.tolist()),
            waiting=tuple(waiting),
            ahead=ahead,
            pairs=self.pairs + len(losses),
        )

    def against(self) -> float:
        """Log of the evidence: above log(1/alpha) the guardrail is broken, at level alpha over all looks together."""
        most = max(self.capital)
        return most + math.log(sum(math.exp(one - most) for one in self.capital) / len(self.capital))

    def _loss(self, treated: float, control: float) -> float:
        return (1 - self.margin) * control - treated if self.up else treated - (1 + self.margin) * control


class AmountTest(msgspec.Struct, frozen=True, tag="amounts"):
    """A mixture test that the treated do worse than `margin` allows; outcomes of any size.

    Of each side count, sum and sum of squares. The estimate is treated less (1 ∓ margin) times control; the evidence is
    the normal mixture over its variance (Robbins 1970; asymptotically valid at all looks: Waudby-Smith et al. 2024,
    Theorem 2.2), and none before both sides have a hundred customers.
    """

    margin: float
    up: bool
    control: tuple[float, float, float] = (0.0, 0.0, 0.0)
    treated: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def add(self, outcomes: Sequence[tuple[Side, float]]) -> Self:
        """With the outcomes of more customers."""
        sums = [list(self.control), list(self.treated)]
        for side, value in outcomes:
            of_side = sums[side]
            of_side[0] += 1
            of_side[1] += value
            of_side[2] += value * value
        control, treated = ((n, total, square) for n, total, square in sums)
        return msgspec.structs.replace(self, control=control, treated=treated)

    def against(self) -> float:
        """As in `Shares`."""
        if min(self.control[0], self.treated[0]) < _FEWEST:
            return 0.0
        factor = 1 - self.margin if self.up else 1 + self.margin
        (control, spread_control), (treated, spread_treated) = _moments(self.control), _moments(self.treated)
        loss = factor * control - treated if self.up else treated - factor * control
        variance = spread_treated / self.treated[0] + factor**2 * spread_control / self.control[0]
        if loss <= 0 or variance <= 0:
            return 0.0
        grown = (self.control[0] + self.treated[0]) * _RHO_SQUARED
        return loss**2 / variance * grown / (grown + 1) / 2 - math.log(grown + 1) / 2


SequentialTest = ShareTest | AmountTest


def _moments(sums: tuple[float, float, float]) -> tuple[float, float]:
    n, total, square = sums
    mean = total / n
    return mean, max(square / n - mean**2, 0.0) * n / (n - 1)
