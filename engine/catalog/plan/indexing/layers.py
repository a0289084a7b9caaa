"""Layers: a hash of the unit's id decides which of a layer's experiments the unit may enter."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.catalog.plan.indexing.bits import Bits
from engine.catalog.spec.units import Unit


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the place in [0, 1) to which it hashes a unit decides which of its experiments the unit may enter."""

    key: str
    hash_unit: Callable[[str], float]


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """A layer's experiments of one unit: `inside[i]` are those whose range covers `edges[i - 1]` up to `edges[i]`."""

    layer: Layer
    unit: Unit
    members: Bits
    edges: Sequence[float]
    inside: Sequence[Bits]

    def outside_range(self, units: Mapping[Unit, str | None]) -> Bits:
        """The layer's experiments whose range does not cover the unit; none if the request has no such unit."""
        unit = units[self.unit]
        return self.members & ~self.inside[bisect_right(self.edges, self.layer.hash_unit(unit))] if unit else 0
