"""The units of a request: the ids over which assignment hashes, beside the customer's own."""

import math
from collections.abc import Collection, Mapping

from engine.catalog.conditions.js_coercion import read_member
from engine.catalog.spec.identifiers import is_placeholder
from engine.catalog.spec.units import Unit
from engine.decision.attributes import overlay_context

EXACT = 2**53
"""Beyond this a number of JSON is not exact, so that two ids could be one."""


def read_units(
    traits: Mapping[Unit, str], attributes: Mapping[str, object], placeholders: Collection[str]
) -> dict[Unit, str | None]:
    """The id of each unit of `units.yaml`, from its trait; None if the customer has no such id."""
    return {unit: read_unit(attributes, trait, placeholders) for unit, trait in traits.items()}


def read_unit(attributes: Mapping[str, object], trait: str, placeholders: Collection[str]) -> str | None:
    """The id in a trait: a text that is not a placeholder, or the digits of a whole number; otherwise None."""
    value: object = attributes
    for step in trait.split("."):
        value = read_member(value, step)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= EXACT:
        value = str(value)
    return value if isinstance(value, str) and not is_placeholder(value, None, placeholders) else None


def read_store(context: Mapping[str, object], placeholders: Collection[str]) -> str | None:
    """The store that a request names; None for a placeholder."""
    store = context.get("store")
    return store if isinstance(store, str) and not is_placeholder(store, None, placeholders) else None


def units_in_context(
    traits: Mapping[Unit, str], context: Mapping[str, object], placeholders: Collection[str]
) -> dict[Unit, str]:
    """The store and the units of `units.yaml` that the request names, independent of the customer."""
    attributes: dict[str, object] = {}
    overlay_context(attributes, context)
    found = {"store": read_store(context, placeholders), **read_units(traits, attributes, placeholders)}
    return {unit: name for unit, name in found.items() if name is not None}
