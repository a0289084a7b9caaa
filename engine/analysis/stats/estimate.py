"""What an analysis may say: an effect with its interval, or the reason why there is none."""

import msgspec


class NotEstimable(msgspec.Struct, frozen=True, omit_defaults=True):
    """Stands in the place of numbers that the data cannot give; a `fault` does not go away with more of them."""

    not_estimable: str
    fault: bool = False


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
    """A posterior for the relative effect.

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


def format_chance(value: float) -> str:
    """A probability as people read it: nothing is certain."""
    return "> 99.9%" if value > 0.999 else "< 0.1%" if value < 0.001 else f"{value:.1%}"
