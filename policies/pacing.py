"""Shadow prices: what one more unit of a scarce offer is worth, so that the last ones go where they are worth most."""

from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies.batches import Floats


@dataclass(frozen=True, slots=True)
class Pacing:
    """The price of one scarce offer, by online dual descent (Balseiro, Lu and Mirrokni 2023, algorithm 1).

    A unit is offered only where it is worth its price and more than what could be shown instead. Using units faster
    than the stock left allows for the time left raises the price, using them slower lowers it.

    Attributes:
        left: units (or money) left.
        ends: when the stock must have served, in any unit of time (seconds, requests).
        now: time of the last update.
        price: of one unit, in the unit of worth; starts at 0, where pacing is greed.
        worth: typical worth of a unit, the running mean of those units used; sets the scale of a step.
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
        """The price after some time in which `used` units went, worth `worth` together; negative if so many came back.

        The price moves by the difference between what was used and what a steady pace allowed, in typical worths, so
        that updating for every request or once a second comes to the same.

        Raises:
            ValueError: time ran backwards, or more was used than was left.
        """
        if now < self.now or used > self.left + 1e-9:
            raise ValueError(
                f"at {now} after {self.now}, {used} of {self.left} units used; report each use once, in order"
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
    """Which candidates a policy may draw from: all without a price, and the scarce ones that are worth theirs.

    Args:
        worth: expected worth of showing each candidate to this customer (n,), margin times expected reward.
        price: shadow prices (n,), 0 for what is not scarce, infinite for what is gone.

    Returns:
        bool (n,): the mask to draw within. An offer with a price must bring at least that much more than the best of
        those without; where every offer has one, the one of the greatest surplus stays, unless it is gone.
    """
    free = price <= 0
    instead = float(worth[free].max()) if free.any() else 0.0
    shown = np.asarray(free | (worth - price >= instead))
    if not shown.any():
        surplus = worth - price
        shown[surplus.argmax()] = bool(np.isfinite(surplus.max()))
    return shown
