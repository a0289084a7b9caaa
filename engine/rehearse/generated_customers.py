"""Generates customers whose traits and consents have the values that a shop's conditions compare.

Every trait that a condition names is drawn from the values around its operands: those of a list, a number and its
neighbours, a date and the days beside it, or nothing. The trait of a unit has one of 50 ids, or none. Half of the
customers are made to meet one of the conditions, so that a narrow audience has members too. The shares among them are
those of no real shop.

Customer `c-N` is the same in every run with the same conditions.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice

from msgspec.structs import replace

from engine.catalog.check.null_comparisons import list_conditions
from engine.catalog.conditions.check import is_operators
from engine.catalog.conditions.compile import compile_condition, condition_fields, conjuncts
from engine.catalog.conditions.dates import read_date, read_span
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import expand_segments
from engine.catalog.spec.units import STORE_TRAIT
from engine.customer import Consent, Profile, Trait, TraitValue
from engine.customers.model.traits import CONSENT
from engine.hashing import uniform_draw
from engine.rehearse.customers import SampledCustomer
from engine.vocabulary import DAY, RESERVED_CONTEXT

CONSENTING = 0.75
"""The share of customers who consented to a purpose."""
MISSING = 0.25
"""The share of customers without a trait."""
STORES = 50
"""Stores that customers without one visit."""
MOST_ALTERNATIVES = 32
"""Alternatives of one condition (`$or`) that customers are made for."""
_TYPES: Mapping[str, TraitValue] = {"string": "text", "number": 1, "boolean": True, "array": ["item"]}

TraitOptions = Mapping[str, Sequence[TraitValue]]
"""Traits with the values to draw from; None stands for a missing trait."""


def make_customers(number: int, *shops: Specs, now: float = 0.0, key: str | None = None) -> list[SampledCustomer]:
    """Customers `c-0`, `c-1` … for these shops' conditions; without shops their profiles are empty.

    Args:
        number: how many.
        shops: the specs whose conditions give the values and whose offers give the purposes of consents.
        now: the time (s since 1970) that dates are drawn around, and of the consents.
        key: an experiment; where it has an audience, half of the customers are made for that one and no other. Where it
            is by store, each customer visits one.
    """
    conditions = [*_conditions(shops)]
    found: dict[str, dict[str, TraitValue]] = {}
    for condition in conditions:
        for trait, value in _list_values(condition, now):
            if trait not in RESERVED_CONTEXT - {"id"}:  # the engine sets the others in every decision
                found.setdefault(trait, {})[repr(value)] = value
    for shop in shops:
        for unit, trait in shop.units.traits.items():  # as many as stores, unless conditions name some
            found.setdefault(trait, {f"{unit}-{n}": f"{unit}-{n}" for n in range(STORES)})
    values = {trait: list(options.values()) for trait, options in found.items()}
    audience = _audience(shops, key) if key else {}
    recipes = [one for condition in ([audience] if audience else conditions) for one in _recipes(condition, values)]
    purposes = {offer.purpose for shop in shops for offer in shop.offers.values() if offer.purpose is not None}
    names = [value for value in values.pop("id", ()) if isinstance(value, str)]
    made = list(_draw(number, values, recipes, sorted(purposes), names, now=now))
    tested = (shop.experiments[key] for shop in shops if key in shop.experiments) if key else ()
    is_by_store = any(spec.unit == STORE_TRAIT for spec in tested)
    return [
        replace(one, context={STORE_TRAIT: f"store-{number % STORES}"}) if is_by_store else one
        for number, one in enumerate(made)
    ]


def _conditions(shops: Sequence[Specs]) -> Iterator[Mapping[str, object]]:
    for shop in shops:
        for *_, condition in list_conditions(shop):
            if condition:
                yield expand_segments(condition, shop.segments)


def _audience(shops: Sequence[Specs], key: str) -> Mapping[str, object]:
    """The audience of an experiment combined with its prerequisites'; empty if there is none."""
    for shop in shops:
        if key in shop.experiments:
            needed, parts = [key], []
            for name in needed:
                if name in shop.experiments:
                    experiment = shop.experiments[name]
                    needed += [one.experiment for one in experiment.prerequisites if one.experiment not in needed]
                    parts += [expand_segments(experiment.audience, shop.segments)] if experiment.audience else []
            return {"$and": parts} if parts else {}
    return {}


def _draw(
    number: int,
    values: TraitOptions,
    recipes: Sequence[TraitOptions],
    purposes: Sequence[str],
    names: Iterable[str],
    *,
    now: float,
) -> Iterator[SampledCustomer]:
    unused = iter(dict.fromkeys(names))
    for index in range(number):
        draw = f"generated-{index}"
        traits = {
            trait: _pick(draw, trait, options)
            for trait, options in values.items()
            if options and uniform_draw(draw, f"{trait}|missing") >= MISSING
        }
        consents = {purpose: uniform_draw(draw, f"{CONSENT}{purpose}") < CONSENTING for purpose in purposes}
        name = next(unused, None) if index % 4 == 0 else None
        if recipes and index % 2:
            recipe = recipes[index // 2 % len(recipes)]
            traits |= {trait: _pick(draw, trait, options) for trait, options in recipe.items() if trait != "id"}
            name = next(unused, None) if "id" in recipe else name
        yield SampledCustomer(_profile(name or f"c-{index}", traits, consents, now))


def _profile(name: str, traits: Mapping[str, TraitValue], consents: Mapping[str, bool], now: float) -> Profile:
    granted = dict(consents)
    for trait, value in traits.items():
        if trait.startswith(CONSENT) and value is not None:
            granted[trait.removeprefix(CONSENT)] = value is True
    return Profile(
        id=name,
        unit=name,
        traits={
            trait: Trait(value, now)
            for trait, value in traits.items()
            if value is not None and not trait.startswith(CONSENT)
        },
        consents={purpose: Consent(granted=is_granted, time=now) for purpose, is_granted in granted.items()},
    )


def _pick(draw: str, trait: str, options: Sequence[TraitValue]) -> TraitValue:
    return options[int(uniform_draw(draw, trait) * len(options))]


def _recipes(condition: Mapping[str, object], values: TraitOptions) -> Iterator[TraitOptions]:
    """For each alternative of a condition, its traits with values that meet it.

    An alternative that no value meets, such as a pattern or the time of day, gives no recipe for that trait.
    """
    for terms in islice(_alternatives(condition), MOST_ALTERNATIVES):
        by_trait: dict[str, list[Mapping[str, object]]] = {}
        for term in terms:
            fields = list(condition_fields(term))
            if len(fields) == 1:
                by_trait.setdefault(fields[0], []).append(term)
        recipe: dict[str, Sequence[TraitValue]] = {}
        for trait, parts in by_trait.items():
            matches = compile_condition({"$and": parts})
            met = [value for value in (*values.get(trait, ()), None) if matches(_nested(trait, value))]
            if met:
                recipe[trait] = met
        if recipe:
            yield recipe


def _alternatives(condition: Mapping[str, object]) -> Iterator[list[Mapping[str, object]]]:
    """The conjunctions, as lists of terms, of which at least one must be true."""
    found: list[list[Mapping[str, object]]] = [[]]
    for term in conjuncts(condition):
        parts = term.get("$or")
        options = [[term]]
        if isinstance(parts, list) and parts:
            options = [one for part in parts if isinstance(part, Mapping) for one in _alternatives(part)]
        found = [before + after for before in found for after in options][:MOST_ALTERNATIVES]
    yield from found


def _nested(trait: str, value: TraitValue) -> Mapping[str, object]:
    if value is None:
        return {}
    tree: object = value
    for step in reversed(trait.split(".")):
        tree = {step: tree}
    return tree if isinstance(tree, dict) else {}


def _list_values(condition: object, now: float) -> Iterator[tuple[str, TraitValue]]:
    """Yield the traits of a condition, at any depth, with values that it distinguishes."""
    if not isinstance(condition, Mapping):
        return
    for key, value in condition.items():
        if key in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                yield from _list_values(part, now)
        elif key == "$not":
            yield from _list_values(value, now)
        elif not str(key).startswith("$"):
            yield from ((key, one) for one in _operand_values(value, now) if one is not None)


def _operand_values(operand: object, now: float) -> Iterator[TraitValue]:
    if not isinstance(operand, Mapping) or not is_operators(operand):
        yield from _plain(operand)
        return
    for name, value in operand.items():
        match name:
            case "$in" | "$ini" | "$nin" | "$nini":
                for one in value if isinstance(value, list) else ():
                    yield from _plain(one)
            case "$lt" | "$lte" | "$gt" | "$gte" if isinstance(value, int | float):
                yield from (value - _step(value), value, value + _step(value))
            case "$veq" | "$vne" | "$vlt" | "$vlte" | "$vgt" | "$vgte":
                yield from ("0.0.1", str(value), "999.0.0")
            case "$before" | "$after" | "$within":
                yield from _dates(value, now)
            case "$regex" | "$regexi":
                yield from (re.sub(r"\\(.)|[\^$()*+?\[\]{}]", r"\1", one) for one in str(value).split("|"))
            case "$exists":
                yield True
            case "$type":
                yield _TYPES.get(str(value))
            case "$size":
                size = value if isinstance(value, int) else 1
                yield ["item"] * size
                yield ["item"] * (size + 1)
            case "$elemMatch":
                yield from ([one] for one in _operand_values(value, now) if not isinstance(one, list))
            case "$not":
                yield from _operand_values(value, now)
            case _:  # $eq, $ne, $all and texts that are compared
                yield from _plain(value)


def _plain(value: object) -> Iterator[TraitValue]:
    if isinstance(value, str | int | float):
        yield value
        if isinstance(value, bool):
            yield not value
    elif isinstance(value, list) and all(isinstance(one, str | int | float) for one in value):
        yield list(value)


def _step(value: float) -> float:
    return max(1.0, abs(value) // 10) if isinstance(value, float) else max(1, abs(value) // 10)


def _dates(operand: object, now: float) -> Iterator[str]:
    """Dates on both sides of a bound, or within and beyond a span."""
    span, center = operand if isinstance(operand, list) and len(operand) == 2 else (operand, "now")
    length = read_span(span)
    middle = now if "now" in {center, operand if isinstance(operand, str) else ""} else read_date(center)
    if length is None:
        length, middle = 2 * DAY, now if operand == "now" else read_date(operand)
    for offset in (-2.0, -0.5, 0.5, 2.0) if middle is not None else ():
        yield datetime.fromtimestamp((middle or 0.0) + offset * length, UTC).isoformat(timespec="seconds")
