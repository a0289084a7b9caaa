"""Compiles checked specs to a Plan: conditions to closures, seeds to hashes, and look-ups to tables."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from msgspec import UNSET
from msgspec.structs import replace

from engine.catalog.conditions.compile import compile_condition, condition_fields
from engine.catalog.kept_plans import every_counter, join_kept, limited_plans, with_kept_reads
from engine.catalog.plan.audience_names import audience_names, read_names
from engine.catalog.plan.channel_experiments import index_experiments
from engine.catalog.plan.compile_campaigns import compile_campaign, compile_capacities
from engine.catalog.plan.compile_offers import (
    compile_audience,
    compile_moments,
    compile_offers,
    compile_selection,
    compile_variant_selection,
    silencing_condition,
    to_timestamp,
)
from engine.catalog.plan.compile_traits import begins, cancels, compile_traits
from engine.catalog.plan.features import Featurizer
from engine.catalog.plan.indexing.layers import Layer
from engine.catalog.plan.limits import zoned_counters
from engine.catalog.plan.peer_hashing import peer_place
from engine.catalog.plan.places import PLACE_NAMES, compile_places
from engine.catalog.plan.plan import (
    FOREVER,
    ChannelExperiments,
    Experiment,
    Filter,
    Holdout,
    Offer,
    Plan,
    Ranges,
    Requirement,
    Rule,
)
from engine.catalog.plan.switchback import Switchback, compile_switchback
from engine.catalog.spec.experiment import (
    ExperimentSpec,
    FilterSpec,
    HoldoutSpec,
    LayerSpec,
    Prerequisite,
)
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.flags import RULE, is_constant, rule_experiments, value_of
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.hashed import Hashed
from engine.catalog.spec.identifiers import compile_placeholders
from engine.catalog.spec.metrics import MetricSpec
from engine.catalog.spec.profile_rules import ProfileRules
from engine.catalog.spec.ramp import HeldRamp
from engine.catalog.spec.segments import expand_segments
from engine.catalog.spec.traits import RFM_SEGMENTS
from engine.hashing import bucket, bucket_ranges, seeded_bucket
from engine.metric_kinds import METRIC_KINDS
from engine.vocabulary import names_of_same_event


def compile_plan(specs: Specs) -> Plan:
    """The plan of specs without problems by `load_specs`, with the plans that its holdouts keep."""
    today = with_kept_reads(specs)
    return _compile_with_kept(today, today, every_counter(today, today))


def _compile_with_kept(specs: Specs, today: Specs, watched: Mapping[str, int]) -> Plan:
    """The plan joined with its kept plans under the limits of `today`; all count the same events."""
    plan = _compile(specs, watched)
    kept = {key: _compile_with_kept(one, today, watched) for key, one in limited_plans(specs, today).items()}
    return join_kept(plan, kept) if kept else plan


def _compile(specs: Specs, watched: Mapping[str, int]) -> Plan:
    """The plan of one folder, without kept plans."""
    offers = compile_offers(specs, watched)
    selections = {key: compile_selection(specs, offers, key) for key in specs.selections}
    experiments = _compile_experiments(specs, offers)
    placements = {placement.key: frozenset(placement.channels) for placement in specs.channels.placements}
    channels = frozenset(one.key for one in specs.channels.channels)
    shown = [(channel, placement) for placement, shown_on in placements.items() for channel in shown_on]
    moments = {place: compile_moments(specs, offers, *place) for place in shown}
    of_variants = [selection for experiment in experiments.values() for selection in experiment.selections if selection]
    campaigns = {key: compile_campaign(specs, key) for key in specs.campaigns}
    chosen = (*selections.values(), *of_variants, *(each.selection for each in campaigns.values()))
    policies = {selection.key: selection for selection in chosen}
    audiences = audience_names(specs) | specs.traits.traits.keys()
    places = PLACE_NAMES if specs.places else ()
    return Plan(
        version=specs.version,
        channels=channels,
        placements=placements,
        experiments=experiments,
        by_channel={channel: _index_channel(specs, experiments.values(), channel) for channel in channels},
        by_placement={place: _at_placement(experiments.values(), *place) for place in shown},
        selections={
            (channel, selection.placement): selection
            for key, selection in selections.items()
            for channel in specs.selections[key].channels or placements[selection.placement]
        },
        policies=policies,
        offers=offers,
        metrics={metric.key: metric for metric in specs.metrics.metrics},
        currency=specs.metrics.currency,
        rules=_compile_rules(specs),
        moments={place: compiled for place, compiled in moments.items() if compiled},
        outbound=frozenset(channel.key for channel in specs.channels.channels if channel.outbound),
        quiet={channel.key: channel.quiet for channel in specs.channels.channels if channel.quiet},
        watched=watched,
        zoned=zoned_counters(specs),
        feedback_events=frozenset(event for offer in offers.values() for event in offer.limits.feedback_events),
        segments={
            key: compile_condition(expand_segments(segment.condition, specs.segments))
            for key, segment in specs.segments.items()
            if segment.condition is not None
        },
        zone=specs.channels.zone,
        language=specs.channels.language,
        silenced_when=compile_audience(specs, silencing_condition(specs)),
        has_stacking=bool(specs.channels.stacking),
        holdouts={holdout.key: _compile_holdout(holdout) for holdout in specs.layers.holdouts},
        audience_names=audiences,
        read_names=read_names(audiences.union(places), policies.values(), experiments.values()),
        kpis=tuple(specs.metrics.kpis),
        rfm=tuple(specs.grouping.rfm) or RFM_SEGMENTS,
        bad_rows={key: items.bad for key, spec in specs.selections.items() if (items := specs.feed_of(spec.offers))},
        unit_traits=specs.units.traits,
        campaigns=campaigns,
        capacities=compile_capacities(specs),
        addresses={one.key: one.address for one in specs.channels.channels if one.address is not None},
        sources={source.key: source for source in specs.sources.sources},
        places=compile_places(specs.places),
    )


def _compile_rules(specs: Specs) -> ProfileRules:
    """The rules of `identities.yaml`, with spans in seconds and default limits.

    The rules of money are those of `metrics.yaml`, the traits those of `traits.yaml`.
    """
    spec, metrics = specs.customers, specs.metrics
    triggers = [moment.trigger for moment in specs.moments.values()]
    usual = ProfileRules()
    return ProfileRules(
        merge=spec.merge,
        profiling=spec.profiling,
        sources=spec.sources,
        binds=usual.binds | spec.binds,
        holds=usual.holds | spec.holds,
        placeholders=compile_placeholders(spec.placeholders),
        points_per_unit=spec.points_per_unit,
        tiers=spec.tiers,
        life=seconds(spec.life),
        anonymous_life=seconds(spec.anonymous_life),
        return_period=seconds(spec.return_period),
        cart_life=seconds(spec.cart_life),
        step_life=seconds(spec.step_life),
        conversation_life=seconds(spec.conversation_life),
        campaign_life=seconds(spec.campaign_life),
        half_life=seconds(spec.affinity_half_life),
        watched_events=frozenset().union(*(begins(trigger) | cancels(trigger) for trigger in triggers)),
        currency=metrics.currency,
        rates=metrics.rates,
        amounts=usual.amounts
        | {metric.value for metric in metrics.metrics if metric.value and METRIC_KINDS[metric.kind].is_money},
        measured=_measured_properties(metrics.metrics),
        named_events=frozenset(
            name for metric in metrics.metrics for name in (*metric.events, metric.denominator) if name is not None
        ),
        computed=compile_traits(specs),
    )


def _measured_properties(metrics: Iterable[MetricSpec]) -> dict[str, frozenset[str]]:
    """The properties that metrics read as numbers, by event, except those that the engine checks itself."""
    found: dict[str, set[str]] = {}
    for metric in metrics:
        read = [*((event, metric.value) for event in metric.events), (metric.denominator, metric.denominator_value)]
        for event, value in read if metric.source is None else ():
            if event and value and value != "revenue":
                for name in names_of_same_event(event):
                    found.setdefault(name, set()).add(value)
    return {event: frozenset(names) for event, names in found.items()}


def _runs_on(experiment: Experiment, channel: str) -> bool:
    return experiment.spec.channels is None or channel in experiment.spec.channels


def _index_channel(specs: Specs, experiments: Iterable[Experiment], channel: str) -> ChannelExperiments:
    """The experiments that a decision on the channel may assign without naming a placement."""
    running = [one for one in experiments if one.spec.placement is None and _runs_on(one, channel)]
    return index_experiments(running, {one.key: expand_segments(one.spec.audience, specs.segments) for one in running})


def _at_placement(experiments: Iterable[Experiment], channel: str, placement: str) -> tuple[Experiment, ...]:
    """The channel's experiments on a placement, in plan order."""
    return tuple(one for one in experiments if one.spec.placement == placement and _runs_on(one, channel))


def _compile_experiments(specs: Specs, offers: Mapping[str, Offer]) -> dict[str, Experiment]:
    """All experiments except drafts, which are never decided."""
    layers = {layer.key: _compile_layer(layer) for layer in specs.layers.layers}
    holdouts = [(spec, _compile_holdout(spec)) for spec in specs.layers.holdouts]
    return {
        spec.key: _compile_experiment(specs, spec, offers, layers, holdouts)
        for spec in specs.experiments.values()
        if spec.status != "draft"
    }


def _compile_layer(spec: LayerSpec) -> Layer:
    # GrowthBook hashes a namespace under `__name`: an imported one keeps every unit's place.
    return Layer(key=spec.key, hash_unit=_growthbook_hash(spec.seed or f"__{spec.key}", spec.hash_version))


def _compile_holdout(spec: HoldoutSpec) -> Holdout:
    """A holdout with its hash; without a seed it is hashed by its key."""
    seed = spec.seed or f"holdout:{spec.key}"
    return Holdout(key=spec.key, share=spec.share, unit=spec.unit, hash_unit=seeded_bucket(seed), spec=spec)


def _compile_filter(spec: FilterSpec) -> Filter:
    ranges = tuple((low, high) for low, high in spec.ranges)
    return Filter(unit=spec.unit, hash_unit=unit_hash(spec.seed, spec), ranges=ranges)


def _compile_experiment(
    specs: Specs,
    spec: ExperimentSpec,
    offers: Mapping[str, Offer],
    layers: Mapping[str, Layer],
    holdouts: list[tuple[HoldoutSpec, Holdout]],
) -> Experiment:
    """One experiment, with its layer and holdouts."""
    low, high = specs.layer_range(spec)
    is_shipped = spec.status == "shipped" and spec.ship is not None
    indices = {variant.key: index for index, variant in enumerate(spec.variants)}
    return Experiment(
        key=spec.key,
        spec=spec,
        start=to_timestamp(spec.start, 0.0),
        end=to_timestamp(spec.end, FOREVER),
        hash_unit=unit_hash(spec.seed or spec.key, spec),
        steps=_compile_steps(spec),
        held_steps=_compile_held_steps(spec),
        matches=compile_audience(specs, spec.audience),
        layer=layers[spec.layer] if spec.layer and not is_shipped else None,
        low=low,
        high=high,
        filters=tuple(_compile_filter(each) for each in spec.filters),
        holdouts=tuple(holdout for of, holdout in holdouts if of.covers(spec)),
        forced={customer: indices[force.variant] for force in spec.force for customer in force.customers},
        prerequisites=tuple(_compile_requirement(specs, need) for need in spec.prerequisites),
        selections=tuple(compile_variant_selection(specs, spec, variant, offers) for variant in spec.variants),
        logged_traits=_compile_logged_traits(specs, spec, [of for of, _ in holdouts if of.covers(spec)]),
        switchback=_compile_switchback(spec),
        rules=tuple(
            _compile_rule(_compile_experiment(specs, rule, offers, layers, holdouts), indices)
            for rule in rule_experiments(spec)
        ),
        default=-1 if spec.default is None else indices[spec.default],
        is_constant=is_constant(spec),
        shipped=indices[spec.ship] if is_shipped and spec.ship is not None else -1,
    )


def _compile_switchback(spec: ExperimentSpec) -> Switchback | None:
    """The design of an experiment that changes its variants by time."""
    design = spec.switchback
    if design is None:
        return None
    equal = 1 / len(spec.variants)
    return compile_switchback(
        spec.seed or spec.key,
        every=seconds(design.every),
        washout=seconds(design.washout) if design.washout else 0.0,
        start=to_timestamp(spec.start, 0.0),
        weights=[equal if variant.weight is None else variant.weight for variant in spec.variants],
    )


def _compile_rule(experiment: Experiment, indices: Mapping[str, int]) -> Rule:
    """One rule of a flag, given the flag's index of each variant."""
    spec = experiment.spec
    is_whole = experiment.steps == ((0.0, ((0.0, 1.0),)),) and not experiment.held_steps
    covers_all = len(spec.variants) == 1 and is_whole
    return Rule(
        experiment=experiment,
        indices=tuple(indices[variant.key] for variant in spec.variants),
        is_plain=covers_all and not spec.filters,
    )


def _compile_requirement(specs: Specs, need: Prerequisite) -> Requirement:
    """One prerequisite; a required value stands for the variants that have it."""
    other = specs.experiments[need.experiment]
    variants = need.variants
    if need.value is not UNSET:
        values = {variant.key: value_of(variant, other.type) for variant in other.variants}
        # In Python true equals 1, in JSON it does not.
        is_truth = isinstance(need.value, bool)
        variants = [key for key, value in values.items() if value == need.value and isinstance(value, bool) is is_truth]
    return Requirement(
        experiment=need.experiment,
        variants=None if variants is None else frozenset(variants),
        rules=None if need.rules is None else frozenset(f"{need.experiment}{RULE}{name}" for name in need.rules),
        is_off=need.off is True,
    )


def _compile_logged_traits(specs: Specs, spec: ExperimentSpec, holdouts: Iterable[HoldoutSpec]) -> Featurizer | None:
    """The traits that reports of the experiment and of its holdouts need; the log has channel, customer and device."""
    names = sorted(condition_fields(expand_segments(spec.audience, specs.segments)))
    names += [spec.analysis.stratum] if spec.analysis.stratum else []
    units = (spec.unit, *(holdout.unit for holdout in holdouts))
    names += [trait for unit in units if (trait := specs.units.trait_of(unit)) is not None]
    logged = dict.fromkeys(name for name in names if name not in {"channel", "id"})
    return Featurizer(tuple(logged)) if logged else None


def unit_hash(seed: str, spec: Hashed) -> Callable[[str], float]:
    """The place of a unit in [0, 1) by the hash of an experiment, a rule or a filter."""
    if spec.hash == "growthbook":
        return _growthbook_hash(seed, spec.hash_version)
    return peer_place(spec.hash, seed, spec.buckets)


def _growthbook_hash(seed: str, version: int) -> Callable[[str], float]:
    """The place of a unit in [0, 1) by GrowthBook's hash of this version."""
    return seeded_bucket(seed) if version == 2 else partial(_hash_version_1, seed)


def _hash_version_1(seed: str, unit: str) -> float:
    """GrowthBook's first hash version, as a function of seed and unit."""
    return bucket(seed, unit, 1)


def _compile_steps(spec: ExperimentSpec) -> tuple[tuple[float, Ranges], ...]:
    """The variants' ranges from each time on, the first from 0; explicit ranges ignore coverage and ramp."""
    own = [(variant.range[0], variant.range[1]) for variant in spec.variants if variant.range is not None]
    if own:
        return ((0.0, tuple(own)),)
    weights = None if spec.variants[0].weight is None else [variant.weight or 0.0 for variant in spec.variants]

    def ranges(coverage: float) -> Ranges:
        return tuple(bucket_ranges(len(spec.variants), coverage, weights))

    if isinstance(spec.ramp, HeldRamp):
        return ((0.0, ranges(spec.ramp.steps[-1])),)
    ramp = sorted((step.at.timestamp(), ranges(step.coverage)) for step in spec.ramp)
    return ((0.0, ranges(spec.coverage)), *ramp)


def _compile_held_steps(spec: ExperimentSpec) -> tuple[tuple[float, Ranges], ...]:
    """The coverage and ranges of each step of a held ramp; empty for another ramp."""
    if not isinstance(spec.ramp, HeldRamp):
        return ()
    return tuple((share, _compile_steps(replace(spec, ramp=[], coverage=share))[0][1]) for share in spec.ramp.steps)
