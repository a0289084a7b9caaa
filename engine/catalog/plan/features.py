"""The features of a policy: traits of customer and request as a vector, with one layout for decisions and learning."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.catalog.conditions.compile import Predicate
from engine.catalog.spec.experiment import FeatureSpec

Value = str | int | float | bool | None
Context = dict[str, Value]
Filler = Callable[[list[float], Value], None]
_NUMBERS: Final = (int, float)
_SCALARS: Final = (str, int, float, bool)
"""Tuples, here and in other modules of decisions: `int | float` makes a new union each time that it is evaluated."""

PERIODS = {"hour": 24.0, "weekday": 7.0, "month": 12.0}
"""Periods of cyclic features, each of which becomes a sine and a cosine."""

MOST = 1e6
"""The largest absolute value of an unscaled number in a vector."""

SCALED_DIGITS = 2
STEPS_PER_UNIT = 4
"""A scaled number is rounded to hundredths and a cyclic one, such as an hour, to quarters.

So similar customers have one vector, whose propensities a policy computes once.
"""


class PoolGroup(NamedTuple):
    """One dimension of the pool: a trait with its possible values, or with `matches` a segment (true or false)."""

    name: str
    values: tuple[str | int | bool, ...]
    matches: Predicate | None = None


class Featurizer:
    """Reads features from attributes, and lays them out as a float64 (dim,) vector that starts with 1.

    `read` returns the values as they were used, which the log stores; `vector` computes the same vector from the log.
    With groups the last number of the vector is the index of the combination of their values, -1 where a value is not
    in the list. Without features the vector is empty, or (1,) for a policy that needs a context. Featurizers of one
    `layout` read and lay out the same.
    """

    def __init__(
        self, specs: Sequence[str | FeatureSpec], groups: Sequence[PoolGroup] = (), *, constant: bool = False
    ) -> None:
        self.specs = tuple(FeatureSpec(trait=spec) if isinstance(spec, str) else spec for spec in specs)
        self.groups = tuple(groups)
        traits = (*(spec.trait for spec in self.specs), *(group.name for group in groups if group.matches is None))
        self.traits = tuple(dict.fromkeys(traits))
        self._paths = tuple((name, *_split_path(name)) for name in self.traits)
        self._segments = tuple((group.name, group.matches) for group in groups if group.matches is not None)
        self._fill = tuple((spec.trait, _filler(spec)) for spec in self.specs)
        self._empty = not (self.specs or self.groups or constant)
        self.layout: Hashable = id(self) if groups else msgspec.json.encode((self.specs, constant))
        self.names = ("1", *(name for spec in self.specs for name in _names(spec)), *(["group"] if groups else []))

    @property
    def dim(self) -> int:
        """The length of the vector; 0 without features, for a policy without context."""
        return 0 if self._empty else len(self.names)

    @property
    def pool(self) -> int:
        """The number of combinations of groups; 0 without a pool."""
        return math.prod(len(group.values) for group in self.groups) if self.groups else 0

    def read(self, attributes: Mapping[str, object]) -> Context:
        """The value of each feature's trait and of each group; None if it is missing or not a scalar."""
        context: Context = {name: matches(attributes) for name, matches in self._segments}
        for name, first, rest in self._paths:
            value = attributes.get(first)
            for step in rest:
                value = value.get(step) if type(value) is dict else None
            context[name] = value if isinstance(value, _SCALARS) else None
        return context

    def vector(self, context: Mapping[str, Value]) -> NDArray[np.float64]:
        """The features as float64 (dim,); a missing or unreadable value is 0 in all of its places."""
        return np.array(self.numbers(context))

    def numbers(self, context: Mapping[str, Value]) -> list[float]:
        """The numbers of `vector`, as a list."""
        if self._empty:
            return []
        out = [1.0]
        for trait, fill in self._fill:
            fill(out, context.get(trait))
        if self.groups:
            out.append(self._group_index(context))
        return out

    def _group_index(self, context: Mapping[str, Value]) -> float:
        """The index of the combination of group values, the last group fastest; -1 for an unlisted value."""
        index = 0
        for group in self.groups:
            value = context.get(group.name)
            if value is None or value not in group.values:
                return -1.0
            index = index * len(group.values) + group.values.index(value)
        return float(index)


def _split_path(name: str) -> tuple[str, tuple[str, ...]]:
    """`a.b.c` as its first step and the rest."""
    first, *rest = name.split(".")
    return first, tuple(rest)


def _names(spec: FeatureSpec) -> list[str]:
    """The names of the vector places that the feature fills."""
    if spec.one_of is not None:
        return [f"{spec.trait}={value}" for value in spec.one_of]
    if spec.trait in PERIODS and spec.range is None:
        return [f"sin {spec.trait}", f"cos {spec.trait}"]
    return [spec.trait]


def _filler(spec: FeatureSpec) -> Filler:
    """The function that appends the feature's numbers to a vector; its kind is chosen once per plan."""
    if spec.one_of is not None:
        return _fill_one_of(spec.one_of)
    if spec.range is not None:
        return _fill_scaled(spec.range[0], spec.range[1])
    if spec.trait in PERIODS:
        return _fill_cyclic(PERIODS[spec.trait])
    return _fill_plain


def _fill_one_of(values: Sequence[str | int | bool]) -> Filler:
    """The one-hot encoding of a value; all zeros for a value that is not listed."""
    places: dict[Value, int] = {value: index for index, value in enumerate(values)}
    zeros = [0.0] * len(places)

    def fill(out: list[float], value: Value) -> None:
        at = len(out)
        out.extend(zeros)
        index = places.get(value)
        if index is not None:
            out[at + index] = 1.0

    return fill


def _fill_scaled(low: float, high: float) -> Filler:
    """A number from [low, high] scaled to [-1, 1], and clipped there."""
    middle, half = (low + high) / 2, (high - low) / 2

    def fill(out: list[float], value: Value) -> None:
        if isinstance(value, _NUMBERS) and math.isfinite(value):
            scaled = (value - middle) / half
            out.append(-1.0 if scaled < -1.0 else 1.0 if scaled > 1.0 else round(scaled, SCALED_DIGITS))
        else:
            out.append(0.0)

    return fill


def _fill_cyclic(period: float) -> Filler:
    """A sine and a cosine, so that the last hour of a day is next to the first."""
    turn = 2 * math.pi / period

    def fill(out: list[float], value: Value) -> None:
        if _is_number(value):
            angle = turn * round(_as_number(value) * STEPS_PER_UNIT) / STEPS_PER_UNIT
            out.append(math.sin(angle))
            out.append(math.cos(angle))
        else:
            out.extend((0.0, 0.0))

    return fill


def _fill_plain(out: list[float], value: Value) -> None:
    """The number itself, clipped so that an extreme value does not dominate a model."""
    out.append(min(max(_as_number(value), -MOST), MOST) if _is_number(value) else 0.0)


def _is_number(value: Value) -> bool:
    return isinstance(value, _NUMBERS) and math.isfinite(value)


def _as_number(value: Value) -> float:
    return float(value or 0.0)
