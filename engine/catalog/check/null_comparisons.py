"""Warns of comparisons that also hold where the trait is missing: a missing trait is null, and null compares as 0."""

from collections.abc import Iterator, Mapping

from engine.catalog.conditions.check import is_operators
from engine.catalog.conditions.compile import compile_condition
from engine.catalog.spec.folder import Specs
from engine.errors import Problem

COMPARISONS = frozenset(("$lt", "$lte", "$gt", "$gte"))
ALWAYS_PRESENT = frozenset(
    ("loyalty.points", "loyalty.tier", "visits", "frequency", "monetary", "orders.count", "orders.revenue")
) | {"hour", "weekday"}
"""Numeric traits that every customer has."""

TraitTerm = tuple[str, Mapping[str, object]]
"""A trait, and the operators that its value must meet."""


def find_null_comparisons(specs: Specs) -> Iterator[Problem]:
    """Yield the comparisons in the shop's conditions that a customer without the trait meets as well."""
    for file, path, condition in _list_conditions(specs):
        terms = list(_list_terms(condition))
        must_exist = {trait for trait, operators in terms if operators.get("$exists") is True}
        for trait, operators in terms:
            if trait in ALWAYS_PRESENT or trait in must_exist or not COMPARISONS & operators.keys():
                continue
            if compile_condition({trait: operators})({}):
                comparison = ", ".join(f"{name}: {value}" for name, value in operators.items())
                message = (
                    f"{comparison} also holds for customers without this trait, where it counts as 0; "
                    "add '$exists: true' to exclude them"
                )
                yield Problem(file, f"{path}.{trait}", message)


def _list_conditions(specs: Specs) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield every condition of the shop that may still apply, with its file and path."""
    for experiment in specs.experiments.values():
        if experiment.status != "stopped":
            yield specs.files[experiment.key], "audience", experiment.audience
    for selection in specs.selections.values():
        for index, weight in enumerate(selection.weights):
            yield specs.files[selection.key], f"weights[{index}].when", weight.when
    for key, offer in specs.offers.items():
        yield f"{specs.folder}/offers/{key}.yaml", "audience", offer.audience
    for index, segment in enumerate(specs.segments.values()):
        yield f"{specs.folder}/segments.yaml", f"segments[{index}].condition", segment.condition or {}
    for index, moment in enumerate(specs.moments.values()):
        yield f"{specs.folder}/moments.yaml", f"moments[{index}].audience", moment.audience
        yield f"{specs.folder}/moments.yaml", f"moments[{index}].trigger.when", moment.trigger.when


def _list_terms(condition: Mapping[str, object]) -> Iterator[TraitTerm]:
    """Yield the terms of a condition that use operators, at any depth."""
    for key, value in condition.items():
        if key == "$not" and isinstance(value, Mapping):
            yield from _list_terms(value)
        elif key in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    yield from _list_terms(part)
        elif isinstance(value, Mapping) and is_operators(value) and not key.startswith("$"):
            yield key, value
