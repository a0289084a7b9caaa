"""Event reducers: pure functions from a profile and an event to changed fields, one per family of events.

Reducers commute: the same events give the same profile in any order of arrival. A reducer reads an event's name and
properties, not its sender: a purchase changes orders, points and affinities and ends the cart; any event may carry
`category`, `cart`, `step` or `conversation`.

`FAMILIES`, at the end, is the registry: a family has its events, its `apply`, its `merge` for two profiles that are one
customer, and the profile fields that both may change. `apply_event` and `merge_profiles` read nothing else.
"""

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import COMPLAINT_FIELD, Consent, JourneyItem, Order, Profile, SurveyAnswer, Trait
from engine.customers.model.affinity import add_decayed, grow_affinity
from engine.customers.model.complaints import merge_complaints, record_complaint
from engine.customers.model.computed.series import extend_traits, merge_computed
from engine.customers.model.consent_sums import (
    link_sources,
    merge_consents,
    merge_traits,
    names_several,
    record_consent,
    record_summed_trait,
    source_tags,
)
from engine.customers.model.events import EARLIEST, FOREVER, MOST, Event, customer_ids, parse_time
from engine.customers.model.orders import ORDER_FIELDS, award_points, merge_orders, place_order, refund_order
from engine.customers.model.traits import CONSENT, flatten_traits, record_trait
from engine.customers.model.visits import extend_visits, merge_visits
from engine.orders import order_id, refund_amount
from engine.vocabulary import (
    CAMPAIGN,
    CAMPAIGN_CONTEXT,
    CART_CLEARED,
    CART_UPDATED,
    COMPLAINTS,
    CONSENTS,
    CONVERSATION_CLOSED,
    DAY,
    POINTS_REDEEMED,
    PURCHASES,
    QUESTIONS,
    REFUNDS,
)

JOURNEY_BYTES = 8192
"""Most bytes of a cart, step or conversation in msgpack. Of a larger one `too_large` stands in its place, so that no
channel resumes with the one before it."""
NAMES = 100
CHANNELS = 50
"""Most channels of a profile: a channel in an event is any text."""

Time = TypeVar("Time", int, float)
ProfileChanges = Mapping[str, object]
Reducer = Callable[[Profile, Event, float, ProfileRules], ProfileChanges]
Merger = Callable[[Profile, Profile, ProfileRules], ProfileChanges]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFamily:
    """Events that change the same `fields` of a profile.

    Attributes:
        fields: the fields that `apply` and `merge` may change; no other family may.
        apply: the reducer; it returns the changed fields after an event at a time (s since 1970).
        merge: returns the fields of a merged customer from target and source; the `links` of the target are merged.
        events: names of the track events that it reads; None: all, since their properties decide.
        identify: whether it reads identify events.
    """

    fields: tuple[str, ...]
    apply: Reducer
    merge: Merger
    events: Container[str] | None = None
    identify: bool = False

    def takes(self, event: Event) -> bool:
        """Whether `apply` reads the event."""
        if event.type == "track":
            return self.events is None or event.event in self.events
        return event.type == "identify" and self.identify


def apply_event(profile: Profile, event: Event, time: float, rules: ProfileRules) -> Profile:
    """Returns the profile after `event` at `time` (s since 1970). The caller has ruled out duplicates."""
    ids = customer_ids(event)
    if names_several(ids):
        profile = link_sources(profile, source_tags(ids), time)
    for family in FAMILIES:
        if family.takes(event) and (changes := family.apply(profile, event, time, rules)):
            profile = replace(profile, **changes)
    return replace(profile, created=min(profile.created or time, time), updated=max(profile.updated, time))


def apply_traits(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Applies the traits of an identify.

    A boolean with the prefix `CONSENT` is a consent, and what `traits.yaml` defines is computed and never stated.
    """
    source, by = event.channel or "", _by(event)
    for name, value in flatten_traits(event.traits).items():
        if (name.startswith(CONSENT) and isinstance(value, bool)) or name in rules.computed.names:
            continue
        statement = Trait(value, time, source, event.user_id is not None)
        if rules.merge.get(name) == "sum" and (name in profile.traits or len(profile.traits) < rules.traits_limit):
            profile = record_summed_trait(profile, name, by, statement)
        else:
            profile = replace(profile, traits=record_trait(profile.traits, name, statement, rules))
    return {"traits": profile.traits, "trait_statements": profile.trait_statements}


def record_activity(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Updates visits, channels, and the last time of each kind of event."""
    changes: dict[str, object] = {}
    if event.event and len(event.event) <= NAMES:
        recent = profile.recent | {event.event: max(time, profile.recent.get(event.event, 0.0))}
        changes["recent"] = _bound_recent(recent, rules)
    if event.event not in rules.not_visits:
        changes["visits"], changes["past_visits"] = extend_visits(profile, time, rules)
        if event.channel and len(event.channel) <= NAMES:
            channels = profile.channels | {event.channel: max(int(time), profile.channels.get(event.channel, 0))}
            if len(channels) > CHANNELS:
                del channels[min(channels, key=lambda name: (channels[name], name))]
            changes["channels"] = channels
    return changes


def _bound_recent(recent: dict[str, float], rules: ProfileRules) -> dict[str, float]:
    """Drops the oldest times beyond the limit, except those that a moment reads."""
    if len(recent) <= rules.recent_limit:
        return recent
    others = sorted((time, name) for name, time in recent.items() if name not in rules.watched_events)
    dropped = {name for _, name in others[: max(0, len(others) - rules.recent_limit)]}
    return {name: time for name, time in recent.items() if name not in dropped}


def apply_order(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Applies orders, refunds and points."""
    properties = event.properties
    key = order_id(properties) or None
    points = _number(properties.get("points"))
    if event.event in PURCHASES:
        revenue = _number(properties.get("revenue")) or 0.0
        gained = revenue * rules.points_per_unit if points is None else points
        facts = rules.computed.facts_of(properties) if rules.computed.of_orders and key is not None else None
        return place_order(profile, key, Order(revenue, time, gained), rules, facts)
    if event.event in REFUNDS:
        return refund_order(profile, key, refund_amount(properties), time, rules)
    if points is not None and points != 0:
        return award_points(profile, -abs(points) if event.event == POINTS_REDEEMED else points, rules)
    return {}


def update_affinities(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Adds to affinities: the event's category or categories, or its own `affinity: {name: weight}`."""
    properties = event.properties
    weights: dict[str, float] = {}
    categories = properties.get("categories", properties.get("category"))
    for name in categories if isinstance(categories, list) else [categories]:
        if isinstance(name, str):
            weights[name] = 1.0
    given = properties.get("affinity")
    if isinstance(given, dict):
        weights |= {name: weight for name, value in given.items() if (weight := _number(value)) is not None}
    if not weights or event.event in REFUNDS:
        return {}
    held = profile.affinities
    for name, weight in weights.items():
        if 0 < len(name) <= NAMES:
            held = grow_affinity(held, name, weight, time, half_life=profile.half_life, limit=rules.affinities_limit)
    return {"affinities": held}


def record_answer(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Reducer)
    """Records satisfaction answers; the newest wins."""
    name = event.event or ""
    answers = profile.answers
    properties = event.properties
    for question in QUESTIONS:
        score = _number(properties.get(question))
        if score is None and question in (name.split("_")[0], properties.get("survey")):
            score = _number(properties.get("score", properties.get("value")))
        if score is not None:
            answer = SurveyAnswer(score, time)
            answers = answers | {question: max(answers.get(question, answer), answer, key=lambda a: (a.time, a.score))}
    return {} if answers is profile.answers else {"answers": answers}


def apply_consent(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Reducer)
    """Applies a consent event (`purpose`, `granted`, and `expires` or `days`), or the consents of an identify."""
    if event.type == "identify":
        for trait, value in flatten_traits(event.traits).items():
            if trait.startswith(CONSENT) and isinstance(value, bool):
                consent = Consent(value, time, None, event.channel or "", _by(event))
                profile = record_consent(profile, trait.removeprefix(CONSENT), consent)
        return {"consents": profile.consents, "consent_statements": profile.consent_statements}
    name, properties = event.event or "", event.properties
    purpose = _text(properties.get("purpose"))
    if purpose is None or len(purpose) > NAMES:
        return {}
    granted = CONSENTS[name] and properties.get("granted", True) is True
    expires, days = parse_time(properties.get("expires")), _number(properties.get("days"))
    if expires is None and days is not None:
        expires = time + days * DAY
    if expires is not None:
        expires = min(max(expires, EARLIEST), FOREVER)
    after = record_consent(profile, purpose, Consent(granted, time, expires, event.channel or "", _by(event)))
    return {"consents": after.consents, "consent_statements": after.consent_statements}


def update_journey(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Updates the journey: the newest cart, step, conversation and campaign; a purchase ends cart and step."""
    properties = event.properties
    lives = {"cart": rules.cart_life, "step": rules.step_life, "conversation": rules.conversation_life}
    updates: dict[str, object] = {name: properties[name] for name in lives if name in properties}
    if event.event == CART_UPDATED and "cart" not in updates:
        updates["cart"] = properties or None
    elif event.event == CART_CLEARED:
        updates["cart"] = None
    elif event.event == CONVERSATION_CLOSED:
        updates["conversation"] = None
    elif event.event in PURCHASES:
        updates |= {"cart": None, "step": None}
    came_by = {name: text for name in CAMPAIGN_CONTEXT if isinstance(text := properties.get(name), str) and text}
    if came_by:
        updates[CAMPAIGN], lives[CAMPAIGN] = {name: text[:NAMES] for name, text in came_by.items()}, rules.campaign_life
    journey = profile.journey
    for name, value in updates.items():
        size = len(msgspec.msgpack.encode(value))
        item = JourneyItem(value if size <= JOURNEY_BYTES else {"too_large": size}, time, time + lives[name])
        journey = journey | {name: max(journey.get(name, item), item, key=journey_order)}
    return {} if journey is profile.journey else {"journey": journey}


def journey_order(item: JourneyItem) -> tuple[float, bool, str, float]:
    """The sort key of journey items; the newest is last, and of two at the same time the one that ends it."""
    return item.time, item.value is None, repr(item.value), item.until


def _by(event: Event) -> str:
    """Returns the source tag of the event, from its strongest identifier."""
    return next(iter(source_tags(customer_ids(event))), "")


def _number(value: object) -> float | None:
    """Returns a number up to `MOST`, whose sums stay exact to the cent; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST:
        return None
    return float(value)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


def _merge_times(a: dict[str, Time], b: dict[str, Time]) -> dict[str, Time]:
    return {name: max(a.get(name, time), b.get(name, time)) for name, time in (a | b).items()}


def _merge_activity(target: Profile, source: Profile, rules: ProfileRules) -> ProfileChanges:
    visits, past_visits = merge_visits(target, source, rules)
    return {
        "visits": visits,
        "past_visits": past_visits,
        "channels": _merge_times(target.channels, source.channels),
        "recent": _bound_recent(_merge_times(target.recent, source.recent), rules),
    }


def _merge_answers(target: Profile, source: Profile, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Merger)
    answers = dict(target.answers)
    for question, answer in source.answers.items():
        answers[question] = max(answers.get(question, answer), answer, key=lambda a: (a.time, a.score))
    return {"answers": answers}


def _merge_journey(target: Profile, source: Profile, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Merger)
    journey = dict(target.journey)
    for name, item in source.journey.items():
        journey[name] = max(journey.get(name, item), item, key=journey_order)
    return {"journey": journey}


def _merge_affinities(target: Profile, source: Profile, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Merger)
    both = target.affinities | source.affinities
    return {
        "affinities": {
            name: add_decayed(target.affinities.get(name), source.affinities.get(name), target.half_life)
            for name in both
        }
    }


FAMILIES: Final[tuple[EventFamily, ...]] = (
    EventFamily(
        fields=("traits", "trait_statements"), identify=True, events=(), apply=apply_traits, merge=merge_traits
    ),
    EventFamily(
        fields=("consents", "consent_statements"),
        identify=True,
        events=CONSENTS,
        apply=apply_consent,
        merge=merge_consents,
    ),
    EventFamily(
        fields=("visits", "past_visits", "channels", "recent"),
        identify=True,
        apply=record_activity,
        merge=_merge_activity,
    ),
    EventFamily(fields=ORDER_FIELDS, apply=apply_order, merge=merge_orders),
    EventFamily(fields=("affinities",), apply=update_affinities, merge=_merge_affinities),
    EventFamily(
        fields=(COMPLAINT_FIELD, "complaints"), events=COMPLAINTS, apply=record_complaint, merge=merge_complaints
    ),
    EventFamily(fields=("answers",), apply=record_answer, merge=_merge_answers),
    EventFamily(fields=("journey",), apply=update_journey, merge=_merge_journey),
    EventFamily(fields=("series", "archived_series"), apply=extend_traits, merge=merge_computed),
)
"""The registry: what `apply_event` and `merge_profiles` do to a profile, in this order."""
