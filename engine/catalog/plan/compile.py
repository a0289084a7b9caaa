"""Checked specs -> Plan."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.channel_experiments import index_experiments
from engine.catalog.plan.compile_offers import (
    compile_moments,
    compile_offer,
    compile_selection,
    compile_variant_selection,
)
from engine.catalog.plan.limits import watched_counters
from engine.catalog.plan.plan import (
    FOREVER,
    ChannelExperiments,
    Experiment,
    Filter,
    Holdout,
    Layer,
    Offer,
    Plan,
    Ranges,
)
from engine.catalog.spec.experiment import ExperimentSpec, HoldoutSpec, IdentitiesFile, LayerSpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.profile_rules import ProfileRules
from engine.catalog.spec.segments import expand_segments
from engine.hashing import bucket, bucket_ranges, seeded_bucket


def compile_plan(specs: Specs) -> Plan:
    """The plan of specs that `load_specs` found without a problem."""
    watched = watched_counters(specs)
    offers = {key: compile_offer(specs, key, watched) for key in specs.offers}
    selections = {key: compile_selection(specs, offers, key) for key in specs.selections}
    layers = {layer.key: _layer(layer) for layer in specs.layers.layers}
    holdouts = [(spec, _holdout(spec)) for spec in specs.layers.holdouts]
    experiments = {
        spec.key: _experiment(specs, spec, offers, layers, holdouts)
        for spec in specs.experiments.values()
        if spec.status != "draft"
    }
    placements = {placement.key: frozenset(placement.channels) for placement in specs.channels.placements}
    channels = frozenset(channel.key for channel in specs.channels.channels)
    policies = dict(selections)
    for experiment in experiments.values():
        policies |= {selection.key: selection for selection in experiment.selections if selection is not None}
    return Plan(
        version=specs.version,
        channels=channels,
        placements=placements,
        experiments=experiments,
        by_channel={channel: _of_channel(specs, experiments.values(), channel) for channel in channels},
        by_placement={
            (channel, placement): tuple(
                experiment
                for experiment in experiments.values()
                if experiment.spec.placement == placement and _on(experiment.spec.channels, channel)
            )
            for placement, shown_on in placements.items()
            for channel in shown_on
        },
        selections={
            (channel, selection.placement): selection
            for key, selection in selections.items()
            for channel in specs.selections[key].channels or placements[selection.placement]
        },
        policies=policies,
        offers=offers,
        metrics={metric.key: metric for metric in specs.metrics.metrics},
        currency=specs.metrics.currency,
        rules=_rules(specs.customers),
        moments={
            (channel, placement): found
            for placement, shown_on in placements.items()
            for channel in shown_on
            if (found := compile_moments(specs, offers, channel, placement))
        },
        outbound=frozenset(channel.key for channel in specs.channels.channels if channel.outbound),
        quiet={channel.key: channel.quiet for channel in specs.channels.channels if channel.quiet},
        watched=watched,
        feedback_events=frozenset(event for offer in offers.values() for event in offer.limits.feedback_events),
        segments={
            key: compile_condition(expand_segments(segment.condition, specs.segments))
            for key, segment in specs.segments.items()
            if segment.condition is not None
        },
        zone=specs.channels.zone,
    )


def _rules(spec: IdentitiesFile) -> ProfileRules:
    usual = ProfileRules()
    return ProfileRules(
        merge=spec.merge,
        sources=spec.sources,
        binds=usual.binds | spec.binds,
        holds=usual.holds | spec.holds,
        points_per_unit=spec.points_per_unit,
        tiers=spec.tiers,
        life=seconds(spec.life),
        anonymous_life=seconds(spec.anonymous_life),
        cart_life=seconds(spec.cart_life),
        step_life=seconds(spec.step_life),
        conversation_life=seconds(spec.conversation_life),
        half_life=seconds(spec.affinity_half_life),
    )


def _on(channels: list[str] | None, channel: str) -> bool:
    return channels is None or channel in channels


def _of_channel(specs: Specs, experiments: Iterable[Experiment], channel: str) -> ChannelExperiments:
    here = [e for e in experiments if e.spec.placement is None and _on(e.spec.channels, channel)]
    return index_experiments(here, {e.key: expand_segments(e.spec.audience, specs.segments) for e in here})


def _time(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()


def _matches(specs: Specs, condition: Mapping[str, object]) -> Predicate | None:
    return compile_condition(expand_segments(condition, specs.segments)) if condition else None


def _layer(spec: LayerSpec) -> Layer:
    return Layer(spec.key, _place(spec.seed or f"__{spec.key}", spec.hash_version))


def _holdout(spec: HoldoutSpec) -> Holdout:
    return Holdout(spec.key, spec.share, spec.unit, seeded_bucket(spec.seed or f"holdout:{spec.key}"))


def _experiment(
    specs: Specs,
    spec: ExperimentSpec,
    offers: Mapping[str, Offer],
    layers: Mapping[str, Layer],
    holdouts: list[tuple[HoldoutSpec, Holdout]],
) -> Experiment:
    low, high = specs.layer_range(spec)
    seed = spec.seed or spec.key
    indices = {variant.key: index for index, variant in enumerate(spec.variants)}
    return Experiment(
        key=spec.key,
        spec=spec,
        start=_time(spec.start, 0.0),
        end=_time(spec.end, FOREVER),
        hash_unit=_place(seed, spec.hash_version),
        steps=_steps(spec),
        matches=_matches(specs, spec.audience),
        layer=layers[spec.layer] if spec.layer else None,
        low=low,
        high=high,
        filters=tuple(
            Filter(f.unit, _place(f.seed, f.hash_version), tuple((low, high) for low, high in f.ranges))
            for f in spec.filters
        ),
        holdouts=tuple(
            holdout
            for of, holdout in holdouts
            if spec.kind == "experiment" and (not of.tags or set(of.tags) & set(spec.tags))
        ),
        forced={customer: indices[force.variant] for force in spec.force for customer in force.customers},
        prerequisites=tuple((need.experiment, frozenset(need.variants)) for need in spec.prerequisites),
        selections=tuple(compile_variant_selection(specs, spec, variant, offers) for variant in spec.variants),
    )


def _place(seed: str, version: int) -> Callable[[str], float]:
    return seeded_bucket(seed) if version == 2 else partial(_first_version, seed)


def _first_version(seed: str, unit: str) -> float:
    return bucket(seed, unit, 1)


def _steps(spec: ExperimentSpec) -> tuple[tuple[float, Ranges], ...]:
    own = [(variant.range[0], variant.range[1]) for variant in spec.variants if variant.range is not None]
    if own:
        return ((0.0, tuple(own)),)
    weights = None if spec.variants[0].weight is None else [variant.weight or 0.0 for variant in spec.variants]

    def ranges(coverage: float) -> Ranges:
        return tuple(bucket_ranges(len(spec.variants), coverage, weights))

    ramp = sorted((step.at.timestamp(), ranges(step.coverage)) for step in spec.ramp)
    return ((0.0, ranges(spec.coverage)), *ramp)
