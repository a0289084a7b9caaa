"""Identity resolution: finds the customer that identifiers name, and the bindings and merges that this requires.

Invariants:
- A browser or device (a shared tablet, a till) never joins two known customers. It is rebound to the newest of them
  and, past the limit of its kind, blocked: it becomes a shared customer of its own that joins nobody.
- No customer has two user ids. Other personal identifiers of one event (an e-mail address and a loyalty card) belong
  to one person, within the next two limits.
- `binds`: an identifier joins at most so many values of each stronger kind; a customer has at most so many values of
  its strongest kind as each weaker identifier that it has may name. So no number of loyalty cards with one phone number
  becomes one customer, at once or in a chain of merges. An identifier that would name more is blocked.
- `holds`: a customer never has more personal identifiers of a kind. What would be one more stays a customer apart.
- A merge that began is always finished, since its source is frozen. It passes no limit, also where several processes
  begin merges at the same moment: the target reserves the source's identifiers before the source is frozen
  (`write_batch`). Two user ids are never merged.
- An erased identifier resolves to `is_erased`, and nothing is written for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, WEAK, IdKind, Profile
from engine.customers.model.merge import MARK, add_identifiers, merge_profiles, profile_kind
from engine.customers.model.reservations import counted_ids
from engine.customers.redis.keys import KeyedId, ProfileKey
from engine.customers.redis.lookup import HOPS
from engine.customers.redis.stored_entry import Entry, FrozenProfile, Pointer, Tombstone

Ids = Mapping[str, Sequence[str]] | Mapping[IdKind, Sequence[str]]
"""Identifiers of a customer by kind, as `Profile.ids`."""


class EntryNotRead(Exception):
    """The signal that the entry at `key` must be read first."""

    def __init__(self, key: ProfileKey) -> None:
        self.key = key


class MergeSource(NamedTuple):
    """A profile to merge; `is_absorbed` if the target contains it already and only the pointer is missing."""

    key: ProfileKey
    profile: Profile
    is_absorbed: bool


class Binding(NamedTuple):
    """An identifier that will point to the customer; `before` as in `Pointer`."""

    ident: KeyedId
    before: tuple[ProfileKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedIdentity:
    """The customer `name`: `base` as stored (None: new), `profile` after all merges, and the required writes.

    `apart` are identifiers that a limit kept from joining the customer; the `blocked` ones of them name nobody now.
    """

    name: KeyedId
    profile: Profile
    base: Profile | None
    sources: list[MergeSource] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    blocked: list[KeyedId] = field(default_factory=list)
    apart: list[KeyedId] = field(default_factory=list)
    is_erased: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether the store needs no write."""
        return self.base is not None and not self.sources and not self.bindings and not self.blocked


@dataclass(frozen=True, slots=True, kw_only=True)
class _FollowedIdentifier:
    """An identifier, its `entry`, and the end of its pointers at `name.key`, where `profile` is or would be stored.

    `ids` are those that count towards limits at `now`.
    """

    ident: KeyedId
    entry: Entry
    name: KeyedId
    now: float
    profile: Profile | None = None
    is_erased: bool = False
    frozen: list[MergeSource] = field(default_factory=list)

    @property
    def ids(self) -> Ids:
        if self.profile is None:
            return {self.ident.kind: [self.ident.value]}
        return counted_ids(self.profile, self.now)


@dataclass(slots=True, kw_only=True)
class _Joining:
    """The target customer at `key` and what has joined it so far; `ids` are its identifiers after that."""

    key: ProfileKey
    is_known: bool
    is_user: bool
    ids: Ids
    sources: list[MergeSource]
    bindings: list[Binding]
    blocked: list[KeyedId] = field(default_factory=list)
    apart: list[KeyedId] = field(default_factory=list)


def resolve_identity(
    idents: Sequence[KeyedId], entries: Mapping[ProfileKey, Entry], rules: ProfileRules, now: float
) -> ResolvedIdentity:
    """Returns the customer that `idents` (strongest first, at least one) name.

    Raises:
        EntryNotRead: if an entry that the result depends on is not in `entries`.
    """
    first, *others = (_follow(ident, entries, now) for ident in idents)
    if first.is_erased:
        erased = new_profile(first.ident, rules, now)
        return ResolvedIdentity(name=first.name, profile=erased, base=None, is_erased=True)
    if first.profile is not None and first.profile.shared:
        return ResolvedIdentity(name=first.name, profile=first.profile, base=first.profile)
    others = [found for found in others if not found.is_erased and not (found.profile and found.profile.shared)]
    return _join_identifiers(first, others, rules, now)


def _join_identifiers(
    first: _FollowedIdentifier, others: Sequence[_FollowedIdentifier], rules: ProfileRules, now: float
) -> ResolvedIdentity:
    """Returns the customer of `first`, joined with those of `others` that may be, and those that stay apart."""
    if not others and not first.frozen:  # as in most requests
        profile = new_profile(first.name, rules, now) if first.profile is None else first.profile
        return ResolvedIdentity(name=first.name, profile=add_identifiers(profile, (first.name,)), base=first.profile)
    target, sources, bindings = _target(first, others, rules)
    base, key = target.profile, target.name.key
    joining = _Joining(
        key=key,
        is_known=target.name.kind not in WEAK or (base is not None and base.is_known),
        is_user=target.name.kind == "user_id" or (base is not None and "user_id" in base.ids),
        ids=_joined_ids(target, sources, bindings),
        sources=sources,
        bindings=bindings,
    )
    for found in others:
        _join(joining, first, found, rules)
    frozen = [source for found in (first, *others) if found.name.key == key for source in found.frozen]
    held = frozenset(base.merged) if base is not None else frozenset()
    sources = [
        MergeSource(k, profile, k[:MARK] in held)
        for k, profile in {s.key: s.profile for s in (*frozen, *joining.sources)}.items()
        if k != key
    ]
    view = _view(target.name, base, sources, rules, now)
    return ResolvedIdentity(
        name=target.name,
        profile=add_identifiers(view, (target.name, *(binding.ident for binding in joining.bindings))),
        base=base,
        sources=sources,
        bindings=joining.bindings,
        blocked=joining.blocked,
        apart=joining.apart,
    )


def _join(target: _Joining, first: _FollowedIdentifier, found: _FollowedIdentifier, rules: ProfileRules) -> None:
    """Binds or merges what an identifier points to, unless a limit forbids it. `first` came with it."""
    if found.name.key == target.key or any(found.name.key == source.key for source in target.sources):
        return
    if found.profile is None:
        if found.frozen:
            return
        if _fits(target.ids, found.ids, rules, (first, found)):
            target.bindings.append(Binding(found.ident, ()))
            target.ids = _union(target.ids, found.ids)
        else:
            target.apart.append(found.ident)
    elif _joins(found, known=target.is_known, user=target.is_user):
        if _fits(target.ids, found.ids, rules, (first, found)):
            target.sources.append(MergeSource(found.name.key, found.profile, is_absorbed=False))
            target.ids = _union(target.ids, found.ids)
        else:
            target.apart.append(found.ident)
            if isinstance(found.entry, Pointer):
                target.blocked.append(found.ident)
    elif target.is_known and isinstance(found.entry, Pointer):
        before = tuple(k for k in dict.fromkeys((*found.entry.before, found.name.key)) if k != target.key)
        value: Ids = {found.ident.kind: [found.ident.value]}
        if len(before) < rules.bind_limit(found.ident.kind) and _fits(target.ids, value, rules, (first,)):
            target.bindings.append(Binding(found.ident, before))
            target.ids = _union(target.ids, value)
            return
        target.apart.append(found.ident)
        if len(before) >= rules.bind_limit(found.ident.kind):
            target.blocked.append(found.ident)


def new_profile(ident: KeyedId, rules: ProfileRules, now: float) -> Profile:
    """Returns the profile of a customer that the store does not have."""
    return Profile(
        id=ident.value,
        unit=ident.value,
        created=now,
        updated=now,
        ids={ident.kind: [ident.value]},
        undecided=True,
        half_life=rules.half_life,
    )


def shared_profile(ident: KeyedId, rules: ProfileRules, now: float) -> Profile:
    """Returns the profile of an identifier that named too many customers: a customer that never merges."""
    return replace(new_profile(ident, rules, now), shared=True, version=1)


def _follow(ident: KeyedId, entries: Mapping[ProfileKey, Entry], now: float) -> _FollowedIdentifier:
    name = ident
    frozen: list[MergeSource] = []
    stored = entry = _entry(ident.key, entries)
    followed = partial(_FollowedIdentifier, ident=ident, entry=stored, now=now)
    for _ in range(HOPS):
        match entry:
            case Pointer():
                entry_after = _entry(entry.to, entries)
                if entry_after is None:
                    return followed(name=ident)
                name = KeyedId(ident.kind, ident.value, entry.to)
                entry = entry_after
            case FrozenProfile():
                frozen.append(MergeSource(name.key, entry.profile, is_absorbed=False))
                name = KeyedId(entry.kind, entry.id, entry.to)
                entry = _entry(entry.to, entries)
            case Tombstone():
                return followed(name=name, is_erased=True)
            case None:
                return followed(name=name, frozen=frozen)
            case Profile():
                name = KeyedId(profile_kind(entry), entry.id, name.key)
                return followed(name=name, profile=entry, frozen=frozen)
    if not frozen:
        return followed(name=ident)
    source = frozen[0]  # two concurrent merges froze each other: the first profile becomes the target again
    name = KeyedId(profile_kind(source.profile), source.profile.id, source.key)
    return followed(name=name, profile=source.profile)


def _entry(key: ProfileKey, entries: Mapping[ProfileKey, Entry]) -> Entry:
    try:
        return entries[key]
    except KeyError:
        raise EntryNotRead(key) from None


def _target(
    first: _FollowedIdentifier, others: Sequence[_FollowedIdentifier], rules: ProfileRules
) -> tuple[_FollowedIdentifier, list[MergeSource], list[Binding]]:
    """Returns the target customer, and the merges and bindings that its choice requires.

    The one with the strongest identifier is preferred, so that a customer with a user id is not merged into a new card.
    """
    others = sorted(others, key=lambda found: len(KINDS) if found.profile is None else _rank(found.profile))
    if first.profile is not None:
        for found in others:
            if (
                found.profile is not None
                and found.name.key != first.name.key
                and _rank(found.profile) < _rank(first.profile)
                and _joins(found, known=True, user="user_id" in first.ids)
                and _fits(first.ids, found.ids, rules, (first, found))
            ):
                return found, [MergeSource(first.name.key, first.profile, is_absorbed=False)], []
        return first, [], []
    if first.frozen:
        return first, [], []
    for found in others:
        if found.profile is not None and _takes(found.profile, first, found, rules):
            if KINDS.index(first.ident.kind) < _rank(found.profile):
                return first, [MergeSource(found.name.key, found.profile, is_absorbed=False)], []
            return found, [], [Binding(first.ident, ())]
    return first, [], []


def _takes(profile: Profile, first: _FollowedIdentifier, by: _FollowedIdentifier, rules: ProfileRules) -> bool:
    """Whether the new identifier `first` belongs to the customer `profile`, which `by` named in the same request."""
    return (by.ident.kind not in WEAK or not profile.is_known) and _fits(profile.ids, first.ids, rules, (first, by))


def _fits(ids: Ids, others: Ids, rules: ProfileRules, named: Sequence[_FollowedIdentifier]) -> bool:
    """Whether a customer with `ids` may get `others`, given `named` together, within the limits `holds` and `binds`.

    A limit refuses growth only: a customer who is past it from before can still get values of kinds whose own limits
    hold. A kind that one side brings must be able to name all values of the strongest kind that the other side has.
    """
    both = _union(ids, others)
    growing = [kind for kind in both if len(both[kind]) > max(len(ids.get(kind, ())), len(others.get(kind, ())))]
    if any(len(both[kind]) > rules.hold_limit(kind) for kind in growing if kind not in WEAK):
        return False
    strongest, *weaker = both
    if strongest not in WEAK:
        weaker = [kind for kind in weaker if kind not in WEAK]
        growing = [kind for kind in growing if kind not in WEAK]
        named = [one for one in named if one.ident.kind not in WEAK]
    count = len(both[strongest])
    for kind in weaker:
        was_so = any(kind in side and len(side.get(strongest, ())) == count for side in (ids, others))
        if count > rules.bind_limit(kind) and not was_so:
            return False
    for one in named:
        earlier = len(one.entry.before) if isinstance(one.entry, Pointer) else 0
        stronger = [kind for kind in growing if KINDS.index(kind) < KINDS.index(one.ident.kind)]
        if any(len(both[kind]) + earlier > rules.bind_limit(one.ident.kind) for kind in stronger):
            return False
    return True


def _union(ids: Ids, others: Ids) -> dict[IdKind, list[str]]:
    return {
        kind: list(dict.fromkeys((*ids.get(kind, ()), *others.get(kind, ()))))
        for kind in KINDS
        if kind in ids or kind in others
    }


def _joined_ids(target: _FollowedIdentifier, sources: Iterable[MergeSource], bindings: Iterable[Binding]) -> Ids:
    ids: Ids = target.ids
    for source in sources:
        ids = _union(ids, counted_ids(source.profile, target.now))
    for binding in bindings:
        ids = _union(ids, {binding.ident.kind: [binding.ident.value]})
    return ids


def _joins(found: _FollowedIdentifier, *, known: bool, user: bool) -> bool:
    """Whether `found` merges with the target, given whether that is `known` and has a `user` id."""
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


def _rank(profile: Profile) -> int:
    """The place in `KINDS` of the strongest kind of identifier that the customer has."""
    return next(place for place, kind in enumerate(KINDS) if kind in profile.ids)
