"""Traits: flattening nested JSON, and the rule by which one of two differing statements wins."""

from collections.abc import Mapping
from typing import TypeGuard

import msgspec

from engine.catalog.spec.profile_rules import MergeRule, ProfileRules
from engine.customer import Scalar, Trait, TraitValue

TEXT = 512
ITEMS = 50
CONSENT = "consent."
"""Prefix of a trait's name that makes it a consent to the purpose after it."""


def flatten_traits(given: Mapping[str, object], prefix: str = "") -> dict[str, TraitValue]:
    """Returns traits under dotted names: `{"loyalty": {"tier": 2}}` becomes `{"loyalty.tier": 2}`.

    Values that are no traits (a text over 512 characters, an item of a list that is no scalar) are left out.
    """
    flat: dict[str, TraitValue] = {}
    for name, value in given.items():
        if isinstance(value, dict):
            flat |= flatten_traits(value, f"{prefix}{name}.")
        elif _fits(value):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, list):
            flat[f"{prefix}{name}"] = [item for item in value if _fits(item)][:ITEMS]
    return flat


def record_trait(held: dict[str, Trait], name: str, new: Trait, rules: ProfileRules) -> dict[str, Trait]:
    """Returns the traits after one more statement about `name`; the order of statements does not matter."""
    current = held.get(name)
    rule = rules.merge.get(name, "recency")
    if current is not None:
        new = _winner(current, new, rule, rules)
    elif len(held) >= rules.traits_limit:
        return held
    return held if new is current else held | {name: new}


def combine_traits(a: dict[str, Trait], b: dict[str, Trait], rules: ProfileRules) -> dict[str, Trait]:
    """Returns the traits of two profiles, each by its rule; `consent_sums` then computes those with the rule `sum`."""
    both = dict(a)
    for name, new in b.items():
        current = both.get(name)
        if current is not None:
            both[name] = _winner(current, new, rules.merge.get(name, "recency"), rules)
        elif len(both) < rules.traits_limit:
            both[name] = new
    return both


def _winner(a: Trait, b: Trait, rule: MergeRule, rules: ProfileRules) -> Trait:
    newest = max(a, b, key=trait_order)
    match rule:
        case "recency" | "sum":
            return newest
        case "known_wins":
            return max(a, b, key=lambda t: (t.known, trait_order(t)))
        case "source":
            return max(a, b, key=lambda t: (-_place(t.source, rules), trait_order(t)))
        case "union":
            items: dict[str, Scalar] = {repr(item): item for item in (*_items(a.value), *_items(b.value))}
            return Trait([items[key] for key in sorted(items)][:ITEMS], newest.time, newest.source, a.known or b.known)
        case "max":
            x, y = as_number(a.value), as_number(b.value)
            if x is None or y is None:
                return newest if x is y else (b if x is None else a)
            return Trait(max(x, y), newest.time, newest.source, a.known or b.known)


def trait_order(trait: Trait) -> tuple[float, bool, str, bytes]:
    """The sort key of statements about one trait; the newest sorts last."""
    return trait.time, trait.known, trait.source, msgspec.json.encode(trait.value)


def _place(source: str, rules: ProfileRules) -> int:
    return rules.sources.index(source) if source in rules.sources else len(rules.sources)


def _items(value: TraitValue) -> list[Scalar]:
    return value if isinstance(value, list) else [value]


def as_number(value: TraitValue) -> float | None:
    """Returns the value as a number, or None if it is not one."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fits(value: object) -> TypeGuard[Scalar]:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= TEXT)
