"""Joins today's plan with the archived plans that frozen holdouts keep, under today's limits.

The archived plan decides: its experiments, flags, moments, policies, audiences and renderings. What protects customers
and stocks is today's: an offer has the caps of both plans, today's stock, budget, purpose and dates where it is still
in the folder, and channels have today's caps. The items of a feed are today's rows, as nothing else can be bought.
A fallback of before that is limited by now gives way to today's (`decision.experiments.kept_selection_at`).

Its policies learn apart from today's, under keys of their own (`home_hero~q4`), from the held-out customers alone. Both
plans read one profile, so a trait of both is defined as today; counters and traits are the union of both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import msgspec

from engine.catalog.plan.limits import Limits, watched_counters
from engine.catalog.plan.plan import Offer, Plan
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.offer import ChannelsFile, OfferSpec
from engine.catalog.spec.traits import TraitsFile
from engine.catalog.spec.units import UnitsFile
from engine.vocabulary import KEPT_MARK


def with_kept_reads(specs: Specs) -> Specs:
    """The specs with the traits and units that only their kept plans define, so that those are computed."""
    if not specs.kept:
        return specs
    traits, units = dict(specs.traits.traits), dict(specs.units.units)
    for archived in _all_kept(specs):
        traits = {**archived.traits.traits, **traits}
        units = {**archived.units.units, **units}
    return replace(specs, traits=TraitsFile(traits=traits), units=UnitsFile(units=units))


def every_counter(specs: Specs, today: Specs) -> dict[str, int]:
    """The counters that a plan or its kept plans read, each with the highest count compared."""
    watched = watched_counters(specs)
    for archived in limited_plans(specs, today).values():
        for counter, count in every_counter(archived, today).items():
            watched[counter] = max(count, watched.get(counter, 0))
    return watched


def limited_plans(specs: Specs, today: Specs) -> dict[str, Specs]:
    """The archived plan of each frozen holdout of `specs`, by the holdout's key, under the limits of `today`."""
    return {
        holdout.key: _limit_plan(today, specs.kept[holdout.keeps], f"{KEPT_MARK}{holdout.key}{specs.policy_suffix}")
        for holdout in specs.layers.holdouts
        if holdout.keeps is not None
    }


def join_kept(plan: Plan, kept: Mapping[str, Plan]) -> Plan:
    """The plan with each frozen holdout's archived plan, and the counters that their decisions need."""
    plans = kept.values()
    holdouts = {key: replace(holdout, kept=kept.get(key)) for key, holdout in plan.holdouts.items()}
    return replace(
        plan,
        holdouts=holdouts,
        frozen=tuple(holdout for holdout in holdouts.values() if holdout.kept is not None),
        policies={key: one for each in (plan, *plans) for key, one in each.policies.items()},
        offers=_join_offers(plan, kept),
        zoned=plan.zoned.union(*(one.zoned for one in plans)),
        feedback_events=plan.feedback_events.union(*(one.feedback_events for one in plans)),
        audience_names=plan.audience_names.union(*(one.audience_names for one in plans)),
        read_names=plan.read_names.union(*(one.read_names for one in plans)),
        rules=msgspec.structs.replace(
            plan.rules,
            watched_events=plan.rules.watched_events.union(*(one.rules.watched_events for one in plans)),
            amounts=plan.rules.amounts.union(*(one.rules.amounts for one in plans)),
        ),
    )


def _all_kept(specs: Specs) -> Iterator[Specs]:
    """Yield the plans that a plan keeps, and those kept by them."""
    for archived in specs.kept.values():
        yield archived
        yield from _all_kept(archived)


def _limit_plan(today: Specs, archived: Specs, suffix: str) -> Specs:
    """An archived plan's specs under today's limits; `suffix` distinguishes its policies from today's."""
    current = {offer.key: offer for offer in today.every_offer()}
    return replace(
        archived,
        version=today.version,
        channels=_limit_channels(today.channels, archived.channels),
        offers={key: _limit_offer(current.get(key), offer) for key, offer in archived.offers.items()},
        feeds={
            name: replace(items, offers={key: current[key] for key in items.offers if key in current})
            for name, items in archived.feeds.items()
        },
        budgets={**archived.budgets, **today.budgets},
        traits=today.traits,
        units=today.units,
        customers=today.customers,
        places=today.places,
        policy_suffix=suffix,
    )


def _limit_channels(today: ChannelsFile, archived: ChannelsFile) -> ChannelsFile:
    """The archived channels with today's caps added, today's silence and today's stacking."""
    caps = {channel.key: channel.caps for channel in today.channels}
    channels = [
        msgspec.structs.replace(one, caps=[*one.caps, *(cap for cap in caps.get(one.key, []) if cap not in one.caps)])
        for one in archived.channels
    ]
    return msgspec.structs.replace(archived, channels=channels, suppress=today.suppress, stacking=today.stacking)


def _limit_offer(today: OfferSpec | None, archived: OfferSpec) -> OfferSpec:
    """An archived offer under today's limits; one that no longer exists keeps its own."""
    if today is None:
        return archived
    starts = [time for time in (today.start, archived.start) if time is not None]
    ends = [time for time in (today.end, archived.end) if time is not None]
    # A cap on a tag without a name means the offer's first, and that may be another one by now.
    tag = today.tags[0] if today.tags else None
    caps = [msgspec.structs.replace(cap, tag=cap.tag or tag) if cap.scope == "tag" else cap for cap in today.caps]
    return msgspec.structs.replace(
        archived,
        purpose=today.purpose or archived.purpose,
        caps=[*archived.caps, *(cap for cap in caps if cap not in archived.caps)],
        suppress=today.suppress or archived.suppress,
        stock=today.stock or archived.stock,
        budget=today.budget or archived.budget,
        coupons=today.coupons or archived.coupons,
        start=max(starts, default=None),
        end=min(ends, default=None),
    )


def _join_offers(plan: Plan, kept: Mapping[str, Plan]) -> dict[str, Offer]:
    """Today's offers and those of kept plans only; an outcome counts under both names."""
    found = dict(plan.offers)
    for one in kept.values():
        for key, offer in one.offers.items():
            known = found.get(key)
            found[key] = offer if known is None else replace(known, limits=_join_limits(known, offer))
    return found


def _join_limits(today: Offer, kept: Offer) -> Limits:
    """Today's limits, with the names and events under which the kept plan counts the offer."""
    one, other = today.limits, kept.limits
    return replace(
        one,
        names=tuple(dict.fromkeys((*one.names, *other.names))),
        feedback_events=one.feedback_events | other.feedback_events,
    )
