"""Two profiles that are one customer: traits by their rules, counts added, words by `words`."""

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, Decayed, Profile
from engine.customers.model.affinity import add_decayed
from engine.customers.model.consent_sums import merge_statements
from engine.customers.model.orders import merge_orders
from engine.customers.model.reducers import journey_order
from engine.customers.model.traits import merge_traits
from engine.customers.model.visits import merge_visits
from engine.customers.redis.keys import KeyedId, ProfileKey

MARK = 8  # digits of a key that tell a merged profile from the others
MARKS = 32
UNITS = 8

Time = TypeVar("Time", int, float)


def merge_profiles(target: Profile, source: Profile, key: ProfileKey, rules: ProfileRules, now: float) -> Profile:
    """`target` with everything of `source`, which stood at `key`; its own id stays, as does its unit if it has one."""
    orders = merge_orders(target, source, rules)
    visits, past = merge_visits(target, source, rules)
    unit = source.unit if target.undecided and not source.undecided else target.unit
    theirs = {} if source.undecided else {source.unit: now}
    merged = replace(
        target,
        unit=unit,
        undecided=target.undecided and source.undecided,
        created=min(target.created, source.created),
        updated=max(target.updated, source.updated),
        ids={
            kind: list(dict.fromkeys((*target.ids.get(kind, ()), *source.ids.get(kind, ()))))[-rules.hold_limit(kind) :]
            for kind in KINDS
            if kind in target.ids or kind in source.ids
        },
        units=_units(unit, theirs | source.units | target.units),
        merged=[*target.merged, key[:MARK]][-MARKS:],
        traits=merge_traits(target.traits, source.traits, rules),
        affinities=_affinities(target, source),
        visits=visits,
        past_visits=past,
        channels=_newest(target.channels, source.channels),
        recent=_newest(target.recent, source.recent),
        complaint=max(filter(None, (target.complaint, source.complaint)), key=lambda c: (c[1], c[0]), default=None),
        answers={
            name: max(
                (a for a in (target.answers.get(name), source.answers.get(name)) if a), key=lambda a: (a.time, a.score)
            )
            for name in target.answers | source.answers
        },
        journey={
            name: max((h for h in (target.journey.get(name), source.journey.get(name)) if h), key=journey_order)
            for name in target.journey | source.journey
        },
        sticky=source.sticky | target.sticky,
        **orders,
    )
    return merge_statements(merged, source)


def record_unit(profile: Profile, unit: str, time: float) -> Profile:
    """The profile after a decision was seen at `time` that hangs on `unit`: theirs, unless they have another."""
    if not unit or unit in ((profile.unit, *profile.units) if not profile.undecided else ()):
        return profile
    if profile.undecided:
        return replace(profile, unit=unit, undecided=False)
    return replace(profile, units=_units(profile.unit, {**profile.units, unit: time}))


def add_identifiers(profile: Profile, idents: Iterable[KeyedId], rules: ProfileRules) -> Profile:
    """The profile with `idents` among its own; the oldest past the limit of their kind are let go."""
    ids = profile.ids
    for kind, value, _ in idents:
        held = ids.get(kind, [])
        if value not in held:
            ids = ids | {kind: [*held, value][-rules.hold_limit(kind) :]}
    return profile if ids is profile.ids else replace(profile, ids=ids)


def _units(unit: str, others: dict[str, float]) -> dict[str, float]:
    newest = sorted((time, other) for other, time in others.items() if other != unit)[-UNITS:]
    return {other: time for time, other in newest}


def _newest(a: dict[str, Time], b: dict[str, Time]) -> dict[str, Time]:
    return {name: max(a.get(name, moment), b.get(name, moment)) for name, moment in (a | b).items()}


def _affinities(target: Profile, source: Profile) -> dict[str, Decayed]:
    return {
        name: add_decayed(target.affinities.get(name), source.affinities.get(name), target.half_life)
        for name in target.affinities | source.affinities
    }
