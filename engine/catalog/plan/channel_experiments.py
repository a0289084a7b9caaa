"""Indexes a channel's experiments by bits, so that a decision skips those that cannot apply."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence

from engine.catalog.plan.indexing.layers import Layer, LayerSlots
from engine.catalog.plan.indexing.offer_index import IndexedOffer, build_offer_index
from engine.catalog.plan.plan import FOREVER, ChannelExperiments, Experiment
from engine.catalog.spec.units import Unit


def index_experiments(
    experiments: Sequence[Experiment], audiences: Mapping[str, Mapping[str, object]]
) -> ChannelExperiments:
    """The index of a channel's experiments, in plan order.

    Args:
        experiments: the experiments that may run on the channel.
        audiences: by key, the audience of each experiment with its segments expanded.
    """
    index = build_offer_index([_as_indexed(one, audiences[one.key]) for one in experiments])
    layered: dict[tuple[str, Unit], tuple[Layer, list[tuple[int, Experiment]]]] = {}
    for place, experiment in enumerate(experiments):
        layer, unit = experiment.layer, experiment.spec.unit
        # With a fallback unit it is not known before `assign` which unit's place in the layer counts.
        if layer and not _bypasses_audience(experiment) and experiment.spec.fallback_unit is None:
            layered.setdefault((layer.key, unit), (layer, []))[1].append((place, experiment))
    return ChannelExperiments(
        experiments=tuple(experiments),
        index=index,
        layers=tuple(_compile_slots(layer, unit, members) for (_, unit), (layer, members) in layered.items()),
        everything=(1 << len(experiments)) - 1,
    )


def _as_indexed(experiment: Experiment, audience: Mapping[str, object]) -> IndexedOffer:
    """The experiment in the form of an indexed offer: only its audience can exclude it."""
    return IndexedOffer(
        key=experiment.key,
        start=0.0,
        end=FOREVER,
        audience={} if _bypasses_audience(experiment) else audience,
        names={},
    )


def _bypasses_audience(experiment: Experiment) -> bool:
    """Whether customers outside the audience or layer range may have a variant, if forced or sticky."""
    return bool(experiment.forced) or experiment.spec.sticky


def _compile_slots(layer: Layer, unit: Unit, members: Sequence[tuple[int, Experiment]]) -> LayerSlots:
    """Cuts the layer at every edge of a range; each slot lists the experiments that cover it."""
    edges = sorted({edge for _, experiment in members for edge in (experiment.low, experiment.high)})
    inside = [0] * (len(edges) + 1)
    every = 0
    for place, experiment in members:
        every |= 1 << place
        for part in range(bisect_right(edges, experiment.low), bisect_right(edges, experiment.high)):
            inside[part] |= 1 << place
    return LayerSlots(layer=layer, unit=unit, members=every, edges=edges, inside=inside)
