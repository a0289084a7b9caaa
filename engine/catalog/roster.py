"""Which experiments of a channel can apply to someone: cost follows those that can, not all that run."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.catalog.index import Bits, Indexed, OfferIndex, offer_index, places
from engine.catalog.plan import Experiment, Layer
from engine.catalog.spec import Unit


@dataclass(frozen=True, slots=True)
class Slots:
    """One layer's experiments of one unit: between `edges[i - 1]` and `edges[i]` stand `inside[i]`."""

    layer: Layer
    unit: Unit
    members: Bits
    edges: Sequence[float]
    inside: Sequence[Bits]

    def missed(self, units: Mapping[Unit, str | None]) -> Bits:
        """The experiments of the layer in whose range the unit is not."""
        unit = units[self.unit]
        return self.members & ~self.inside[bisect_right(self.edges, self.layer.place(unit))] if unit else 0


@dataclass(frozen=True, slots=True)
class Roster:
    """A channel's experiments as bits: those whose audience or range of the layer shuts someone out are not touched."""

    experiments: tuple[Experiment, ...]
    index: OfferIndex
    slots: tuple[Slots, ...]
    all: Bits

    def applying(self, attributes: Mapping[str, object], units: Mapping[Unit, str | None]) -> Iterator[Experiment]:
        """Every experiment that can apply, in the order of the roster; `assign` has the last word."""
        left = self.all
        for slots in self.slots:
            left &= ~slots.missed(units)
        left &= ~self.index.outside_audience(attributes, left)
        for place in places(left):
            yield self.experiments[place]


def roster(experiments: Sequence[Experiment], audiences: Mapping[str, Mapping[str, object]]) -> Roster:
    """The roster of experiments, each with its audience, segments expanded.

    One that may let in whom its audience or layer would not (testers by name, those it keeps) is always looked at.
    """
    index = offer_index(
        [Indexed(e.key, (), 0.0, float("inf"), None, {} if _open(e) else audiences[e.key], (), ()) for e in experiments]
    )
    layered: dict[tuple[str, Unit], list[tuple[int, Experiment]]] = {}
    for place, experiment in enumerate(experiments):
        if experiment.layer and not _open(experiment) and experiment.spec.fallback_unit is None:
            layered.setdefault((experiment.layer.key, experiment.spec.unit), []).append((place, experiment))
    slots = tuple(_slots(unit, members) for (_, unit), members in layered.items())
    return Roster(tuple(experiments), index, slots, (1 << len(experiments)) - 1)


def _open(experiment: Experiment) -> bool:
    return bool(experiment.forced) or experiment.spec.sticky


def _slots(unit: Unit, members: Sequence[tuple[int, Experiment]]) -> Slots:
    edges = sorted({edge for _, experiment in members for edge in (experiment.low, experiment.high)})
    inside = [0] * (len(edges) + 1)
    every = 0
    for place, experiment in members:
        every |= 1 << place
        for part in range(bisect_right(edges, experiment.low), bisect_right(edges, experiment.high)):
            inside[part] |= 1 << place
    layer = members[0][1].layer
    if layer is None:
        raise ValueError("slots are of experiments that have a layer")
    return Slots(layer, unit, every, edges, inside)
