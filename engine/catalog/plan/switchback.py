"""The design of a switchback: the variant of a store in each period, drawn by a hash and balanced over time of day.

Periods of `every` seconds are counted from the experiment's start, forwards and backwards. Where a day is a whole
number of periods, the periods at one time of day form a series of their own, as do weekdays where a period is a day.
Each series is cut into blocks in which every variant has its share, in a random order: with two even variants, one of
two consecutive days has each. So neither time of day nor a trend is mistaken for an effect, and still a period has each
variant with the probability of its weight. Weights that no short block can have exactly are drawn independently.

Bojinov, Simchi-Levi and Zhao 2023, "Design and analysis of switchback experiments", Management Science 69(7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import floor, isclose

from engine.hashing import uniform_draw
from engine.vocabulary import DAY

LONGEST_BLOCK = 14
"""Days in which every variant must have its share; weights that need more are not balanced."""
WEEK = 7


@dataclass(frozen=True, slots=True)
class Switchback:
    """Periods of `every` seconds from `origin` (s since 1970), and the draw of their variants.

    `block` has the variants of one block by index, empty where the weights are drawn independently; periods `series`
    apart are at the same time of day, or of the week.
    """

    seed: str
    every: float
    washout: float
    origin: float
    weights: tuple[float, ...]
    block: tuple[int, ...]
    series: int

    def begin(self, now: float) -> float:
        """The start of the period that contains `now`, both in seconds since 1970."""
        return self.origin + floor((now - self.origin) / self.every) * self.every

    def choose(self, unit: str, now: float) -> int:
        """The index of the unit's variant at `now`."""
        period = floor((now - self.origin) / self.every)
        if not self.block:
            place = uniform_draw(self.seed, f"{unit}|{period}")
            return next((i for i, edge in enumerate(_edges(self.weights)) if place < edge), len(self.weights) - 1)
        cycle, slot = divmod(period, self.series)
        number, place_in_block = divmod(cycle, len(self.block))
        return self.block[_shuffle(self.seed, f"{unit}|{slot}|{number}", len(self.block))[place_in_block]]


def compile_switchback(
    seed: str, *, every: float, washout: float, start: float, weights: Sequence[float]
) -> Switchback:
    """The design; `start` (s since 1970) is the first block's start, `weights` are the variants' shares."""
    return Switchback(
        seed=seed,
        every=every,
        washout=washout,
        origin=start,
        weights=tuple(weights),
        block=_balanced_block(weights),
        series=_periods_until_same_time(every),
    )


def _balanced_block(weights: Sequence[float]) -> tuple[int, ...]:
    """The variants of the shortest block with exact shares; empty if no block is short enough."""
    for length in range(len(weights), LONGEST_BLOCK + 1):
        counts = [round(weight * length) for weight in weights]
        exact = all(
            isclose(weight * length, count, abs_tol=1e-6) for weight, count in zip(weights, counts, strict=True)
        )
        if exact and sum(counts) == length:
            return tuple(index for index, count in enumerate(counts) for _ in range(count))
    return ()


def _periods_until_same_time(every: float) -> int:
    """The periods until the same time of day (for periods of days: the same weekday); 1 for others."""
    if every < DAY:
        return int(DAY // every) if DAY % every == 0 else 1
    days = every / DAY
    return int(WEEK // days) if days == int(days) and WEEK % days == 0 else 1


def _edges(weights: Sequence[float]) -> list[float]:
    edges, total = [], 0.0
    for weight in weights:
        total += weight
        edges.append(total)
    return edges


@lru_cache(maxsize=16_384)
def _shuffle(seed: str, block: str, length: int) -> tuple[int, ...]:
    """A random order of a block's places, equal on every server."""
    return tuple(sorted(range(length), key=lambda place: uniform_draw(seed, f"{block}|{place}")))
