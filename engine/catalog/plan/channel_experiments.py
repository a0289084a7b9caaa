"""Experiments -> the roster of a channel: who can be in none of a layer's ranges or audiences is found by bits."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from engine.catalog.plan.offer_index import IndexedOffer, build_offer_index
from engine.catalog.plan.plan import ChannelExperiments, Experiment, LayerSlots
from engine.catalog.spec.experiment import Unit


def index_experiments(
    experiments: Sequence[Experiment], audiences: Mapping[str, Mapping[str, object]]
) -> ChannelExperiments:
    """The roster of experiments, each with its audience, segments expanded.

    One that may let in whom its audience or layer would not (testers by name, those it keeps) is always looked at.
    """
    index = build_offer_index(
        [
            IndexedOffer(e.key, (), 0.0, float("inf"), None, {} if _open(e) else audiences[e.key], (), ())
            for e in experiments
        ]
    )
    layered: dict[tuple[str, Unit], list[tuple[int, Experiment]]] = {}
    for place, experiment in enumerate(experiments):
        if experiment.layer and not _open(experiment) and experiment.spec.fallback_unit is None:
            layered.setdefault((experiment.layer.key, experiment.spec.unit), []).append((place, experiment))
    slots = tuple(_slots(unit, members) for (_, unit), members in layered.items())
    return ChannelExperiments(tuple(experiments), index, slots, (1 << len(experiments)) - 1)


def _open(experiment: Experiment) -> bool:
    return bool(experiment.forced) or experiment.spec.sticky


def _slots(unit: Unit, members: Sequence[tuple[int, Experiment]]) -> LayerSlots:
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
    return LayerSlots(layer, unit, every, edges, inside)
