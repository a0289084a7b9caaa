"""Two profiles that are one customer: traits by their rules, counts added, consents denied by either."""

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from engine.catalog.rules import KINDS, ProfileRules
from engine.decide.profile import Consent, Decayed, Profile
from engine.profiles.affinity import add
from engine.profiles.keys import Ident, Key
from engine.profiles.orders import join
from engine.profiles.traits import combine
from engine.profiles.visits import union

MARK = 8  # digits of a key that tell a merged profile from the others
MARKS = 32
UNITS = 8

Time = TypeVar("Time", int, float)


def merge(target: Profile, source: Profile, key: Key, rules: ProfileRules) -> Profile:
    """`target` with everything of `source`, which stood at `key`; its own unit and id stay."""
    orders = join(target, source, rules)
    visits, past = union(target, source, rules)
    units = [unit for unit in dict.fromkeys((*target.units, source.unit, *source.units)) if unit != target.unit]
    return replace(
        target,
        created=min(target.created, source.created),
        ids={
            kind: list(dict.fromkeys((*target.ids.get(kind, ()), *source.ids.get(kind, ()))))[-rules.hold_limit(kind) :]
            for kind in KINDS
            if kind in target.ids or kind in source.ids
        },
        units=units[-UNITS:],
        merged=[*target.merged, key[:MARK]][-MARKS:],
        traits=combine(target.traits, source.traits, rules),
        affinities=_affinities(target, source),
        visits=visits,
        past_visits=past,
        channels=_newest(target.channels, source.channels),
        recent=_newest(target.recent, source.recent),
        complaint=max(filter(None, (target.complaint, source.complaint)), key=lambda c: (c[1], c[0]), default=None),
        consents=_consents(target.consents, source.consents),
        answers={
            name: max(
                (a for a in (target.answers.get(name), source.answers.get(name)) if a), key=lambda a: (a.time, a.score)
            )
            for name in target.answers | source.answers
        },
        journey={
            name: max(
                (h for h in (target.journey.get(name), source.journey.get(name)) if h),
                key=lambda h: (h.time, h.until, repr(h.value)),
            )
            for name in target.journey | source.journey
        },
        sticky=source.sticky | target.sticky,
        **orders,
    )


def with_ids(profile: Profile, idents: Iterable[Ident], rules: ProfileRules) -> Profile:
    """The profile with `idents` among its own; the oldest past the limit of their kind are let go."""
    ids = profile.ids
    for kind, value, _ in idents:
        held = ids.get(kind, [])
        if value not in held:
            ids = ids | {kind: [*held, value][-rules.hold_limit(kind) :]}
    return profile if ids is profile.ids else replace(profile, ids=ids)


def _newest(a: dict[str, Time], b: dict[str, Time]) -> dict[str, Time]:
    return {name: max(a.get(name, moment), b.get(name, moment)) for name, moment in (a | b).items()}


def _consents(a: dict[str, Consent], b: dict[str, Consent]) -> dict[str, Consent]:
    """Denied by either is denied, as of the newer word, so that only a later consent changes it."""
    both = a | b
    for name in a.keys() & b.keys():
        newest = max(a[name].time, b[name].time)
        worst = min(a[name], b[name], key=lambda c: (c.granted, c.expires or float("inf"), c.time, c.source))
        both[name] = replace(worst, time=newest)
    return both


def _affinities(target: Profile, source: Profile) -> dict[str, Decayed]:
    return {
        name: add(target.affinities.get(name), source.affinities.get(name), target.half_life)
        for name in target.affinities | source.affinities
    }
