"""Merges two profiles of one customer.

Invariants:
- Merging commutes for everything but the canonical id and the unit: those of the target stay, unless the target has
  not been decided for (`undecided`) and the source has.
- Merging is idempotent: `merged` lists the absorbed profiles by the first `MARK` digits of their keys, so a merge that
  a crash interrupted can be repeated.
- What events wrote is merged by the family that wrote it (`reducers.FAMILIES`): counts add up, an order of both
  profiles counts once, a trait follows its rule, and of other statements the newest wins.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, IdKind, Profile
from engine.customers.model.consent_sums import earliest_links
from engine.customers.model.events import Accepted
from engine.customers.model.reducers import FAMILIES
from engine.customers.redis.keys import KeyedId, KeyHasher, ProfileKey
from engine.vocabulary import MERGED

MARK = 8  # digits of a key that distinguish a merged profile from the others
MARKS = 128
UNITS = 8

IDENTITY_FIELDS: Final = frozenset(
    (
        *("id", "unit", "undecided", "version", "created", "updated", "ids", "units", "merged", "marks", "shared"),
        *("half_life", "sticky", "links", "joining"),
    )
)
"""Fields of a profile that no event family changes; this module merges them, or the writer sets them."""


def merge_profiles(target: Profile, source: Profile, key: ProfileKey, rules: ProfileRules, now: float) -> Profile:
    """Returns `target` with all parts of `source`, which was stored at `key`."""
    unit = source.unit if target.undecided and not source.undecided else target.unit
    theirs = {} if source.undecided else {source.unit: now}
    merged = replace(
        target,
        unit=unit,
        undecided=target.undecided and source.undecided,
        created=min(target.created, source.created),
        updated=max(target.updated, source.updated),
        ids={
            kind: list(dict.fromkeys((*target.ids.get(kind, ()), *source.ids.get(kind, ()))))
            for kind in KINDS
            if kind in target.ids or kind in source.ids
        },
        units=_units(unit, theirs | source.units | target.units),
        merged=[*target.merged, key[:MARK]][-MARKS:],
        sticky=source.sticky | target.sticky,
        links=earliest_links((*target.links, *source.links)),
        joining=source.joining | target.joining,
    )
    for family in FAMILIES:
        merged = replace(merged, **family.merge(merged, source, rules))
    return merged


def record_unit(profile: Profile, unit: str, time: float) -> Profile:
    """Returns the profile after the exposure, at `time`, of a decision that was bucketed by `unit`.

    An undecided profile takes the unit as its own; a decided one lists it under `units` as a possible crossover.
    """
    if not unit or unit in ((profile.unit, *profile.units) if not profile.undecided else ()):
        return profile
    if profile.undecided:
        return replace(profile, unit=unit, undecided=False)
    return replace(profile, units=_units(profile.unit, {**profile.units, unit: time}))


def add_identifiers(profile: Profile, idents: Iterable[KeyedId]) -> Profile:
    """Returns the profile with `idents` added; `archive` takes those beyond the limit of their kind."""
    ids = profile.ids
    for kind, value, _ in idents:
        held = ids.get(kind, [])
        if value not in held:
            ids = ids | {kind: [*held, value]}
    return profile if ids is profile.ids else replace(profile, ids=ids)


def absorbed_keys(profile: Profile, hash_: KeyHasher) -> list[ProfileKey]:
    """Returns the keys of profiles merged into this one, of those whose identifiers are in `profile.ids`."""
    if not profile.merged:
        return []
    marks = frozenset(profile.merged)
    every = (hash_(kind, value) for kind in KINDS for value in profile.ids.get(kind, ()))
    return [key for key in every if key[:MARK] in marks]


def profile_kind(profile: Profile) -> IdKind:
    """Returns the kind of the profile's canonical id, which another customer's stronger identifier may have joined."""
    strongest = next(kind for kind in KINDS if kind in profile.ids)
    return next((kind for kind in KINDS if profile.id in profile.ids.get(kind, ())), strongest)


def merge_event(source: str, target: str, time: float, received: float, idents: Sequence[KeyedId]) -> Accepted:
    """Returns the log record of a merge; `by` lists the identifiers that caused it."""
    by = {ident.kind: ident.value for ident in idents if ident.value}
    return Accepted(
        message_id=f"merge:{source}:{target}",
        time=time,
        received=received,
        customer=target,
        event=MERGED,
        properties={"from": source, "into": target, "by": by},
    )


def _units(unit: str, others: dict[str, float]) -> dict[str, float]:
    newest = sorted((time, other) for other, time in others.items() if other != unit)[-UNITS:]
    return {other: time for time, other in newest}
