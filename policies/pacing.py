"""Shadow prices: the least worth at which a scarce offer is shown, so that the stock lasts until its end."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies.batches import Floats


@dataclass(frozen=True, slots=True)
class Pacing:
    """The price of one scarce offer, by online dual descent (Balseiro, Lu and Mirrokni 2023, algorithm 1).

    A unit is offered only where it is worth its price more than what would be shown instead. The price rises when units
    go faster than what is left allows for the time left, and falls when they go slower.

    Attributes:
        left: units (or money) left.
        ends: until when the stock must last, in any unit of time (seconds, requests).
        now: time of the last update.
        price: of one unit, in the unit of worth; starts at 0, where pacing is greed.
        worth: typical worth of a unit, a running mean over the units used; sets the scale of a step.
        step: relative size of a step.
    """

    left: float
    ends: float
    now: float = 0.0
    price: float = 0.0
    worth: float = 0.0
    step: float = field(default=0.05, kw_only=True)

    def __post_init__(self) -> None:
        if self.left < 0 or self.step <= 0:
            raise ValueError(f"left {self.left} and step {self.step}: stock is not negative and a step is positive")

    def after(self, now: float, used: float, worth: float) -> Self:
        """The pacing at `now`, after `used` units with a total worth of `worth`; negative if more units came back.

        The price moves by the difference between the units used and those that a steady pace allowed, times the
        typical worth. So updates for every request and once a second come to the same.

        Raises:
            ValueError: time ran backwards, or more was used than was left.
        """
        if now < self.now or used > self.left + 1e-9:
            raise ValueError(
                f"at {now} after {self.now}, {used} of {self.left} units were used; report each use once, in order"
            )
        span = max(self.ends - self.now, 1e-12)
        allowed = self.left * min((now - self.now) / span, 1.0)
        typical = self.worth
        if used > 0:
            seen = worth / used
            typical = seen if typical == 0 else typical + min(self.step * used, 1.0) * (seen - typical)
        price = max(self.price + self.step * typical * (used - allowed), 0.0)
        return replace(self, left=max(self.left - used, 0.0), now=now, price=price, worth=typical)


def worth_showing(worth: Floats, price: Floats) -> NDArray[np.bool_]:
    """Whether a policy may draw each candidate: it has no price, or is worth its price.

    Args:
        worth: expected worth of showing each candidate to this customer (n,), margin times expected reward.
        price: shadow prices (n,), 0 for an offer that is not scarce, infinite for one that is sold out.

    Returns:
        bool (n,): the mask to draw within. An offer with a price must bring at least that much more than the best of
        those without. Where every offer has a price and none is worth it, the one with the greatest surplus stays,
        unless it is sold out.
    """
    free = price <= 0
    alternative = float(worth[free].max()) if free.any() else 0.0
    shown = np.asarray(free | (worth - price >= alternative))
    if not shown.any():
        surplus = worth - price
        shown[surplus.argmax()] = bool(np.isfinite(surplus.max()))
    return shown
