"""What a policy looks at: traits of the customer and the moment, turned into a vector the same way everywhere."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.catalog.conditions.compile import Predicate
from engine.catalog.spec.experiment import FeatureSpec

Value = str | float | bool | None
Context = dict[str, Value]

PERIODS = {"hour": 24.0, "weekday": 7.0, "month": 12.0}
"""Features that go round: each becomes a sine and a cosine."""


SCALED_DIGITS = 2
PARTS = 4
"""A scaled number counts to the hundredth and an hour to its quarter: customers who are alike have one vector, whose
propensities a policy computes once."""


class PoolGroup(NamedTuple):
    """What customers are pooled by: a trait with the values that it may have, or a segment (true or false)."""

    name: str
    values: tuple[str | int | bool, ...]
    matches: Predicate | None = None


class Featurizer:
    """Reads features from attributes and lays them out as a float64 vector that starts with 1.

    `read` gives the values as they were used, which the log keeps; `vector` gives the same vector from the log again.
    With groups its last number is the position among their combinations, -1 where a value is none of theirs. Without
    features it is empty, or (1,) if a policy needs some context.
    """

    def __init__(
        self, specs: Sequence[str | FeatureSpec], groups: Sequence[PoolGroup] = (), *, constant: bool = False
    ) -> None:
        self.specs = tuple(FeatureSpec(trait=spec) if isinstance(spec, str) else spec for spec in specs)
        self.groups = tuple(groups)
        named = (*(spec.trait for spec in self.specs), *(group.name for group in groups if group.matches is None))
        self._paths = tuple((name, *_steps(name)) for name in dict.fromkeys(named))
        self._segments = tuple((group.name, group.matches) for group in groups if group.matches is not None)
        self._fill = tuple((spec.trait, _filler(spec)) for spec in self.specs)
        self._empty = not (self.specs or self.groups or constant)
        self.names = ("1", *(name for spec in self.specs for name in _names(spec)), *(["group"] if groups else []))

    @property
    def dim(self) -> int:
        """The length of the vector; 0 without features, for a policy without context."""
        return 0 if self._empty else len(self.names)

    @property
    def pool(self) -> int:
        """How many groups there are; 0 where nobody is pooled."""
        return math.prod(len(group.values) for group in self.groups) if self.groups else 0

    def read(self, attributes: Mapping[str, object]) -> Context:
        """The value of each feature's trait and of each group; None where the customer has none."""
        context: Context = {name: matches(attributes) for name, matches in self._segments}
        for name, first, rest in self._paths:
            value = attributes.get(first)
            for step in rest:
                value = value.get(step) if type(value) is dict else None
            context[name] = value if isinstance(value, str | int | float | bool) else None
        return context

    def vector(self, context: Mapping[str, Value]) -> NDArray[np.float64]:
        """The features as float64 (dim,); a missing or unreadable value is 0 in all its places."""
        if self._empty:
            return np.empty(0)
        out = [1.0]
        for trait, fill in self._fill:
            fill(out, context.get(trait))
        if self.groups:
            out.append(self._position(context))
        return np.array(out)

    def _position(self, context: Mapping[str, Value]) -> float:
        position = 0
        for group in self.groups:
            value = context.get(group.name)
            if value is None or value not in group.values:
                return -1.0
            position = position * len(group.values) + group.values.index(value)
        return float(position)


def featurizer(specs: Sequence[str | FeatureSpec]) -> Featurizer:
    """The featurizer of a policy's `features`."""
    return Featurizer(specs)


def _steps(name: str) -> tuple[str, tuple[str, ...]]:
    first, *rest = name.split(".")
    return first, tuple(rest)


def _names(spec: FeatureSpec) -> list[str]:
    if spec.one_of is not None:
        return [f"{spec.trait}={value}" for value in spec.one_of]
    if spec.trait in PERIODS and spec.range is None:
        return [f"sin {spec.trait}", f"cos {spec.trait}"]
    return [spec.trait]


def _filler(spec: FeatureSpec) -> Callable[[list[float], Value], None]:
    if spec.one_of is not None:
        places: dict[Value, int] = {value: index for index, value in enumerate(spec.one_of)}
        zeros = [0.0] * len(places)

        def one_of(out: list[float], value: Value) -> None:
            at = len(out)
            out.extend(zeros)
            index = places.get(value)
            if index is not None:
                out[at + index] = 1.0

        return one_of
    if spec.range is not None:
        low, high = spec.range
        middle, half = (low + high) / 2, (high - low) / 2

        def scaled(out: list[float], value: Value) -> None:
            if isinstance(value, int | float) and math.isfinite(value):
                out.append(round(min(max((value - middle) / half, -1.0), 1.0), SCALED_DIGITS))
            else:
                out.append(0.0)

        return scaled
    if spec.trait in PERIODS:
        turn = 2 * math.pi / PERIODS[spec.trait]

        def round_trip(out: list[float], value: Value) -> None:
            if _is_number(value):
                angle = turn * round(_number(value) * PARTS) / PARTS
                out.append(math.sin(angle))
                out.append(math.cos(angle))
            else:
                out.extend((0.0, 0.0))

        return round_trip

    def plain(out: list[float], value: Value) -> None:
        out.append(min(max(_number(value), -1e6), 1e6) if _is_number(value) else 0.0)

    return plain


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Value) -> float:
    return float(value or 0.0)
