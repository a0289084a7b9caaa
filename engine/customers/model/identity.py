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
from engine.customers.model.merge import MARK, merge, with_ids
from engine.customers.redis.keys import Ident, Key
from engine.customers.redis.lookup import HOPS
from engine.customers.redis.stored_entry import Entry, Frozen, Gone, Pointer


class Missing(Exception):
    """The entry at `key` must be read first."""

    def __init__(self, key: Key) -> None:
        self.key = key


class Source(NamedTuple):
    """A profile to merge; `held` where the customer has it already and only the pointer is missing."""

    key: Key
    profile: Profile
    held: bool


class Binding(NamedTuple):
    """An identifier that is to point at the customer; `before` as in `Pointer`."""

    ident: Ident
    before: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Resolution:
    """The customer `name`: `base` as stored (None: new), `profile` with all merged, and what is to be written."""

    name: Ident
    profile: Profile
    base: Profile | None
    sources: list[Source] = field(default_factory=list)
    bindings: list[Binding] = field(default_factory=list)
    blocked: list[Ident] = field(default_factory=list)
    erased: bool = False

    @property
    def settled(self) -> bool:
        """Whether the store already says all of this."""
        return self.base is not None and not self.sources and not self.bindings and not self.blocked


class _Found(NamedTuple):
    ident: Ident
    entry: Entry
    name: Ident  # under whose key the profile stands, or would
    profile: Profile | None
    gone: bool
    frozen: list[Source]


def resolve(idents: Sequence[Ident], entries: Mapping[Key, Entry], rules: ProfileRules, now: float) -> Resolution:
    """The customer that `idents` (strongest first, at least one) name.

    Raises:
        Missing: if an entry that matters is not in `entries`.
    """
    first, *others = (_follow(ident, entries) for ident in idents)
    if first.gone:
        return Resolution(first.name, fresh(first.ident, rules, now), None, erased=True)
    if first.profile is not None and first.profile.shared:
        return Resolution(first.name, first.profile, first.profile)
    others = [found for found in others if not found.gone and not (found.profile and found.profile.shared)]
    target, sources, bindings = _target(first, others, rules)
    base, key = target.profile, target.name.key
    known = target.name.kind not in WEAK or (base is not None and base.known)
    user = target.name.kind == "user_id" or (base is not None and "user_id" in base.ids)
    blocked: list[Ident] = []
    for found in others:
        if found.profile is None:
            if found.name.key != key and not found.frozen and _has_room(base, found.ident, rules):
                bindings.append(Binding(found.ident, ()))
        elif found.name.key == key or any(found.name.key == source.key for source in sources):
            continue
        elif _joins(found, known=known, user=user):
            sources.append(Source(found.name.key, found.profile, held=False))
        elif known and isinstance(found.entry, Pointer):
            before = tuple(k for k in dict.fromkeys((*found.entry.before, found.name.key)) if k != key)
            if len(before) >= rules.bind_limit(found.ident.kind):
                blocked.append(found.ident)
            else:
                bindings.append(Binding(found.ident, before))
    frozen = [source for found in (first, *others) if found.name.key == key for source in found.frozen]
    held = frozenset(base.merged) if base is not None else frozenset()
    sources = [
        Source(k, profile, k[:MARK] in held)
        for k, profile in {s.key: s.profile for s in (*frozen, *sources)}.items()
        if k != key
    ]
    view = _view(target.name, base, sources, rules, now)
    return Resolution(
        target.name,
        with_ids(view, (target.name, *(binding.ident for binding in bindings)), rules),
        base,
        sources,
        bindings,
        blocked,
    )


def fresh(ident: Ident, rules: ProfileRules, now: float) -> Profile:
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


def shared(ident: Ident, rules: ProfileRules, now: float) -> Profile:
    """What stands for an identifier that bound too many people: a customer of its own that joins nobody."""
    return replace(fresh(ident, rules, now), shared=True, version=1)


def _follow(ident: Ident, entries: Mapping[Key, Entry]) -> _Found:
    name = ident
    frozen: list[Source] = []
    stored = entry = _entry(ident.key, entries)
    for _ in range(HOPS):
        match entry:
            case Pointer():
                entry_after = _entry(entry.to, entries)
                if entry_after is None:
                    return _Found(ident, stored, ident, None, gone=False, frozen=[])
                name = Ident(ident.kind, ident.value, entry.to)
                entry = entry_after
            case Frozen():
                frozen.append(Source(name.key, entry.profile, held=False))
                name = Ident(entry.kind, entry.id, entry.to)
                entry = _entry(entry.to, entries)
            case Gone():
                return _Found(ident, stored, name, None, gone=True, frozen=[])
            case None:
                return _Found(ident, stored, name, None, gone=False, frozen=frozen)
            case Profile():
                kind = strongest(entry)
                return _Found(ident, stored, Ident(kind, entry.id, name.key), entry, gone=False, frozen=frozen)
    if not frozen:
        return _Found(ident, stored, ident, None, gone=False, frozen=[])
    source = frozen[0]  # two merges that froze each other: the first of them thaws
    kind = strongest(source.profile)
    return _Found(ident, stored, Ident(kind, source.profile.id, source.key), source.profile, gone=False, frozen=[])


def _entry(key: Key, entries: Mapping[Key, Entry]) -> Entry:
    try:
        return entries[key]
    except KeyError:
        raise Missing(key) from None


def _target(first: _Found, others: Sequence[_Found], rules: ProfileRules) -> tuple[_Found, list[Source], list[Binding]]:
    """Which of the found is the customer; with it what joins them on that account."""
    if first.profile is not None:
        for found in others:
            if (
                found.profile is not None
                and found.name.key != first.name.key
                and _rank(found.profile) < _rank(first.profile)
                and _joins(found, known=True, user="user_id" in first.profile.ids)
            ):
                return found, [Source(first.name.key, first.profile, held=False)], []
        return first, [], []
    if first.frozen:
        return first, [], []
    for found in others:
        if found.profile is not None and _takes(found.profile, first.ident, found.ident, rules):
            if KINDS.index(first.ident.kind) < _rank(found.profile):
                return first, [Source(found.name.key, found.profile, held=False)], []
            return found, [], [Binding(first.ident, ())]
    return first, [], []


def _takes(profile: Profile, ident: Ident, by: Ident, rules: ProfileRules) -> bool:
    """Whether `ident`, never seen, is the customer `profile` that `by` came with."""
    held = profile.ids.get(ident.kind, ())
    if by.kind not in WEAK:
        return len(held) < rules.hold_limit(ident.kind)
    if ident.kind in WEAK:
        return not profile.known and len(held) < rules.bind_limit(by.kind)
    return not profile.known


def _has_room(profile: Profile | None, ident: Ident, rules: ProfileRules) -> bool:
    if profile is None or ident.kind in WEAK:
        return True
    return len(profile.ids.get(ident.kind, ())) < rules.hold_limit(ident.kind)


def _joins(found: _Found, *, known: bool, user: bool) -> bool:
    """Whether the stored customer `found` is the one at hand, who is `known` or not and has a `user` id or not."""
    other = found.profile
    if other is None or not other.known:
        return True
    if not known or found.ident.kind in WEAK:
        return False
    return not (user and "user_id" in other.ids)


def _view(name: Ident, base: Profile | None, sources: Iterable[Source], rules: ProfileRules, now: float) -> Profile:
    view = base
    for source in sources:
        if source.held:
            continue
        if view is None:
            view = fresh(name, rules, source.profile.created)
        view = merge(view, source.profile, source.key, rules, now)
    return view or fresh(name, rules, now)


def strongest(profile: Profile) -> IdKind:
    """The kind of the profile's canonical id."""
    return next(kind for kind in KINDS if kind in profile.ids)


def _rank(profile: Profile) -> int:
    return KINDS.index(strongest(profile))
