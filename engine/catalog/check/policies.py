"""Checks policies: rewards that their model cannot learn from, and undefined groups and attributes."""

from collections.abc import Iterable, Iterator
from math import prod

import numpy as np

from engine.catalog.check.decode import FieldProblem, suggest_name
from engine.catalog.check.defined_names import DefinedNames
from engine.catalog.plan.compile_policies import CHANNEL, offer_attributes
from engine.catalog.plan.creatives import creatives_of
from engine.catalog.plan.features import PERIODS
from engine.catalog.spec.experiment import NOT_LEARNING, USUAL_FLOOR, FeatureSpec, PolicySpec
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import MetricSpec
from engine.catalog.spec.offer import OffersSpec, SelectionSpec
from engine.errors import Problem
from engine.metric_kinds import METRIC_KINDS
from policies import KINDS, make_policy

TIER, BOUNDED = "loyalty.tier", ("affinity.", "consent.")
"""Traits of the engine's own that have a value for everyone, with no extremes."""
MOST_GROUPS = 64
"""Each combination of groups has its own model, in every snapshot."""


def policy_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of the policies of placements and of experiments' variants."""
    for selection in specs.selections.values():
        for found in _check_policy(specs, selection, selection.policy, "policy", known):
            yield Problem(specs.files[selection.key], *found)
        for found in _check_floor(specs, selection.policy, selection.offers, "policy.floor"):
            yield Problem(specs.files[selection.key], *found)
        if selection.creatives is not None:
            for found in _check_policy(specs, selection, selection.creatives, "creatives", known):
                yield Problem(specs.files[selection.key], *found)
        for found in _check_creatives(specs, selection):
            yield Problem(specs.files[selection.key], *found)
    for experiment in specs.experiments.values():
        base = next((s for s in specs.selections.values() if s.placement == experiment.placement), None)
        for index, variant in enumerate(experiment.variants):
            if base is None:
                continue
            path = f"variants[{index}]"
            if variant.policy is not None:
                for found in _check_policy(specs, base, variant.policy, f"{path}.policy", known):
                    yield Problem(specs.files[experiment.key], *found)
            if variant.policy is not None or variant.offers is not None:
                policy, offers = variant.policy or base.policy, variant.offers or base.offers
                at = f"{path}.offers" if variant.policy is None else f"{path}.policy.floor"
                for found in _check_floor(specs, policy, offers, at):
                    yield Problem(specs.files[experiment.key], *found)


def find_open_features(specs: Specs) -> Iterator[Problem]:
    """Yield features that are plain numbers without a `range`: a rare extreme value or a missing one moves a model.

    A policy standardizes a number by its mean and deviation. One visitor in three hundred with a value a million times
    as large makes the deviation theirs, and a missing value counts as 0, however far that is from the others.
    """
    for file, path, policy in _every_policy(specs):
        for index, one in enumerate(policy.features):
            spec = FeatureSpec(trait=one) if isinstance(one, str) else one
            is_bounded = spec.trait in {*PERIODS, TIER} or spec.trait.startswith(BOUNDED)
            if KINDS[policy.kind].contextual and not (spec.range or spec.one_of or is_bounded):
                message = (
                    f"{spec.trait!r} has no `range`: one extreme value would set its scale, and a missing one counts "
                    f"as 0; write {{trait: {spec.trait}, range: [LOW, HIGH]}}, or `one_of` for texts, true and false"
                )
                yield Problem(file, f"{path}.features[{index}]", message)


def _every_policy(specs: Specs) -> Iterator[tuple[str, str, PolicySpec]]:
    """Yield each policy with its file and its path there."""
    for selection in specs.selections.values():
        yield specs.files[selection.key], "policy", selection.policy
        if selection.creatives is not None:
            yield specs.files[selection.key], "creatives", selection.creatives
    for experiment in specs.experiments.values():
        for index, variant in enumerate(experiment.variants):
            if variant.policy is not None:
                yield specs.files[experiment.key], f"variants[{index}].policy", variant.policy


def takes_amounts(kind: str) -> bool:
    """Whether a kind of policy learns from any finite reward, not only from [0, 1]."""
    try:
        make_policy(kind, ("a",), 1).check_rewards(np.array([2.0]))
    except ValueError:
        return False
    return True


def describe_exhausted_floor(policy: PolicySpec, offers: int) -> str:
    """The problem of a floor at or above an equal share, if this many offers may be shown."""
    return (
        f"{policy.floor:g} for each of {offers} offers is {policy.floor * offers:.3g} of 1, so each is shown "
        f"equally often whatever the policy learns; give a floor below 1/{offers}, such as {0.1 / offers:.1g}"
    )


def _check_floor(specs: Specs, policy: PolicySpec, named: list[str] | OffersSpec, path: str) -> Iterator[FieldProblem]:
    """Yield the problem of a floor that leaves no room to learn; the default floor only causes a warning.

    Of many offers that are named, a customer may have few.
    """
    offers = len(set(specs.named(named)))
    if policy.floor > USUAL_FLOOR and policy.floor * offers >= 1:
        yield path, describe_exhausted_floor(policy, offers)


def _check_creatives(specs: Specs, selection: SelectionSpec) -> Iterator[FieldProblem]:
    """Yield a policy of creatives without creatives, or with a floor that leaves it no choice."""
    named = set(specs.named(selection.offers))
    counts = [
        (len(one), offer.key)
        for offer in specs.every_offer()
        if offer.key in named
        for one in offer.renderings.values()
        if isinstance(one, list)
    ]
    policy = selection.creatives or selection.policy
    most, offer_key = max(counts, default=(0, ""))
    if selection.creatives is not None and not counts and specs.named(selection.offers):
        yield "creatives", "no offer of the placement has several renderings on a channel; remove it"
    elif policy.floor > USUAL_FLOOR and most > 1 and policy.floor * most >= 1:
        path = "policy.floor" if selection.creatives is None else "creatives.floor"
        yield path, f"{offer_key} has {most} creatives on a channel, and {describe_exhausted_floor(policy, most)}"


def _check_policy(
    specs: Specs, selection: SelectionSpec, policy: PolicySpec, path: str, known: DefinedNames
) -> Iterator[FieldProblem]:
    """Yield the problems of one policy at a placement, except those of its floor."""
    metric = next((one for one in specs.metrics.metrics if one.key == selection.reward.metric), None)
    if metric is not None:
        yield from check_reward(policy, metric, path)
    contextual = KINDS[policy.kind].contextual
    for name, given in (("pool", policy.pool), ("attributes", policy.attributes)):
        if given and not contextual:
            kinds = ", ".join(kind for kind, made in KINDS.items() if made.contextual)
            yield f"{path}.{name}", f"{policy.kind} reads no attributes or groups; use one of {kinds}"
    yield from _check_pool(specs, selection, policy, f"{path}.pool")
    if known.has_all_offers and not any(items.error for items in specs.feeds.values()):
        yield from _check_attributes(specs, policy, f"{path}.attributes")


def check_reward(policy: PolicySpec, metric: MetricSpec, path: str) -> Iterator[FieldProblem]:
    """Yield the problem of a reward outside [0, 1] for a policy that learns from successes."""
    kind = METRIC_KINDS[metric.kind]
    if kind.needs_history or kind.rewards_are_counts or takes_amounts(policy.kind):
        return
    able = ", ".join(kind for kind in KINDS if kind != NOT_LEARNING and takes_amounts(kind))
    rule = f"{policy.kind!r} learns from rewards between 0 and 1, and {metric.key!r} is of kind {metric.kind}"
    yield f"{path}.kind", f"{rule}; use one of {able}, or reward a metric of kind proportion"


def _check_pool(specs: Specs, selection: SelectionSpec, policy: PolicySpec, path: str) -> Iterator[FieldProblem]:
    """Yield undefined groups, and a pool with too many combinations."""
    segments = [key for key, segment in specs.segments.items() if segment.condition is not None]
    sizes: list[int] = []
    for index, pooled in enumerate(policy.pool):
        at = f"{path}[{index}]"
        if isinstance(pooled, FeatureSpec):
            if pooled.one_of is None:
                yield at, f"{pooled.trait!r} has no list of values; add one_of, one value per group"
            sizes.append(len(pooled.one_of or ()))
        elif pooled == CHANNEL:
            on = next((p.channels for p in specs.channels.placements if p.key == selection.placement), [])
            sizes.append(len(on))
        else:
            sizes.append(2)
            if pooled not in segments:
                remedy = suggest_name(pooled, [CHANNEL, *segments])
                yield at, f"{pooled!r} is neither 'channel' nor a segment; {remedy}, or give a trait with one_of"
    if policy.pool and prod(sizes) > MOST_GROUPS:
        yield path, f"makes {prod(sizes)} groups, {MOST_GROUPS} at most; remove the finest"


def _check_attributes(specs: Specs, policy: PolicySpec, path: str) -> Iterator[FieldProblem]:
    """Yield attributes that no offer has, and text attributes that are read as numbers."""
    known = set[str]()
    for offer in specs.every_offer():
        for one in (offer, *creatives_of(offer).values()):
            known.update(offer_attributes(one).keys() - {"tags"}, (f"tags.{tag}" for tag in offer.tags))
    for index, attribute in enumerate(policy.attributes):
        name = attribute if isinstance(attribute, str) else attribute.trait
        if name not in known:
            yield f"{path}[{index}]", f"no offer has {name!r}; {suggest_name(name, sorted(known))}"
        elif isinstance(attribute, str) and (text := _find_text(specs, name)) is not None:
            yield f"{path}[{index}]", f"{name!r} is text ({text!r}), not a number; give its values as one_of"


def _find_text(specs: Specs, name: str) -> str | None:
    """A text that an offer has as this attribute; None if all are numbers."""
    every = (one for offer in specs.every_offer() for one in (offer, *creatives_of(offer).values()))
    values: Iterable[object] = (one.attributes.get(name) for one in every)
    return next((value for value in values if isinstance(value, str)), None)
