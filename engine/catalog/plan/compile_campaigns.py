"""Compiles campaigns: each arm, a channel at an hour or silence, becomes an offer of the campaign's selection.

So the policy, its propensities, the log, the learner, `explain` and the reports treat a campaign as a placement.
"""

from collections.abc import Iterator

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.plan.compile_offers import index_offers, to_timestamp
from engine.catalog.plan.compile_policies import build_features, build_prior
from engine.catalog.plan.limits import Limits
from engine.catalog.plan.plan import FOREVER, Campaign, CampaignArm, Offer, Reward, Selection
from engine.catalog.spec.fields import count_and_seconds, seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import WEEKDAYS, CampaignSpec, OfferSpec
from engine.catalog.spec.segments import expand_segments
from engine.vocabulary import CAMPAIGN_CHANNEL, SILENCE

_UNLIMITED = Limits(
    caps={}, exposed={}, names=(), feedback_events=frozenset(), suppression=None, stock=None, budget=None
)


def compile_campaign(specs: Specs, key: str) -> Campaign:
    """One campaign with its arms; silence is the last arm."""
    spec = specs.campaigns[key]
    arms = tuple(_list_arms(spec))
    offers = (*(_compile_arm(specs, spec, arm) for arm in arms), _compile_silence())
    features = build_features(specs, spec.policy, key)
    selection = Selection(
        key=f"{key}{specs.policy_suffix}",
        placement=key,
        policy=spec.policy,
        offers=offers,
        arms=tuple(offer.key for offer in offers),
        features=features,
        logged_features=features,
        prior=build_prior(spec.policy, features, {offer.key: offer.spec for offer in offers}),
        reward=Reward(
            metric=specs.metric(spec.reward.metric),
            window=seconds(spec.reward.window),
            settle=seconds(spec.reward.settle),
        ),
        fallback=offers[-1],
        index=index_offers(offers),
        arbitration=None,
    )
    audience = expand_segments(spec.audience, specs.segments)
    return Campaign(
        key=key,
        spec=spec,
        selection=selection,
        arms={arm.key: arm for arm in arms},
        matches=compile_condition(audience) if audience else None,
        days=frozenset(WEEKDAYS.index(day) for day in spec.schedule.days),
        start=to_timestamp(spec.start, 0.0),
        end=to_timestamp(spec.end, FOREVER),
    )


def compile_capacities(specs: Specs) -> dict[str, tuple[int, float]]:
    """The capacity of each channel that has one: a number per seconds."""
    return {channel.key: count_and_seconds(channel.capacity) for channel in specs.channels.channels if channel.capacity}


def _list_arms(spec: CampaignSpec) -> Iterator[CampaignArm]:
    """Yield the arms by channel and hour, in order; an hour lasts until the next."""
    times = [int(text[:2]) * 60 + int(text[3:]) for text in spec.schedule.at]
    for reach in spec.channels:
        for text, begin, end in zip(spec.schedule.at, times, (*times[1:], 24 * 60), strict=True):
            yield CampaignArm(
                key=f"{reach.channel}@{text}",
                channel=reach.channel,
                placement=reach.placement,
                begin=begin,
                end=end,
            )


def _compile_arm(specs: Specs, spec: CampaignSpec, arm: CampaignArm) -> Offer:
    """An arm as an offer; its audience combines the campaign's and the channel's."""
    when = next(reach.when for reach in spec.channels if reach.channel == arm.channel)
    conditions = [expand_segments(part, specs.segments) for part in (spec.audience, when) if part]
    audience: dict[str, object] = {"$and": conditions} if conditions else {}
    rendering: dict[str, object] = {"channel": arm.channel, "placement": arm.placement, "at": arm.key.partition("@")[2]}
    return _compile_offer(
        OfferSpec(key=arm.key, audience=audience, purpose=spec.purpose, renderings={CAMPAIGN_CHANNEL: rendering})
    )


def _compile_silence() -> Offer:
    return _compile_offer(OfferSpec(key=SILENCE, renderings={CAMPAIGN_CHANNEL: {}}))


def _compile_offer(spec: OfferSpec) -> Offer:
    return Offer(
        key=spec.key,
        spec=spec,
        start=0.0,
        end=FOREVER,
        limits=_UNLIMITED,
    )
