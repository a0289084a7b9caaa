"""Checked specs -> Plan."""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import partial

import numpy as np

from engine.catalog.conditions import compile_condition
from engine.catalog.features import featurizer
from engine.catalog.plan import (
    FOREVER,
    Experiment,
    Filter,
    Holdout,
    Layer,
    Matches,
    Offer,
    Plan,
    Ranges,
    Reward,
    Selection,
)
from engine.catalog.rules import ProfileRules
from engine.catalog.segments import expanded
from engine.catalog.spec import ExperimentSpec, HoldoutSpec, IdentitiesFile, LayerSpec, PolicySpec, VariantSpec, seconds
from engine.catalog.specs import Specs
from engine.hashing import bucket, bucket_ranges, seeded
from policies import make


def compile_plan(specs: Specs) -> Plan:
    """The plan of specs that `load_specs` found without a problem."""
    offers = {key: _offer(specs, key) for key in specs.offers}
    selections = {key: _selection(specs, offers, key) for key in specs.selections}
    layers = {layer.key: _layer(layer) for layer in specs.layers.layers}
    holdouts = [(spec, _holdout(spec)) for spec in specs.layers.holdouts]
    experiments = {
        spec.key: _experiment(specs, spec, offers, selections, layers, holdouts)
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
        by_channel={channel: _of_channel(experiments.values(), channel) for channel in channels},
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


def _of_channel(experiments: Iterable[Experiment], channel: str) -> tuple[Experiment, ...]:
    return tuple(e for e in experiments if e.spec.placement is None and _on(e.spec.channels, channel))


def _time(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()


def _matches(specs: Specs, condition: Mapping[str, object]) -> Matches | None:
    return compile_condition(expanded(condition, specs.segments)) if condition else None


def _offer(specs: Specs, key: str) -> Offer:
    spec = specs.offers[key]
    return Offer(key, spec, _matches(specs, spec.audience), _time(spec.start, 0.0), _time(spec.end, FOREVER))


def _layer(spec: LayerSpec) -> Layer:
    return Layer(spec.key, _place(spec.seed or f"__{spec.key}", spec.hash_version))


def _holdout(spec: HoldoutSpec) -> Holdout:
    return Holdout(spec.key, spec.share, spec.unit, seeded(spec.seed or f"holdout:{spec.key}"))


def _selection(specs: Specs, offers: Mapping[str, Offer], key: str) -> Selection:
    spec = specs.selections[key]
    named = spec.offers
    keys = named if isinstance(named, list) else [k for k, o in offers.items() if named.tagged in o.spec.tags]
    return _chosen_by(
        key,
        spec.placement,
        spec.policy,
        [offers[k] for k in keys],
        Reward(specs.metric(spec.reward.metric), seconds(spec.reward.window), seconds(spec.reward.settle)),
        offers[spec.fallback],
    )


def _chosen_by(
    key: str, placement: str, policy: PolicySpec, offers: list[Offer], reward: Reward, fallback: Offer
) -> Selection:
    features = featurizer(policy.features)
    arms = tuple(offer.key for offer in offers)
    channels = {channel for offer in offers for channel in offer.spec.renderings}
    return Selection(
        key=key,
        placement=placement,
        policy=policy,
        offers=tuple(offers),
        arms=arms,
        features=features,
        prior=make(policy.kind, arms, features.dim, floor=policy.floor, discount=policy.discount),
        reward=reward,
        fallback=fallback,
        by_channel={
            channel: np.array([i for i, offer in enumerate(offers) if channel in offer.spec.renderings])
            for channel in channels
        },
    )


def _experiment(
    specs: Specs,
    spec: ExperimentSpec,
    offers: Mapping[str, Offer],
    selections: Mapping[str, Selection],
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
        place=_place(seed, spec.hash_version),
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
        selections=tuple(_own_selection(spec, variant, offers, selections) for variant in spec.variants),
    )


def _place(seed: str, version: int) -> Callable[[str], float]:
    return seeded(seed) if version == 2 else partial(_first_version, seed)


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


def _own_selection(
    spec: ExperimentSpec, variant: VariantSpec, offers: Mapping[str, Offer], selections: Mapping[str, Selection]
) -> Selection | None:
    if spec.placement is None or (variant.policy is None and variant.offers is None):
        return None
    base = next(selection for selection in selections.values() if selection.placement == spec.placement)
    chosen = base.offers if variant.offers is None else tuple(offers[key] for key in variant.offers)
    return _chosen_by(
        f"{spec.key}.{variant.key}",
        spec.placement,
        variant.policy or base.policy,
        list(chosen),
        base.reward,
        base.fallback,
    )
