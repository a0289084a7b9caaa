"""Compiles policy specs to the features that a policy reads, and to its prior."""

from collections.abc import Iterator, Mapping

from engine.catalog.conditions.compile import compile_condition, condition_fields
from engine.catalog.plan.features import Featurizer, PoolGroup
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import OfferSpec, SelectionSpec
from engine.catalog.spec.segments import expand_segments
from policies import KINDS, Bandit, make_policy
from policies.state import Parameter

CHANNEL = "channel"


def build_features(specs: Specs, policy: PolicySpec, placement: str) -> Featurizer:
    """The features that a policy reads of a customer and a request at a placement."""
    groups = [_compile_group(specs, pooled, placement) for pooled in policy.pool]
    return Featurizer(policy.features, groups, constant=KINDS[policy.kind].contextual)


def build_logged_features(specs: Specs, placement: str) -> Featurizer:
    """The features that any policy of a placement reads, and the traits of its context weights.

    Policies of experiments' variants are among them. So each policy can be evaluated on the choices of all.
    """
    each = [build_features(specs, policy, placement) for policy in _policies_at(specs, placement)]
    features_of = (spec.trait for features in each for spec in features.specs)
    here = (spec for spec in specs.selections.values() if spec.placement == placement)
    traits = list(
        dict.fromkeys((*features_of, *(name for spec in here for name in sorted(weighed_traits(specs, spec)))))
    )
    groups = {group.name: group for features in each for group in features.groups}
    return Featurizer(traits, list(groups.values()))


def weighed_traits(specs: Specs, spec: SelectionSpec) -> frozenset[str]:
    """The traits that the conditions of a selection's context weights read, as dotted paths."""
    conditions = (expand_segments(weight.when, specs.segments) for weight in spec.weights if spec.arbitration.context)
    return frozenset(name for condition in conditions for name in condition_fields(condition))


def build_prior(policy: PolicySpec, features: Featurizer, offers: Mapping[str, OfferSpec]) -> Bandit:
    """The policy over these arms (offers or creatives), before any observation."""
    parameters: dict[str, Parameter] = {"floor": policy.floor, "discount": policy.discount}
    if features.pool:
        parameters["pool"] = features.pool
    if policy.attributes:
        parameters["traits"] = offer_traits(policy, offers)
    return make_policy(policy.kind, tuple(offers), features.dim, **parameters)


def offer_traits(policy: PolicySpec, offers: Mapping[str, OfferSpec]) -> dict[str, tuple[float, ...]]:
    """The attributes of each arm's offer as numbers; the first is 1, for what all offers share."""
    features = Featurizer(policy.attributes)
    return {
        arm: tuple(features.vector(features.read(offer_attributes(offer))).tolist()) for arm, offer in offers.items()
    }


def offer_attributes(offer: OfferSpec) -> dict[str, object]:
    """The attributes of an offer that a policy may read: its own, its value, and true for each tag."""
    return {"value": offer.value, **offer.attributes, "tags": dict.fromkeys(offer.tags, True)}


def _compile_group(specs: Specs, pooled: str | FeatureSpec, placement: str) -> PoolGroup:
    """One entry of `pool`: a trait with its values, the channels of the placement, or a segment."""
    if isinstance(pooled, FeatureSpec):
        return PoolGroup(pooled.trait, tuple(pooled.one_of or ()))
    if pooled == CHANNEL:
        return PoolGroup(CHANNEL, tuple(next(p.channels for p in specs.channels.placements if p.key == placement)))
    condition = specs.segments[pooled].condition or {}
    return PoolGroup(f"segment {pooled}", (True, False), compile_condition(expand_segments(condition, specs.segments)))


def _policies_at(specs: Specs, placement: str) -> Iterator[PolicySpec]:
    """Yield the placement's policy and those of experiments' variants there, except drafts."""
    own = [spec for spec in specs.selections.values() if spec.placement == placement]
    yield from (policy for spec in own for policy in (spec.policy, spec.creatives) if policy is not None)
    for experiment in specs.experiments.values():
        if experiment.placement == placement and experiment.status != "draft":
            yield from (variant.policy for variant in experiment.variants if variant.policy is not None)
