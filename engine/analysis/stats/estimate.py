"""Results of an analysis: an effect with its interval, or the reason why there is none."""

from collections.abc import Sequence

import msgspec


class NotEstimable(msgspec.Struct, frozen=True, omit_defaults=True):
    """Replaces numbers that the data do not determine; more data do not remove a `fault`.

    `remedy` says what would give an estimate, where that is not simply more units.
    """

    not_estimable: str
    fault: bool = False
    remedy: str = ""


class Effect(msgspec.Struct, frozen=True):
    """A treatment's effect against control, in the metric's unit (absolute) or as a share of control (relative).

    `p` is None where the method has no p-value (bayesian).
    """

    estimate: float
    low: float
    high: float
    se: float
    p: float | None = None


class Bayes(msgspec.Struct, frozen=True):
    """A posterior of the relative effect.

    `chance_to_win` is the probability that the effect is in the metric's good direction, `expected_loss` what
    shipping the treatment loses on average (relative to control), `forgone` what keeping control loses, `rope` the
    probability of a practically null effect, of less than `within` either way.
    """

    chance_to_win: float
    expected_loss: float
    forgone: float
    low: float
    high: float
    rope: float | None = None
    within: float = 0.0
    model: str = "normal"


def format_percents(values: Sequence[float], digits: int = 1) -> list[str]:
    """Signed percentages with `digits` decimals, or with as many up to 4 as every value needs to differ from zero.

    The format option `z` leaves zero without a minus sign.
    """
    enough = (n for n in range(digits, 5) if all(not value or round(abs(value), n + 2) > 0 for value in values))
    decimals = next(enough, digits)
    return [f"{value:+z.{decimals}%}" for value in values]


def format_level(share: float) -> str:
    """A chosen share, such as 95% or 0.04%, with enough digits to differ from 0% and 100%."""
    digits = 3
    while digits < 15 and 0 < share < 1 and float(f"{100 * share:.{digits}g}") in {0.0, 100.0}:
        digits += 1
    return f"{100 * share:.{digits}g}%"


def format_chance(value: float) -> str:
    """A probability as text; beyond 0.1% and 99.9% a bound, because no estimate is certain."""
    return "> 99.9%" if value > 0.999 else "< 0.1%" if value < 0.001 else f"{value:.1%}"
