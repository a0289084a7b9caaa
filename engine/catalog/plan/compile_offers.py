"""Compiles checked specs to offers, the selections of placements, and the moments that precede them."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.arbitration import Arbitration, ContextWeight
from engine.catalog.plan.compile_policies import build_features, build_logged_features, build_prior, weighed_traits
from engine.catalog.plan.compile_traits import begins, cancels, compile_trigger
from engine.catalog.plan.creatives import CREATIVES, compile_creatives, creative_arm, creatives_of
from engine.catalog.plan.indexing.offer_index import IndexedOffer, OfferIndex, build_offer_index
from engine.catalog.plan.languages import Rendering, split_languages
from engine.catalog.plan.limits import compile_limits, events_by_scope
from engine.catalog.plan.plan import (
    FOREVER,
    Moment,
    Offer,
    Reward,
    Selection,
)
from engine.catalog.spec.experiment import ExperimentSpec, PolicySpec, VariantSpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import MomentSpec, OfferSpec, SelectionSpec, TaggedOffers
from engine.catalog.spec.segments import expand_segments

SPARED = "spared"
"""The name under which the index has the offers that the shop's `suppress` leaves open."""


def compile_offers(specs: Specs, watched: Collection[str]) -> dict[str, Offer]:
    """The offers of the folder and of its feeds, with audiences and limits.

    Args:
        specs: the shop's specs.
        watched: the counters that any rule of the shop reads; see `watched_counters`.
    """
    by_scope, silence = events_by_scope(watched), specs.channels.suppress
    groups: dict[str, set[str]] = {}
    for offer in specs.offers.values():
        for group in offer.exclusive:
            groups.setdefault(group, set()).add(offer.key)
    return {
        spec.key: Offer(
            key=spec.key,
            spec=spec,
            start=to_timestamp(spec.start, 0.0),
            end=to_timestamp(spec.end, FOREVER),
            limits=compile_limits(specs, spec, watched, by_scope),
            excluded_by=frozenset(key for group in spec.exclusive for key in groups[group] if key != spec.key),
            is_spared=silence is None or not {spec.key, *spec.tags}.isdisjoint(silence.spared),
            languages=_compile_languages(spec),
            creatives=compile_creatives(spec.renderings),
        )
        for spec in _expanded(specs)
    }


def _compile_languages(spec: OfferSpec) -> dict[str, Mapping[str, Rendering]]:
    """The renderings by language, for each channel whose single rendering is by language."""
    plain = {channel: one for channel, one in spec.renderings.items() if not isinstance(one, list)}
    return {channel: spoken for channel, one in plain.items() if (spoken := split_languages(one))}


def _expanded(specs: Specs) -> Iterator[OfferSpec]:
    """Yield every offer with its audience's segments expanded, as feeds have them already."""
    for spec in specs.offers.values():
        yield replace(spec, audience=expand_segments(spec.audience, specs.segments))
    for items in specs.feeds.values():
        yield from items.offers.values()


def compile_selection(specs: Specs, offers: Mapping[str, Offer], key: str) -> Selection:
    """The selection of one placement."""
    return _compile_choice(specs, specs.selections[key], None, key, offers)


def compile_variant_selection(
    specs: Specs, spec: ExperimentSpec, variant: VariantSpec, offers: Mapping[str, Offer]
) -> Selection | None:
    """The selection of a variant with its own policy or offers; None if it has neither."""
    if spec.placement is None or (variant.policy is None and variant.offers is None):
        return None
    base = next(selection for selection in specs.selections.values() if selection.placement == spec.placement)
    return _compile_choice(specs, base, variant, f"{spec.key}.{variant.key}", offers)


def _compile_choice(
    specs: Specs, spec: SelectionSpec, override: VariantSpec | None, key: str, offers: Mapping[str, Offer]
) -> Selection:
    """The selection of a placement, with the policy and offers of `override` instead of its own."""
    policy, named = spec.policy, spec.offers
    if override is not None:
        policy = override.policy or policy
        named = named if override.offers is None else override.offers
    if isinstance(named, list):
        # A list sets the order of the arms; a tag leaves them in the order of the files.
        chosen = [offers[offer] for offer in named]
    elif named.feed is not None:
        chosen = [offers[offer] for offer in specs.items_of(named)]
    else:
        chosen = [offer for offer in offers.values() if named.tagged in offer.spec.tags]
    features = build_features(specs, policy, spec.placement)
    selection = Selection(
        key=f"{key}{specs.policy_suffix}",
        placement=spec.placement,
        policy=policy,
        offers=tuple(chosen),
        arms=tuple(offer.key for offer in chosen),
        features=features,
        logged_features=build_logged_features(specs, spec.placement),
        prior=build_prior(policy, features, {offer.key: offer.spec for offer in chosen}),
        reward=Reward(
            metric=specs.metric(spec.reward.metric),
            window=seconds(spec.reward.window),
            settle=seconds(spec.reward.settle),
            examination=None if spec.reward.examination == "learnt" else tuple(spec.reward.examination),
        ),
        fallback=offers[spec.fallback],
        index=index_offers(chosen),
        arbitration=_compile_arbitration(specs, spec, chosen),
        count=list_length(specs, spec),
        is_whole=spec.claims == "all",
        silence=spec.silence,
    )
    return dataclasses.replace(selection, creatives=_compile_creatives(specs, spec.creatives or policy, selection))


def _compile_creatives(specs: Specs, policy: PolicySpec, selection: Selection) -> Selection | None:
    """The selection of a placement's creatives; None if no offer has creatives."""
    arms = {
        creative_arm(offer.key, key): spec
        for offer in selection.offers
        if offer.creatives
        for key, spec in creatives_of(offer.spec).items()
    }
    if not arms:
        return None
    features = build_features(specs, policy, selection.placement)
    at = {arm: place for place, arm in enumerate(arms)}
    return dataclasses.replace(
        selection,
        key=selection.key + CREATIVES,
        policy=policy,
        offers=(),
        arms=tuple(arms),
        features=features,
        prior=build_prior(policy, features, arms),
        arbitration=None,
        silence=0.0,
        places={
            (offer.key, channel): np.array([at[creative_arm(offer.key, one.key)] for one in creatives])
            for offer in selection.offers
            for channel, creatives in offer.creatives.items()
        },
    )


def list_length(specs: Specs, spec: SelectionSpec) -> int:
    """The number of offers that a selection shows: its own `count`, or else its placement's."""
    if spec.count is not None:
        return spec.count
    return next((place.count for place in specs.channels.placements if place.key == spec.placement), 1)


def silencing_condition(specs: Specs) -> Mapping[str, object]:
    """The condition of the shop's `suppress`; empty without `suppress`."""
    silence = specs.channels.suppress
    if silence is None:
        return {}
    if not isinstance(silence.when, str):
        return silence.when
    return {"$segment": silence.when} if silence.when in specs.segments else {silence.when: True}


def compile_moments(specs: Specs, offers: Mapping[str, Offer], channel: str, placement: str) -> tuple[Moment, ...]:
    """The moments of truth of a placement on a channel, in file order."""
    return tuple(
        _compile_moment(specs, spec, [offers[key] for key in spec.offers])
        for spec in specs.moments.values()
        if placement in spec.placements and (spec.channels is None or channel in spec.channels)
    )


def compile_audience(specs: Specs, condition: Mapping[str, object]) -> Predicate | None:
    """The predicate of a condition with segments expanded; None for the empty one, which matches everyone."""
    return compile_condition(expand_segments(condition, specs.segments)) if condition else None


def to_timestamp(time: datetime | None, default: float) -> float:
    """The time in seconds since 1970, or `default` for a missing one."""
    return default if time is None else time.timestamp()


def index_offers(offers: Iterable[Offer]) -> OfferIndex:
    """The index of offers, in the given order."""
    return build_offer_index(
        [
            IndexedOffer(
                key=offer.key,
                start=offer.start,
                end=offer.end,
                audience=offer.spec.audience,
                names=_names_for_gates(offer),
            )
            for offer in offers
        ]
    )


def _names_for_gates(offer: Offer) -> dict[str, Iterable[str]]:
    """The names of an offer that gates look up, by the kind of name for `OfferIndex.named`."""
    purpose = offer.spec.purpose
    return {
        "channel": offer.spec.renderings,
        "purpose": () if purpose is None else (purpose,),
        "counter": offer.limits.read,
        "pool": offer.limits.pools,
        "excluded_by": offer.excluded_by,
        "spared": (SPARED,) if offer.is_spared else (),
        "shelf": () if offer.limits.shelf_sku is None else (offer.limits.shelf_sku,),
        "hand_over": () if offer.limits.hand_over is None else (offer.limits.hand_over.name,),
    }


def _compile_moment(specs: Specs, spec: MomentSpec, offers: list[Offer]) -> Moment:
    """One moment of truth with its offers in order of precedence."""
    return Moment(
        key=spec.key,
        spec=spec,
        matches=compile_audience(specs, spec.audience),
        trigger=compile_audience(specs, spec.trigger.when),
        window=seconds(spec.window),
        days=int(spec.window[:-1]) if spec.window.endswith("d") else 0,
        after=seconds(spec.trigger.after) if spec.trigger.after else 0.0,
        offers=tuple(offers),
        index=index_offers(offers),
        counter=f"{spec.once.event}|moment:{spec.key}" if spec.once else None,
        occurred=compile_trigger(specs, spec.trigger),
        begun_by=begins(spec.trigger),
        cancelled_by=cancels(spec.trigger),
    )


def _compile_arbitration(specs: Specs, spec: SelectionSpec, offers: list[Offer]) -> Arbitration | None:
    """The `arbitration` factors that can change a probability; None if there are none."""
    factors = spec.arbitration
    weights = tuple(
        ContextWeight(
            matches=compile_audience(specs, weight.when),
            bits=sum(1 << place for place, offer in enumerate(offers) if _is_named(offer, weight.offers)),
            weight=weight.weight,
        )
        for weight in (spec.weights if factors.context else [])
    )
    value = np.array([max(offer.spec.value, 0.0) for offer in offers]) if factors.value else None
    lever = np.array([offer.spec.lever for offer in offers]) if factors.lever else None
    if lever is not None and (lever == 1.0).all():
        lever = None
    if factors.policy and not weights and value is None and lever is None:
        return None
    reads = weighed_traits(specs, spec) if weights else frozenset()
    return Arbitration(policy=factors.policy, weights=weights, value=value, lever=lever, reads=reads)


def _is_named(offer: Offer, named: list[str] | TaggedOffers) -> bool:
    """Whether an offer list or a tag selects the offer."""
    return offer.key in named if isinstance(named, list) else named.tagged in offer.spec.tags
