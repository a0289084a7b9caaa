"""Examination: the share of customers who look at each list position, given by the YAML or learnt from rewards.

An offer far down earns little because few look there. The position-based model (Richardson, Dominowska and Ragno 2007,
"Predicting Clicks"; Craswell et al. 2008) says that an item earns as its offer is worth, times the share who look at
its position. What an item teaches follows from it:

- A reward proves that the item was looked at: it is learnt in full.
- An item without a reward was looked at with the probability s (1 - p) / (1 - s p), where s is the share of its
  position and p the probability of a reward from one who looks. It is learnt with that weight, so that the weights of a
  position add up to s per item, and its offers' means are what those earn who look (the E step of Dempster, Laird and
  Rubin 1977, online).

Learnt shares compare what the items of a position earned with what the policy expects of their offers, relative to the
first position: the M step (Wang et al. 2018, "Position Bias Estimation for Unbiased Learning to Rank"). Both are sums,
so the batches of records do not matter, up to the policy that a lesson meets. They start from 1 / log2(k + 1), worth
`PRIOR` rewards.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

PRIOR = 10.0
LEAST = 0.01
MOST_CERTAIN = 0.95
"""The largest probability of a reward that is believed of one who looks."""


class PositionSums(NamedTuple):
    """The items of one position: their number, the number rewarded, their rewards, and the expected ones."""

    shown: float = 0.0
    rewarded: float = 0.0
    reward: float = 0.0
    expected: float = 0.0


class ExaminedList:
    """The examination of one selection's list while lessons are taught; `sums` are to be stored."""

    def __init__(self, given: Sequence[float] | None, sums: Sequence[PositionSums], count: int) -> None:
        self._given = given
        self._sums = [*sums, *[PositionSums()] * (count - len(sums))]
        self._shares = list(given) if given is not None else learnt_shares(self._sums)

    @property
    def sums(self) -> tuple[PositionSums, ...]:
        """The sums of all positions."""
        return tuple(self._sums)

    def weight(self, position: int, reward: float, expected: float, *, is_count: bool) -> float:
        """The weight with which an item at a position is learnt.

        Args:
            position: from 1.
            reward: of the item.
            expected: what the policy expects of the offer from one who looks.
            is_count: whether a reward is 1 or 0, so that `expected` is its probability.
        """
        if reward:
            return 1.0
        share = self._share(position)
        chance = min(max(expected if is_count else self._reward_rate(), 0.0), MOST_CERTAIN)
        return share * (1 - chance) / (1 - share * chance)

    def observe(self, position: int, reward: float, instead: float | None, expected: float) -> None:
        """Add an item to the sums; one that was observed before with the reward `instead` is corrected."""
        while len(self._sums) < position:  # a list was longer under an earlier plan
            self._sums.append(PositionSums())
        old = self._sums[position - 1]
        is_new = instead is None
        self._sums[position - 1] = PositionSums(
            shown=old.shown + is_new,
            rewarded=old.rewarded + bool(reward) - bool(instead),
            reward=old.reward + reward - (instead or 0.0),
            expected=old.expected + (expected if is_new else 0.0),
        )

    def _share(self, position: int) -> float:
        shares = self._shares
        return shares[min(position, len(shares)) - 1]

    def _reward_rate(self) -> float:
        """The share of rewarded items among those looked at."""
        looked = sum(self._share(place) * one.shown for place, one in enumerate(self._sums, 1))
        return sum(one.rewarded for one in self._sums) / looked if looked else 0.0


def learnt_shares(sums: Sequence[PositionSums]) -> list[float]:
    """The share of customers who look at each position, relative to the first; from `LEAST` to 1."""
    rewarded = sum(one.rewarded for one in sums)
    size = abs(sum(one.reward for one in sums)) / rewarded if rewarded else 1.0
    weight = PRIOR * (size or 1.0)
    ratios = [
        (max(one.reward, 0.0) + weight / math.log2(place + 1)) / (max(one.expected, 0.0) + weight)
        for place, one in enumerate(sums, 1)
    ]
    return [min(max(ratio / ratios[0], LEAST), 1.0) for ratio in ratios]
