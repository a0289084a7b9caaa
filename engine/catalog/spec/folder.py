"""The specs of one folder of YAML, decoded and typed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from engine.catalog.feeds.items import FeedItems, feed_name
from engine.catalog.spec.experiment import ExperimentSpec, IdentitiesFile, LayersFile, SegmentsFile, SegmentSpec
from engine.catalog.spec.flags import rule_experiments
from engine.catalog.spec.limits.stock import PlacesFile, PlaceSpec, SharedBudgetSpec
from engine.catalog.spec.metrics import MetricsFile, MetricSpec
from engine.catalog.spec.notify import NotifyFile
from engine.catalog.spec.offer import (
    CampaignsFile,
    CampaignSpec,
    ChannelsFile,
    MomentsFile,
    MomentSpec,
    OfferSpec,
    OffersSpec,
    SelectionSpec,
    TaggedOffers,
)
from engine.catalog.spec.sources import SourcesFile
from engine.catalog.spec.traits import TraitsFile
from engine.catalog.spec.units import UnitsFile

SINGLE: Mapping[str, type[msgspec.Struct]] = {
    "channels.yaml": ChannelsFile,
    "layers.yaml": LayersFile,
    "segments.yaml": SegmentsFile,
    "metrics.yaml": MetricsFile,
    "identities.yaml": IdentitiesFile,
    "moments.yaml": MomentsFile,
    "notify.yaml": NotifyFile,
    "units.yaml": UnitsFile,
    "traits.yaml": TraitsFile,
    "campaigns.yaml": CampaignsFile,
    "sources.yaml": SourcesFile,
    "places.yaml": PlacesFile,
}
UNWRAPPED: Mapping[str, str] = {"units.yaml": "units", "traits.yaml": "traits"}
"""Files that are the mapping itself, which their struct has under this name."""
TESTS = "tests/"
"""The folder of assertions beside the experiments, which the plan does not read."""


@dataclass(frozen=True)
class Specs:
    """The decoded files of a folder; `version` is a digest of their bytes, `files` maps each key to its file.

    Flags are expanded (`engine.catalog.spec.flags`), as the `environment` changes them.
    """

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
    notify: NotifyFile = field(default_factory=NotifyFile)
    units: UnitsFile = field(default_factory=UnitsFile)
    campaigns: Mapping[str, CampaignSpec] = field(default_factory=dict)
    budgets: Mapping[str, SharedBudgetSpec] = field(default_factory=dict)
    sources: SourcesFile = field(default_factory=SourcesFile)
    environment: str | None = None
    traits: TraitsFile = field(default_factory=TraitsFile)
    grouping: SegmentsFile = field(default_factory=SegmentsFile)
    places: Sequence[PlaceSpec] = ()
    feeds: Mapping[str, FeedItems] = field(default_factory=dict)
    """The items of each entry with a feed, by `feed_name`; they are not among `offers`."""
    kept: "Mapping[str, Specs]" = field(default_factory=dict)
    """The archived plans that holdouts keep, by version."""
    policy_suffix: str = ""
    """The suffix of the key of each policy, so that a kept plan's policies learn apart from today's."""

    def all_experiments(self) -> Iterator[tuple[str, str, ExperimentSpec]]:
        """Yield each experiment and flag, then the experiments of its rules: file, path in it, spec.

        The rules of the environments that do not run here are among them, so that a check covers every environment.
        """
        for spec in self.experiments.values():
            file = self.files[spec.key]
            yield file, "", spec
            overrides = {name: one.rules for name, one in spec.environments.items() if one.rules is not None}
            running = self.environment if self.environment in overrides else ""  # its rules are those of the spec
            for name, rules in [(running, spec.rules), *((key, overrides[key]) for key in overrides if key != running)]:
                path = f"environments.{name}.rules" if name else "rules"
                for index, rule in enumerate(rule_experiments(replace(spec, rules=rules))):
                    yield file, f"{path}[{index}].", rule

    def metric(self, key: str) -> MetricSpec:
        """The metric of this key.

        Raises:
            StopIteration: if there is none; `check` reports that before a plan is compiled.
        """
        return next(metric for metric in self.metrics.metrics if metric.key == key)

    def every_offer(self) -> Iterator[OfferSpec]:
        """Yield the offers of the folder, then the items of its feeds."""
        yield from self.offers.values()
        for items in self.feeds.values():
            yield from items.offers.values()

    def items_of(self, offers: list[str] | OffersSpec) -> Mapping[str, OfferSpec]:
        """The items of a selection's feed by key; empty for a list or a tag."""
        items = self.feed_of(offers)
        return {} if items is None else items.offers

    def feed_of(self, offers: list[str] | OffersSpec) -> FeedItems | None:
        """The feed of a selection; None for a list or a tag."""
        return None if isinstance(offers, list) or offers.feed is None else self.feeds.get(feed_name(offers))

    def named(self, offers: list[str] | TaggedOffers | OffersSpec) -> list[str]:
        """The keys of the offers that a list names, that have the tag, or that are items of the feed."""
        if isinstance(offers, list):
            return offers
        if isinstance(offers, OffersSpec) and offers.feed is not None:
            return list(self.items_of(offers))
        return [offer.key for offer in self.offers.values() if offers.tagged in offer.tags]

    def layer_range(self, spec: ExperimentSpec) -> tuple[float, float]:
        """The range reserved for an experiment in its layer, as (low, high); (0, 1) if none is reserved."""
        layer = next((layer for layer in self.layers.layers if layer.key == spec.layer), None)
        low, high = (layer.reserve.get(spec.key) if layer else None) or (0.0, 1.0)
        return low, high
