"""Pieces of SVG that scale to the width of the page while their text keeps its size.

Lines lie in an inner `svg` that is stretched; texts lie outside of it at places in percent. Colours are classes of the
style sheet, so that a chart follows light and dark and prints.
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

SIZE = 1000.0
"""Units of the stretched inside, in both directions."""


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element; names of attributes have `_` for `-`, and `class_` is `class`. Values are escaped."""
    parts = [f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"' for key, value in attributes.items()]
    inside = Markup().join(escape(child) for child in children)
    return Markup("<{}{}>{}</{}>").format(Markup(name), Markup("".join(parts)), inside, Markup(name))  # noqa: S704 - names are ours, values escaped # nosec B704


def _attribute(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


class Scale:
    """Maps values to places from 0 to 1, with round numbers as ticks."""

    def __init__(self, low: float, high: float, *, ticks: int = 5) -> None:
        if not (math.isfinite(low) and math.isfinite(high)) or low > high:
            low, high = 0.0, 1.0
        if low == high:
            low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
        self.low, self.high = low, high
        self.step = nice_step((high - low) / ticks)

    @classmethod
    def around(cls, values: Sequence[float], *, ticks: int = 5, pad: float = 0.06) -> "Scale":
        """A scale over finite values and zero, with some room at both ends."""
        known = [value for value in values if math.isfinite(value)]
        low, high = min([0.0, *known]), max([0.0, *known])
        room = (high - low or 1.0) * pad
        return cls(low - room if low < 0 else 0.0, high + room if high > 0 else 0.0, ticks=ticks)

    def place(self, value: float) -> float:
        """The position of a value, from 0 to 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    @property
    def ticks(self) -> list[float]:
        """Round numbers within the scale."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [round(number * self.step, 12) for number in range(first, last + 1)]


def nice_step(rough: float) -> float:
    """The least of 1, 2, 2.5 and 5 times a power of ten that is at least `rough`."""
    if rough <= 0 or not math.isfinite(rough):
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1.0, 2.0, 2.5, 5.0, 10.0) if step * power >= rough * (1 - 1e-9))


def percent(place: float) -> str:
    """A place as SVG writes it."""
    return f"{100 * place:.2f}%"


def path_of(points: Sequence[tuple[float, float]]) -> str:
    """The commands of a line through points whose places are from 0 to 1; y grows upwards."""
    return "".join(f"{'L' if at else 'M'}{x * SIZE:.1f} {(1 - y) * SIZE:.1f}" for at, (x, y) in enumerate(points))
