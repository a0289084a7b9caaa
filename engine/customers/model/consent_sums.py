"""Decides which statements count for consents and summed traits of a customer with several identifiers.

Terms: a *statement* is a consent or a trait value; its *source* is the strongest identifier of its event, as an 8-digit
tag; a *link* joins two sources from the time of the first event that names both.

Invariants:
- A statement replaces all earlier statements of every source linked to its own by then. Statements made before a link
  count side by side, so a visitor's and a customer's are combined at login, and a later one replaces both.
- The result depends on the times of events, not on the order in which they arrive.
- Several current consents to one purpose: a denial wins, as of the newest of them. Several current values of a trait
  with the rule `sum` are added.
- The newest statement of each source and the minimal spanning forest of links suffice; both are stored up to
  `MOST_SOURCES`. Beyond it the oldest consents go before any denial, and the newest links, without which a consent
  replaces no denial of another source: past the bound a customer may be asked again, never addressed without consent.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

from msgspec.structs import replace

from engine.catalog.spec.identifiers import normalize_identifier
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, Consent, CustomerIds, IdKind, Link, Profile, Trait
from engine.customers.model.traits import as_number, combine_traits, trait_order

MOST_SOURCES = 64
MOST_PURPOSES = 100
"""Most purposes of consents in a profile; the answer to an event beyond it has a warning."""

Statement = TypeVar("Statement", Trait, Consent)
StatementOrder = Callable[[Statement], tuple[float | bool | str | bytes, ...]]


def source_tags(ids: CustomerIds) -> list[str]:
    """Returns the source tags of identifiers, strongest first; each is eight hexadecimal digits."""
    given = [(kind, value) for kind in KINDS if (value := getattr(ids, kind))]
    return [source_tag(kind, normalize_identifier(kind, value)) for kind, value in given]


def names_several(ids: CustomerIds) -> bool:
    """Whether there is more than one identifier, so that statements of several sources are linked."""
    given = (ids.user_id, ids.loyalty_card, ids.email, ids.phone, ids.anonymous_id, ids.device_id)
    return len(given) - given.count(None) > 1


def source_tag(kind: IdKind, value: str) -> str:
    """Returns the tag under which statements of one identifier are stored."""
    return blake2b(f"{kind}:{value}".encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def link_sources(profile: Profile, named: Sequence[str], time: float) -> Profile:
    """Returns the profile after an event at `time` (s since 1970) that names all these source tags."""
    new = [Link(min(named[0], other), max(named[0], other), time) for other in named[1:]]
    if all(any(old[:2] == link[:2] and old.time <= link.time for old in profile.links) for link in new):
        return profile
    links = earliest_links((*profile.links, *new))
    return profile if links == profile.links else settle_statements(replace(profile, links=links))


def earliest_links(links: Iterable[Link]) -> list[Link]:
    """Returns the minimal spanning forest of `links` by time: the earliest ones that connect the same sources."""
    parents: dict[str, str] = {}
    kept = []
    for link in sorted(set(links), key=lambda link: (link.time, link.a, link.b)):
        a, b = _root(parents, link.a), _root(parents, link.b)
        if a != b:
            kept.append(link)
            parents[b] = a
    return kept[:MOST_SOURCES]


def record_consent(profile: Profile, purpose: str, statement: Consent) -> Profile:
    """Returns the profile after a consent or denial; unchanged if it would exceed `MOST_PURPOSES`."""
    current = profile.consents.get(purpose)
    if current is None and len(profile.consents) >= MOST_PURPOSES:
        return profile
    before = profile.consent_statements.get(purpose) or ({current.by: current} if current is not None else {})
    statements = _newest(before, {statement.by: statement}, _consent_order)
    if len(statements) == 1:
        return replace(profile, consents=profile.consents | sole_consent(purpose, statements))
    return _combine_consents(
        replace(profile, consent_statements=profile.consent_statements | {purpose: statements}), [purpose]
    )


def record_summed_trait(profile: Profile, name: str, by: str, statement: Trait) -> Profile:
    """Returns the profile after a statement about a trait with the rule `sum`."""
    parts = _newest(profile.trait_statements.get(name, {}), {by: statement}, trait_order)
    return _add_up_traits(replace(profile, trait_statements=profile.trait_statements | {name: parts}), [name])


def settle_statements(profile: Profile) -> Profile:
    """Returns the profile with consents and summed traits recomputed from its statements and links."""
    return _add_up_traits(_combine_consents(profile, profile.consent_statements), profile.trait_statements)


def merge_consents(target: Profile, source: Profile, rules: ProfileRules) -> dict[str, object]:  # noqa: ARG001 (a Merger)
    """Returns the consents of a merged customer; the links of `target` are those of both profiles."""
    combined, consents = dict(target.consent_statements), dict(target.consents)
    for purpose, theirs in source.consents.items():
        ours = consents.get(purpose)
        mine = target.consent_statements.get(purpose) or ({ours.by: ours} if ours is not None else {})
        newest = _newest(mine, source.consent_statements.get(purpose) or {theirs.by: theirs}, _consent_order)
        if len(newest) > 1:
            combined[purpose] = newest
        else:
            consents |= sole_consent(purpose, newest)
    merged = _combine_consents(replace(target, consent_statements=combined, consents=consents), combined)
    return {"consents": merged.consents, "consent_statements": merged.consent_statements}


def merge_traits(target: Profile, source: Profile, rules: ProfileRules) -> dict[str, object]:
    """Returns the traits of a merged customer; the links of `target` are those of both profiles."""
    parts = dict(target.trait_statements)
    for name, values in source.trait_statements.items():
        parts[name] = _newest(parts.get(name, {}), values, trait_order)
    traits = combine_traits(target.traits, source.traits, rules)
    merged = _add_up_traits(replace(target, traits=traits, trait_statements=parts), parts)
    return {"traits": merged.traits, "trait_statements": merged.trait_statements}


def sole_consent(purpose: str, statements: Mapping[str, Consent]) -> dict[str, Consent]:
    """Returns the consent to a purpose if only one source made statements about it."""
    ((by, statement),) = statements.items()
    return {purpose: replace(statement, by=by)}


def current_statements(
    statements: Mapping[str, Statement], links: Sequence[Link], order: "StatementOrder[Statement]"
) -> list[Statement]:
    """Returns the statements that count, given the newest of each source; later in `order` replaces earlier."""
    if len(statements) == 1:
        return list(statements.values())
    parents: dict[str, str] = {}
    current: dict[str, list[Statement]] = {}  # by the root of a group of linked sources, its current statements
    waiting = deque(sorted(links, key=lambda link: link.time))
    for by, statement in sorted(statements.items(), key=lambda item: order(item[1])):
        while waiting and waiting[0].time <= statement.time:
            link = waiting.popleft()
            root, other = _root(parents, link.a), _root(parents, link.b)
            if root != other:
                parents[other] = root
                current[root] = current.pop(root, []) + current.pop(other, [])
        current[_root(parents, by)] = [statement]
    return [statement for group in current.values() for statement in group]


def _root(parents: dict[str, str], source: str) -> str:
    """Returns the representative of the group of `source`; shortens the paths on the way (union-find)."""
    while (parent := parents.get(source, source)) != source:
        parents[source] = source = parents.get(parent, parent)
    return source


def _newest(
    mine: Mapping[str, Statement], theirs: Mapping[str, Statement], order: "StatementOrder[Statement]"
) -> dict[str, Statement]:
    newest = dict(mine)
    for by, statement in theirs.items():
        newest[by] = max(newest.get(by, statement), statement, key=order)
    while len(newest) > MOST_SOURCES:
        del newest[min(newest, key=lambda by: (_denies(newest[by]), newest[by].time, by))]
    return newest


def _denies(statement: Trait | Consent) -> bool:
    return isinstance(statement, Consent) and not statement.granted


def _combine_consents(profile: Profile, purposes: Iterable[str]) -> Profile:
    """The combined consent: a denial among current statements wins, dated as the newest of them."""
    consents = dict(profile.consents)
    for purpose in purposes:
        current = current_statements(profile.consent_statements[purpose], profile.links, _consent_order)
        strictest = min(current, key=lambda c: (c.granted, c.expires or float("inf"), c.time, c.source))
        consents[purpose] = replace(strictest, time=max(statement.time for statement in current), by="")
    return replace(profile, consents=consents) if consents != profile.consents else profile


def _add_up_traits(profile: Profile, names: Iterable[str]) -> Profile:
    traits = dict(profile.traits)
    for name in names:
        current = current_statements(profile.trait_statements[name], profile.links, trait_order)
        newest = max(current, key=trait_order)
        numbers = sorted(n for statement in current if (n := as_number(statement.value)) is not None)
        traits[name] = replace(
            newest, value=sum(numbers) if numbers else newest.value, known=any(trait.known for trait in current)
        )
    return replace(profile, traits=traits) if traits != profile.traits else profile


def _consent_order(consent: Consent) -> tuple[float, bool, float, str]:
    """The sort key of consents; the newest sorts last, and of two at the same time the denial."""
    return consent.time, not consent.granted, -(consent.expires or float("inf")), consent.source
