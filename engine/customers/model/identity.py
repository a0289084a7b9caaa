"""Who the identifiers of a request name: one customer, and what must be bound, merged or blocked for that to hold.

Two rules keep strangers apart. A browser or a device (a shared tablet, a till) never joins two known customers; it
moves on to the newest of them and, past the limit of its kind, names nobody. And nobody has two user ids: other
personal identifiers that come together (an e-mail address and a loyalty card) are one person's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, WEAK, IdKind, Profile
from engine.customers.model.merge import MARK, add_identifiers, merge_profiles
from engine.customers.redis.keys import KeyedId, ProfileKey
from engine.customers.redis.lookup import HOPS
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, Tombstone


class EntryNotRead(Exception):
    """The entry at `key` must be read first."""

    def __init__(self, key: ProfileKey) -> None:
        self.key = key


class MergeSource(NamedTuple):
    """A profile to merge; `held` where the customer has it already and only the pointer is missing."""

    key: ProfileKey
    profile: Profile
    is_absorbed: bool


class Binding(NamedTuple):
    """An identifier that is to point at the customer; `before` as in `Pointer`."""

    ident: KeyedId
    before: tuple[ProfileKey, ...]


@dataclass(frozen=True, slots=True)
class ResolvedIdentity:
    """The customer `name`: `base` as stored (None: new), `profile` with all merged, and what is to be written."""

    name: KeyedId
    profile: Profile
    base: Profile | None
    sources: list[MergeSource] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    blocked: list[KeyedId] = field(default_factory=list)
    is_erased: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether the store already says all of this."""
        return self.base is not None and not self.sources and not self.bindings and not self.blocked


class _FollowedIdentifier(NamedTuple):
    ident: KeyedId
    entry: Entry
    name: KeyedId  # under whose key the profile stands, or would
    profile: Profile | None
    gone: bool
    frozen: list[MergeSource]


def resolve_identity(
    idents: Sequence[KeyedId], entries: Mapping[ProfileKey, Entry], rules: ProfileRules, now: float
) -> ResolvedIdentity:
    """The customer that `idents` (strongest first, at least one) name.

    Raises:
        Missing: if an entry that matters is not in `entries`.
    """
    first, *others = (_follow(ident, entries) for ident in idents)
    if first.gone:
        return ResolvedIdentity(first.name, new_profile(first.ident, rules, now), None, is_erased=True)
    if first.profile is not None and first.profile.shared:
        return ResolvedIdentity(first.name, first.profile, first.profile)
    others = [found for found in others if not found.gone and not (found.profile and found.profile.shared)]
    target, sources, bindings = _target(first, others, rules)
    base, key = target.profile, target.name.key
    known = target.name.kind not in WEAK or (base is not None and base.is_known)
    user = target.name.kind == "user_id" or (base is not None and "user_id" in base.ids)
    blocked: list[KeyedId] = []
    for found in others:
        if found.profile is None:
            if found.name.key != key and not found.frozen and _has_room(base, found.ident, rules):
                bindings.append(Binding(found.ident, ()))
        elif found.name.key == key or any(found.name.key == source.key for source in sources):
            continue
        elif _joins(found, known=known, user=user):
            sources.append(MergeSource(found.name.key, found.profile, is_absorbed=False))
        elif known and isinstance(found.entry, Pointer):
            before = tuple(k for k in dict.fromkeys((*found.entry.before, found.name.key)) if k != key)
            if len(before) >= rules.bind_limit(found.ident.kind):
                blocked.append(found.ident)
            else:
                bindings.append(Binding(found.ident, before))
    frozen = [source for found in (first, *others) if found.name.key == key for source in found.frozen]
    held = frozenset(base.merged) if base is not None else frozenset()
    sources = [
        MergeSource(k, profile, k[:MARK] in held)
        for k, profile in {s.key: s.profile for s in (*frozen, *sources)}.items()
        if k != key
    ]
    view = _view(target.name, base, sources, rules, now)
    return ResolvedIdentity(
        target.name,
        add_identifiers(view, (target.name, *(binding.ident for binding in bindings)), rules),
        base,
        sources,
        bindings,
        blocked,
    )


def new_profile(ident: KeyedId, rules: ProfileRules, now: float) -> Profile:
    """A customer never seen before."""
    return Profile(
        ident.value,
        ident.value,
        created=now,
        updated=now,
        ids={ident.kind: [ident.value]},
        undecided=True,
        half_life=rules.half_life,
    )


def shared_profile(ident: KeyedId, rules: ProfileRules, now: float) -> Profile:
    """What stands for an identifier that bound too many people: a customer of its own that joins nobody."""
    return replace(new_profile(ident, rules, now), shared=True, version=1)


def _follow(ident: KeyedId, entries: Mapping[ProfileKey, Entry]) -> _FollowedIdentifier:
    name = ident
    frozen: list[MergeSource] = []
    stored = entry = _entry(ident.key, entries)
    for _ in range(HOPS):
        match entry:
            case Pointer():
                entry_after = _entry(entry.to, entries)
                if entry_after is None:
                    return _FollowedIdentifier(ident, stored, ident, None, gone=False, frozen=[])
                name = KeyedId(ident.kind, ident.value, entry.to)
                entry = entry_after
            case FrozenProfile():
                frozen.append(MergeSource(name.key, entry.profile, is_absorbed=False))
                name = KeyedId(entry.kind, entry.id, entry.to)
                entry = _entry(entry.to, entries)
            case Tombstone():
                return _FollowedIdentifier(ident, stored, name, None, gone=True, frozen=[])
            case None:
                return _FollowedIdentifier(ident, stored, name, None, gone=False, frozen=frozen)
            case Profile():
                kind = canonical_kind(entry)
                return _FollowedIdentifier(
                    ident, stored, KeyedId(kind, entry.id, name.key), entry, gone=False, frozen=frozen
                )
    if not frozen:
        return _FollowedIdentifier(ident, stored, ident, None, gone=False, frozen=[])
    source = frozen[0]  # two merges that froze each other: the first of them thaws
    kind = canonical_kind(source.profile)
    return _FollowedIdentifier(
        ident, stored, KeyedId(kind, source.profile.id, source.key), source.profile, gone=False, frozen=[]
    )


def _entry(key: ProfileKey, entries: Mapping[ProfileKey, Entry]) -> Entry:
    try:
        return entries[key]
    except KeyError:
        raise EntryNotRead(key) from None


def _target(
    first: _FollowedIdentifier, others: Sequence[_FollowedIdentifier], rules: ProfileRules
) -> tuple[_FollowedIdentifier, list[MergeSource], list[Binding]]:
    """Which of the found is the customer; with it what joins them on that account."""
    if first.profile is not None:
        for found in others:
            if (
                found.profile is not None
                and found.name.key != first.name.key
                and _rank(found.profile) < _rank(first.profile)
                and _joins(found, known=True, user="user_id" in first.profile.ids)
            ):
                return found, [MergeSource(first.name.key, first.profile, is_absorbed=False)], []
        return first, [], []
    if first.frozen:
        return first, [], []
    for found in others:
        if found.profile is not None and _takes(found.profile, first.ident, found.ident, rules):
            if KINDS.index(first.ident.kind) < _rank(found.profile):
                return first, [MergeSource(found.name.key, found.profile, is_absorbed=False)], []
            return found, [], [Binding(first.ident, ())]
    return first, [], []


def _takes(profile: Profile, ident: KeyedId, by: KeyedId, rules: ProfileRules) -> bool:
    """Whether `ident`, never seen, is the customer `profile` that `by` came with."""
    held = profile.ids.get(ident.kind, ())
    if by.kind not in WEAK:
        return len(held) < rules.hold_limit(ident.kind)
    if ident.kind in WEAK:
        return not profile.is_known and len(held) < rules.bind_limit(by.kind)
    return not profile.is_known


def _has_room(profile: Profile | None, ident: KeyedId, rules: ProfileRules) -> bool:
    if profile is None or ident.kind in WEAK:
        return True
    return len(profile.ids.get(ident.kind, ())) < rules.hold_limit(ident.kind)


def _joins(found: _FollowedIdentifier, *, known: bool, user: bool) -> bool:
    """Whether the stored customer `found` is the one at hand, who is `known` or not and has a `user` id or not."""
    other = found.profile
    if other is None or not other.is_known:
        return True
    if not known or found.ident.kind in WEAK:
        return False
    return not (user and "user_id" in other.ids)


def _view(
    name: KeyedId, base: Profile | None, sources: Iterable[MergeSource], rules: ProfileRules, now: float
) -> Profile:
    view = base
    for source in sources:
        if source.is_absorbed:
            continue
        if view is None:
            view = new_profile(name, rules, source.profile.created)
        view = merge_profiles(view, source.profile, source.key, rules, now)
    return view or new_profile(name, rules, now)


def canonical_kind(profile: Profile) -> IdKind:
    """The kind of the profile's canonical id."""
    return next(kind for kind in KINDS if kind in profile.ids)


def _rank(profile: Profile) -> int:
    return KINDS.index(canonical_kind(profile))
