"""What is told of a customer, trait by trait: which word stands when two differ."""

from collections.abc import Mapping
from typing import TypeGuard

import msgspec

from engine.catalog.spec.profile_rules import MergeRule, ProfileRules
from engine.customer import Scalar, Trait, TraitValue

TEXT = 512
ITEMS = 50
CONSENT = "consent."
"""What the name of a trait begins with that is a consent to the purpose after it."""


def flatten_traits(told: Mapping[str, object], prefix: str = "") -> dict[str, TraitValue]:
    """Traits under dotted names: `{"loyalty": {"tier": 2}}` is `{"loyalty.tier": 2}`.

    What is no trait (a text over 512 characters, a list of anything but scalars) is left out.
    """
    flat: dict[str, TraitValue] = {}
    for name, value in told.items():
        if isinstance(value, dict):
            flat |= flatten_traits(value, f"{prefix}{name}.")
        elif _fits(value):
            flat[f"{prefix}{name}"] = value
        elif isinstance(value, list):
            flat[f"{prefix}{name}"] = [item for item in value if _fits(item)][:ITEMS]
    return flat


def record_trait(held: dict[str, Trait], name: str, told: Trait, rules: ProfileRules) -> dict[str, Trait]:
    """The traits after one more word on `name`; the same whatever the order the words come in."""
    stands = held.get(name)
    rule = rules.merge.get(name, "recency")
    if stands is not None:
        told = _later(stands, told, rule, rules)
    elif len(held) >= rules.traits_limit:
        return held
    return held if told is stands else held | {name: told}


def merge_traits(a: dict[str, Trait], b: dict[str, Trait], rules: ProfileRules) -> dict[str, Trait]:
    """The traits of two profiles that are one customer; those that are added up are settled by `words`."""
    both = dict(a)
    for name, told in b.items():
        stands = both.get(name)
        if stands is not None:
            both[name] = _later(stands, told, rules.merge.get(name, "recency"), rules)
        elif len(both) < rules.traits_limit:
            both[name] = told
    return both


def _later(a: Trait, b: Trait, rule: MergeRule, rules: ProfileRules) -> Trait:
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
    """The order of words on one trait: the newest is the last."""
    return trait.time, trait.known, trait.source, msgspec.json.encode(trait.value)


def _place(source: str, rules: ProfileRules) -> int:
    return rules.sources.index(source) if source in rules.sources else len(rules.sources)


def _items(value: TraitValue) -> list[Scalar]:
    return value if isinstance(value, list) else [value]


def as_number(value: TraitValue) -> float | None:
    """The value as a number, None if it is none."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _fits(value: object) -> TypeGuard[Scalar]:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= TEXT)
