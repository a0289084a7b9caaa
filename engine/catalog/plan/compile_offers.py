"""Checked specs -> offers, how placements choose among them, and the moments that go before."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime

import numpy as np
from msgspec.structs import replace

from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.compile_policies import build_features, build_logged_features, build_prior
from engine.catalog.plan.limits import compile_limits
from engine.catalog.plan.offer_index import IndexedOffer, OfferIndex, build_offer_index
from engine.catalog.plan.plan import (
    FOREVER,
    Arbitration,
    ContextWeight,
    Moment,
    Offer,
    Reward,
    Selection,
)
from engine.catalog.spec.experiment import ExperimentSpec, PolicySpec, VariantSpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import MomentSpec, SelectionSpec, TaggedOffers
from engine.catalog.spec.segments import expand_segments


def compile_offer(specs: Specs, key: str, watched: Collection[str]) -> Offer:
    """An offer with its audience and limits; `watched` are the counters that any rule reads."""
    spec = specs.offers[key]
    spec = replace(spec, audience=expand_segments(spec.audience, specs.segments))
    matches = compile_condition(spec.audience) if spec.audience else None
    limits = compile_limits(specs, spec, watched)
    return Offer(key, spec, matches, _time(spec.start, 0.0), _time(spec.end, FOREVER), limits)


def compile_selection(specs: Specs, offers: Mapping[str, Offer], key: str) -> Selection:
    """How a placement's offers are chosen."""
    spec = specs.selections[key]
    return _chosen(specs, spec, key, spec.policy, None, offers)


def compile_variant_selection(
    specs: Specs, spec: ExperimentSpec, variant: VariantSpec, offers: Mapping[str, Offer]
) -> Selection | None:
    """How a variant with a policy or offers of its own chooses; None where it has neither."""
    if spec.placement is None or (variant.policy is None and variant.offers is None):
        return None
    base = next(selection for selection in specs.selections.values() if selection.placement == spec.placement)
    return _chosen(specs, base, f"{spec.key}.{variant.key}", variant.policy or base.policy, variant.offers, offers)


def _chosen(
    specs: Specs,
    spec: SelectionSpec,
    key: str,
    policy: PolicySpec,
    named: list[str] | TaggedOffers | None,
    offers: Mapping[str, Offer],
) -> Selection:
    named = spec.offers if named is None else named
    chosen = [offers[k] for k in named] if isinstance(named, list) else [o for o in offers.values() if _among(o, named)]
    features = build_features(specs, policy, spec.placement)
    arms = tuple(offer.key for offer in chosen)
    return Selection(
        key=key,
        placement=spec.placement,
        policy=policy,
        offers=tuple(chosen),
        arms=arms,
        features=features,
        logged_features=build_logged_features(specs, spec.placement),
        prior=build_prior(policy, features, {offer.key: offer.spec for offer in chosen}),
        reward=Reward(specs.metric(spec.reward.metric), seconds(spec.reward.window), seconds(spec.reward.settle)),
        fallback=offers[spec.fallback],
        index=_index(chosen),
        arbitration=_arbitration(specs, spec, chosen),
    )


def compile_moments(specs: Specs, offers: Mapping[str, Offer], channel: str, placement: str) -> tuple[Moment, ...]:
    """The moments of truth of a placement on a channel."""
    return tuple(
        _moment(specs, spec, [offers[key] for key in spec.offers])
        for spec in specs.moments.values()
        if placement in spec.placements and (spec.channels is None or channel in spec.channels)
    )


def _index(offers: Iterable[Offer]) -> OfferIndex:
    return build_offer_index(
        [
            IndexedOffer(
                offer.key,
                offer.spec.renderings,
                offer.start,
                offer.end,
                offer.spec.purpose,
                offer.spec.audience,
                offer.limits.read,
                offer.limits.pools,
            )
            for offer in offers
        ]
    )


def _moment(specs: Specs, spec: MomentSpec, offers: list[Offer]) -> Moment:
    return Moment(
        key=spec.key,
        spec=spec,
        matches=_matches(specs, spec.audience),
        trigger=_matches(specs, spec.trigger.when),
        window=seconds(spec.window),
        days=int(spec.window[:-1]) if spec.window.endswith("d") else 0,
        after=seconds(spec.trigger.after) if spec.trigger.after else 0.0,
        offers=tuple(offers),
        index=_index(offers),
        counter=f"{spec.once.event}|moment:{spec.key}" if spec.once else None,
    )


def _arbitration(specs: Specs, spec: SelectionSpec, offers: list[Offer]) -> Arbitration | None:
    wanted = spec.arbitration
    weights = tuple(
        ContextWeight(
            _matches(specs, weight.when),
            sum(1 << place for place, offer in enumerate(offers) if _among(offer, weight.offers)),
            weight.weight,
        )
        for weight in (spec.weights if wanted.context else [])
    )
    value = np.array([max(offer.spec.value, 0.0) for offer in offers]) if wanted.value else None
    lever = np.array([offer.spec.lever for offer in offers]) if wanted.lever else None
    if lever is not None and (lever == 1.0).all():
        lever = None
    if wanted.policy and not weights and value is None and lever is None:
        return None
    return Arbitration(wanted.policy, weights, value, lever)


def _among(offer: Offer, named: list[str] | TaggedOffers) -> bool:
    return offer.key in named if isinstance(named, list) else named.tagged in offer.spec.tags


def _time(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp()


def _matches(specs: Specs, condition: Mapping[str, object]) -> Predicate | None:
    return compile_condition(expand_segments(condition, specs.segments)) if condition else None
