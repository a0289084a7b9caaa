"""Comparisons that also hold for whoever the trait is not known of: missing is null, and null compares as 0."""

from collections.abc import Iterator, Mapping

from engine.catalog.conditions.check import is_operators
from engine.catalog.conditions.compile import compile_condition
from engine.catalog.spec.folder import Specs
from engine.errors import Problem

COMPARED = frozenset(("$lt", "$lte", "$gt", "$gte"))
ALWAYS = frozenset(
    ("loyalty.points", "loyalty.tier", "visits", "frequency", "monetary", "orders.count", "orders.revenue")
) | {"hour", "weekday"}
"""Numbers that every customer has."""

TraitTerm = tuple[str, Mapping[str, object]]


def find_null_comparisons(specs: Specs) -> Iterator[Problem]:
    """The comparisons of the shop's conditions that strangers pass as well."""
    for file, path, condition in _conditions(specs):
        terms = list(_terms(condition))
        asked = {trait for trait, operators in terms if operators.get("$exists") is True}
        for trait, operators in terms:
            if trait in ALWAYS or trait in asked or not COMPARED & operators.keys():
                continue
            if compile_condition({trait: operators})({}):
                said = ", ".join(f"{name}: {value}" for name, value in operators.items())
                message = (
                    f"{said} also holds where it is not known, which counts as 0; "
                    "add '$exists: true' unless strangers are meant"
                )
                yield Problem(file, f"{path}.{trait}", message)


def _conditions(specs: Specs) -> Iterator[tuple[str, str, Mapping[str, object]]]:
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


def _terms(condition: Mapping[str, object]) -> Iterator[TraitTerm]:
    """What a condition asks of each trait, at any depth."""
    for key, value in condition.items():
        if key == "$not" and isinstance(value, Mapping):
            yield from _terms(value)
        elif key in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    yield from _terms(part)
        elif isinstance(value, Mapping) and is_operators(value) and not key.startswith("$"):
            yield key, value
