"""The specs of one folder of YAML, decoded and typed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from engine.catalog.spec.experiment import (
    ExperimentSpec,
    IdentitiesFile,
    LayersFile,
    MetricsFile,
    MetricSpec,
    SegmentsFile,
    SegmentSpec,
)
from engine.catalog.spec.offer import ChannelsFile, MomentsFile, MomentSpec, OfferSpec, SelectionSpec, TaggedOffers

SINGLE: Mapping[str, type[msgspec.Struct]] = {
    "channels.yaml": ChannelsFile,
    "layers.yaml": LayersFile,
    "segments.yaml": SegmentsFile,
    "metrics.yaml": MetricsFile,
    "identities.yaml": IdentitiesFile,
    "moments.yaml": MomentsFile,
}


@dataclass(frozen=True)
class Specs:
    """The decoded files of a folder; `version` is a digest of their bytes, `files` the file of each key."""

    folder: str
    version: str
    files: Mapping[str, str]
    experiments: Mapping[str, ExperimentSpec]
    selections: Mapping[str, SelectionSpec]
    offers: Mapping[str, OfferSpec]
    channels: ChannelsFile
    layers: LayersFile
    segments: Mapping[str, SegmentSpec]
    metrics: MetricsFile
    customers: IdentitiesFile = field(default_factory=IdentitiesFile)
    moments: Mapping[str, MomentSpec] = field(default_factory=dict)

    def metric(self, key: str) -> MetricSpec:
        """The metric of this key.

        Raises:
            StopIteration: if there is none; `check` reports that before a plan is compiled.
        """
        return next(metric for metric in self.metrics.metrics if metric.key == key)

    def named(self, offers: list[str] | TaggedOffers) -> list[str]:
        """The keys of the offers that a list names, or that have the tag."""
        if isinstance(offers, list):
            return offers
        return [offer.key for offer in self.offers.values() if offers.tagged in offer.tags]

    def layer_range(self, spec: ExperimentSpec) -> tuple[float, float]:
        """The range of its layer reserved for an experiment, as (low, high); (0, 1) where none is reserved."""
        layer = next((layer for layer in self.layers.layers if layer.key == spec.layer), None)
        low, high = (layer.reserve.get(spec.key) if layer else None) or (0.0, 1.0)
        return low, high
