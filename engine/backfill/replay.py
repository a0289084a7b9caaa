"""A customer's traits from their events, by the reducers, merges and bounds of live profiles only."""

from collections.abc import Collection, Iterable
from typing import Final

from msgspec.structs import replace

from engine.backfill.logged_events import LoggedEvent
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Order, Profile, Scalar
from engine.customers.model.archive import join_profile, split_profile
from engine.customers.model.computed.series import extend_traits
from engine.customers.model.events import Event
from engine.customers.model.orders import ORDER_FIELDS
from engine.customers.model.reducers import apply_order
from engine.customers.redis.counted import message_digest

TRACK: Final = "track"
IN_FLIGHT: Final = 3600.0
"""Seconds after which an event of the log that no profile counted never will be by the request that brought it."""


def replay_events(events: Iterable[LoggedEvent], rules: ProfileRules) -> Profile:
    """A profile with the orders and series of these events, in their order of arrival; all of its orders are in it."""
    profile = Profile(id="", unit="", version=1)
    archived: dict[str, Order] = {}
    facts: dict[str, dict[str, Scalar]] = {}
    for logged in events:
        profile = replace(profile, updated=max(profile.updated, logged.time))
        if logged.properties is None:
            continue
        event = Event(type=TRACK, message_id=logged.message_id, event=logged.event, properties=logged.properties)
        profile = join_profile(profile, archived, facts)
        archived, facts = {}, {}
        if ordered := apply_order(profile, event, logged.time, rules):
            profile = replace(profile, **{name: value for name, value in ordered.items() if name in ORDER_FIELDS})
        profile = replace(profile, **extend_traits(profile, event, logged.time, rules))
        if len(profile.orders) > rules.orders_limit:
            profile, parts = split_profile(profile, rules)
            archived, facts = parts.orders, dict(parts.facts)
    return join_profile(profile, archived, facts)


def counted_events(events: Iterable[LoggedEvent], marks: Collection[bytes], now: float) -> list[LoggedEvent]:
    """The events that a profile with these digests of messages counts, each once.

    An event in the log whose request has not written the profile yet is left out: that write will count it.
    """
    found: dict[bytes, LoggedEvent] = {}
    for event in events:
        mark = message_digest(event.message_id)
        if mark in marks or event.received < now - IN_FLIGHT:
            found.setdefault(mark, event)
    return list(found.values())


def with_traits(profile: Profile, replayed: Profile, rules: ProfileRules) -> Profile:
    """The stored profile, with all its orders, and the series and facts of the replayed one.

    An order that the store has lost is added to the series: it was placed all the same. Series that the plan does not
    define are dropped.
    """
    lost = {key: order for key, order in replayed.orders.items() if key not in profile.orders}
    series = rules.computed.fold_orders(replayed.series, lost, replayed.order_facts)
    facts = {
        key: known
        for key in profile.orders
        if (known := replayed.order_facts.get(key) if key in replayed.orders else profile.order_facts.get(key))
    }
    return replace(profile, series=series, order_facts=facts)
