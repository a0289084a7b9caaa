"""What several identifiers of one customer said, and which of it stands: the same whatever order it is heard in.

Who told something is the strongest identifier it came with, and identifiers are linked from the first moment that one
event names both. A word replaces all that was told before by whoever was linked then; what was told apart until a
later link stands beside it. So what a visitor and a customer said before the login is combined, and what is said
after it is the new word. The newest word of each is enough to know, and the earliest links that hold them together.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar

from msgspec.structs import replace

from engine.customer import KINDS, Consent, CustomerIds, IdKind, Link, Profile, Trait
from engine.customers.model.traits import as_number, trait_order
from engine.customers.redis.keys import normalize_identifier

MOST_SOURCES = 64

Statement = TypeVar("Statement", Trait, Consent)
StatementOrder = Callable[[Statement], tuple[float | bool | str | bytes, ...]]


def source_tags(ids: CustomerIds) -> list[str]:
    """The names of these identifiers among those of one customer, eight hexadecimal digits each; strongest first."""
    given = [(kind, value) for kind in KINDS if (value := getattr(ids, kind))]
    return [source_tag(kind, normalize_identifier(kind, value)) for kind, value in given]


def source_tag(kind: IdKind, value: str) -> str:
    """The name of one identifier as it is kept."""
    return blake2b(f"{kind}:{value}".encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()


def link_sources(profile: Profile, named: Sequence[str], time: float) -> Profile:
    """The profile after something at `time` (s since 1970) that named all these tellers."""
    new = [Link(min(named[0], other), max(named[0], other), time) for other in named[1:]]
    if all(any(old[:2] == link[:2] and old.time <= link.time for old in profile.links) for link in new):
        return profile
    links = earliest_links((*profile.links, *new))
    return profile if links == profile.links else settle_statements(replace(profile, links=links))


def earliest_links(links: Iterable[Link]) -> list[Link]:
    """The earliest links that hold together whom `links` do: their minimal forest."""
    group: dict[str, set[str]] = {}
    kept = []
    for link in sorted(set(links), key=lambda link: (link.time, link.a, link.b)):
        a, b = group.setdefault(link.a, {link.a}), group.setdefault(link.b, {link.b})
        if a is not b:
            kept.append(link)
            a |= b
            group.update(dict.fromkeys(b, a))
    return kept[:MOST_SOURCES]


def record_consent(profile: Profile, purpose: str, word: Consent) -> Profile:
    """The profile after one more word on a consent."""
    stands = profile.consents.get(purpose)
    before = profile.consent_statements.get(purpose) or ({stands.by: stands} if stands is not None else {})
    said = _newest(before, {word.by: word}, _of_consents)
    if len(said) == 1:
        return replace(profile, consents=profile.consents | sole_consent(purpose, said))
    return _settle_consents(
        replace(profile, consent_statements=profile.consent_statements | {purpose: said}), [purpose]
    )


def record_summed_trait(profile: Profile, name: str, by: str, word: Trait) -> Profile:
    """The profile after one more word on a trait of which the words told apart are added up."""
    parts = _newest(profile.trait_statements.get(name, {}), {by: word}, trait_order)
    return _settle_sums(replace(profile, trait_statements=profile.trait_statements | {name: parts}), [name])


def settle_statements(profile: Profile) -> Profile:
    """The profile with all words settled anew, as its links are now."""
    return _settle_sums(_settle_consents(profile, profile.consent_statements), profile.trait_statements)


def merge_statements(target: Profile, source: Profile) -> Profile:
    """`target` with the words and links of both, settled."""
    said, consents = dict(target.consent_statements), dict(target.consents)
    for purpose, stands in source.consents.items():
        ours = consents.get(purpose)
        mine = target.consent_statements.get(purpose) or ({ours.by: ours} if ours is not None else {})
        words = _newest(mine, source.consent_statements.get(purpose) or {stands.by: stands}, _of_consents)
        if len(words) > 1:
            said[purpose] = words
        else:
            consents |= sole_consent(purpose, words)
    parts = dict(target.trait_statements)
    for name, theirs in source.trait_statements.items():
        parts[name] = _newest(parts.get(name, {}), theirs, trait_order)
    links = earliest_links((*target.links, *source.links))
    return settle_statements(
        replace(target, consent_statements=said, consents=consents, trait_statements=parts, links=links)
    )


def sole_consent(purpose: str, said: Mapping[str, Consent]) -> dict[str, Consent]:
    """The consent on which one identifier alone has said something."""
    ((by, word),) = said.items()
    return {purpose: replace(word, by=by)}


def current_statements(
    words: Mapping[str, Statement], links: Sequence[Link], order: "StatementOrder[Statement]"
) -> list[Statement]:
    """The words that stand side by side, of the newest word of each teller; later in `order` replaces earlier."""
    if len(words) == 1:
        return list(words.values())
    group: dict[
        str, dict[str, Statement | None]
    ] = {}  # who was linked by then, and the word that stands, if it is theirs
    told = sorted(words.items(), key=lambda item: order(item[1]))
    waiting = sorted(links, key=lambda link: link.time)
    for by, word in told:
        while waiting and waiting[0].time <= word.time:
            _join(group, waiting.pop(0))
        mine = group.setdefault(by, {by: None})
        mine.update(dict.fromkeys(mine))
        mine[by] = word
    groups = {id(one): one for one in group.values()}
    return [word for one in groups.values() for word in one.values() if word is not None]


def _join(group: dict[str, dict[str, Statement | None]], link: Link) -> None:
    a, b = group.setdefault(link.a, {link.a: None}), group.setdefault(link.b, {link.b: None})
    if a is not b:
        a.update(b)
        group.update(dict.fromkeys(b, a))


def _newest(
    mine: Mapping[str, Statement], theirs: Mapping[str, Statement], order: "StatementOrder[Statement]"
) -> dict[str, Statement]:
    words = dict(mine)
    for by, word in theirs.items():
        words[by] = max(words.get(by, word), word, key=order)
    while len(words) > MOST_SOURCES:
        del words[min(words, key=lambda by: (words[by].time, by))]
    return words


def _settle_consents(profile: Profile, purposes: Iterable[str]) -> Profile:
    """Denied by any that stands is denied, as of the newest of them, so that only a later consent changes it."""
    consents = dict(profile.consents)
    for purpose in purposes:
        words = current_statements(profile.consent_statements[purpose], profile.links, _of_consents)
        worst = min(words, key=lambda c: (c.granted, c.expires or float("inf"), c.time, c.source))
        consents[purpose] = replace(worst, time=max(word.time for word in words), by="")
    return replace(profile, consents=consents) if consents != profile.consents else profile


def _settle_sums(profile: Profile, names: Iterable[str]) -> Profile:
    traits = dict(profile.traits)
    for name in names:
        words = current_statements(profile.trait_statements[name], profile.links, trait_order)
        newest = max(words, key=trait_order)
        numbers = sorted(n for word in words if (n := as_number(word.value)) is not None)
        traits[name] = replace(
            newest, value=sum(numbers) if numbers else newest.value, known=any(word.known for word in words)
        )
    return replace(profile, traits=traits) if traits != profile.traits else profile


def _of_consents(word: Consent) -> tuple[float, bool, float, str]:
    """The newest word stands; at the same moment a denial does."""
    return word.time, not word.granted, -(word.expires or float("inf")), word.source
