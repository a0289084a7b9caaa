"""Event to profile change: pure, one function per family of events, and the same whatever order events come in.

Each family looks at what an event says, not at who sent it: a purchase changes orders, points, affinities and ends
the cart; any event may carry `category`, `cart`, `step` or `conversation`.
"""

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Consent, JourneyItem, Order, Profile, SurveyAnswer, Trait
from engine.customers.model import orders
from engine.customers.model.affinity import grow_affinity
from engine.customers.model.consent_sums import link_sources, record_consent, record_summed_trait, source_tags
from engine.customers.model.events import EARLIEST, FOREVER, MOST, Event, customer_ids, parse_time
from engine.customers.model.traits import CONSENT, flatten_traits, record_trait
from engine.customers.model.visits import extend_visits
from engine.vocabulary import (
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

JOURNEY_BYTES = 2048
NAMES = 100

ProfileChanges = Mapping[str, object]
Reducer = Callable[[Profile, Event, float, ProfileRules], ProfileChanges]


def apply_event(profile: Profile, event: Event, time: float, rules: ProfileRules) -> Profile:
    """The profile after `event`, which happened at `time` (s since 1970). Whether it counts was decided before."""
    ids = source_tags(customer_ids(event))
    if len(ids) > 1:
        profile = link_sources(profile, ids, time)
    for family in _FAMILIES[event.type]:
        changes = family(profile, event, time, rules)
        if changes:
            profile = replace(profile, **changes)
    return replace(profile, created=min(profile.created or time, time), updated=max(profile.updated, time))


def apply_traits(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Traits of an identify; those under `CONSENT` are consents."""
    source, by = event.channel or "", _by(event)
    for name, value in flatten_traits(event.traits).items():
        purpose = name.removeprefix(CONSENT)
        word = Trait(value, time, source, event.user_id is not None)
        if purpose != name and isinstance(value, bool):
            profile = record_consent(profile, purpose, Consent(value, time, None, source, by))
        elif rules.merge.get(name) == "sum" and (name in profile.traits or len(profile.traits) < rules.traits_limit):
            profile = record_summed_trait(profile, name, by, word)
        elif len(name) <= NAMES:
            profile = replace(profile, traits=record_trait(profile.traits, name, word, rules))
    return {
        "traits": profile.traits,
        "trait_statements": profile.trait_statements,
        "consents": profile.consents,
        "consent_statements": profile.consent_statements,
    }


def record_visit(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Visits, channels, and when each kind of event was last seen."""
    changes: dict[str, object] = {}
    if event.event and len(event.event) <= NAMES:
        recent = profile.recent | {event.event: max(time, profile.recent.get(event.event, 0.0))}
        if len(recent) > rules.recent_limit:
            del recent[min(recent, key=lambda name: (recent[name], name))]
        changes["recent"] = recent
    if event.event not in rules.not_visits:
        changes["visits"], changes["past_visits"] = extend_visits(profile, time, rules)
        if event.channel and len(event.channel) <= NAMES:
            changes["channels"] = profile.channels | {
                event.channel: max(int(time), profile.channels.get(event.channel, 0))
            }
    return changes


def apply_order(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Orders, refunds and points."""
    said = event.properties
    key = _text(said.get("order_id"))
    points = _number(said.get("points"))
    if event.event in PURCHASES:
        revenue = _number(said.get("revenue")) or 0.0
        gained = revenue * rules.points_per_unit if points is None else points
        return orders.place_order(profile, key, Order(revenue, time, gained), rules)
    if event.event in REFUNDS:
        amount = _number(said.get("amount", said.get("revenue")))
        return orders.refund_order(profile, key, None if amount is None else abs(amount), time, rules)
    if points is not None and points != 0:
        return orders.award_points(profile, -abs(points) if event.event == POINTS_REDEEMED else points, rules)
    return {}


def update_affinities(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """Affinities: the event's category or categories, or its own `affinity: {name: weight}`."""
    said = event.properties
    weights: dict[str, float] = {}
    categories = said.get("categories", said.get("category"))
    for name in categories if isinstance(categories, list) else [categories]:
        if isinstance(name, str):
            weights[name] = 1.0
    given = said.get("affinity")
    if isinstance(given, dict):
        weights |= {name: weight for name, value in given.items() if (weight := _number(value)) is not None}
    if not weights or event.event in REFUNDS:
        return {}
    held = profile.affinities
    for name, weight in weights.items():
        if 0 < len(name) <= NAMES:
            held = grow_affinity(held, name, weight, time, profile.half_life, rules.affinities_limit)
    return {"affinities": held}


def record_answer(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Reducer)
    """Satisfaction answers and complaints: the newest stands."""
    name = event.event or ""
    if name in COMPLAINTS:
        word = (COMPLAINTS[name], time)
        return {"complaint": max(profile.complaint or word, word, key=lambda c: (c[1], c[0]))}
    answers = profile.answers
    said = event.properties
    for question in QUESTIONS:
        score = _number(said.get(question))
        if score is None and question in (name.split("_")[0], said.get("survey")):
            score = _number(said.get("score", said.get("value")))
        if score is not None:
            word_ = SurveyAnswer(score, time)
            answers = answers | {question: max(answers.get(question, word_), word_, key=lambda a: (a.time, a.score))}
    return {} if answers is profile.answers else {"answers": answers}


def apply_consent(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:  # noqa: ARG001 (a Reducer)
    """Consents by event: `purpose`, `granted`, and either `expires` (as a timestamp is told) or `days`."""
    name, said = event.event or "", event.properties
    purpose = _text(said.get("purpose"))
    if name not in CONSENTS or purpose is None or len(purpose) > NAMES:
        return {}
    granted = CONSENTS[name] and said.get("granted", True) is True
    expires, days = parse_time(said.get("expires")), _number(said.get("days"))
    if expires is None and days is not None:
        expires = time + days * DAY
    if expires is not None:
        expires = min(max(expires, EARLIEST), FOREVER)
    after = record_consent(profile, purpose, Consent(granted, time, expires, event.channel or "", _by(event)))
    return {"consents": after.consents, "consent_statements": after.consent_statements}


def update_journey(profile: Profile, event: Event, time: float, rules: ProfileRules) -> ProfileChanges:
    """The journey: cart, step and conversation as last told; a purchase ends cart and step."""
    said = event.properties
    lives = {"cart": rules.cart_life, "step": rules.step_life, "conversation": rules.conversation_life}
    told_: dict[str, object] = {name: said[name] for name in lives if name in said}
    if event.event == CART_UPDATED and "cart" not in told_:
        told_["cart"] = said or None
    elif event.event == CART_CLEARED:
        told_["cart"] = None
    elif event.event == CONVERSATION_CLOSED:
        told_["conversation"] = None
    elif event.event in PURCHASES:
        told_ |= {"cart": None, "step": None}
    journey = profile.journey
    for name, value in told_.items():
        word = JourneyItem(value, time, time + lives[name])
        if len(msgspec.msgpack.encode(value)) <= JOURNEY_BYTES:
            stands = journey.get(name, word)
            journey = journey | {name: max(stands, word, key=journey_order)}
    return {} if journey is profile.journey else {"journey": journey}


def journey_order(held: JourneyItem) -> tuple[float, bool, str, float]:
    """The order of words on the journey: the newest stands, at the same moment the end."""
    return held.time, held.value is None, repr(held.value), held.until


def _by(event: Event) -> str:
    """Who told it: the strongest identifier it came with."""
    return next(iter(source_tags(customer_ids(event))), "")


def _number(value: object) -> float | None:
    """A number that a shop may mean: sums of it stay exact to the cent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > MOST:
        return None
    return float(value)


def _text(value: object) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


_FAMILIES: dict[str, tuple[Reducer, ...]] = {
    "identify": (apply_traits, record_visit),
    "track": (record_visit, apply_order, update_affinities, record_answer, apply_consent, update_journey),
    "alias": (),
}
