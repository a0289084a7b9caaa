"""Warns of comparisons that unknown visitors pass, and of dates that are compared as text.

A missing trait is null, as in GrowthBook: in comparisons it counts as 0, as version 0, and in patterns as the text
`null`. A pattern, a list of items or a date never matches it, but its negation does.
"""

from collections.abc import Iterator, Mapping

from engine.catalog.check.traits import always_numbers
from engine.catalog.conditions.check import is_operators
from engine.catalog.conditions.compile import compile_condition
from engine.catalog.conditions.dates import DATE_OPERATORS, looks_like_date
from engine.catalog.spec.folder import Specs
from engine.errors import Problem

_NUMBERS = frozenset(("$lt", "$lte", "$gt", "$gte"))
_VERSIONS = frozenset(("$vlt", "$vlte", "$vgt", "$vgte"))
_PATTERNS = frozenset(("$regex", "$regexi"))
_DATES = frozenset(DATE_OPERATORS)
ALWAYS_PRESENT = frozenset(
    ("loyalty.points", "loyalty.tier", "visits", "frequency", "monetary", "orders.count", "orders.revenue")
) | {"hour", "weekday"}
"""Numeric traits that every customer has."""

TraitTerm = tuple[str, Mapping[str, object], bool]
"""A trait, the operators that its value must meet, and whether the condition holds where they do not."""


def find_null_comparisons(specs: Specs) -> Iterator[Problem]:
    """Yield comparisons in the shop's conditions that a customer without the trait also passes."""
    present = ALWAYS_PRESENT | always_numbers(specs)
    for file, path, condition in list_conditions(specs):
        terms = list(_list_terms(condition))
        must_exist = {trait for trait, operators, negated in terms if not negated and operators.get("$exists") is True}
        for trait, operators, negated in terms:
            names = set(_list_names(operators))
            effect = _null_effect(names)
            if trait in present or trait in must_exist or effect is None:
                continue
            holds = compile_condition({trait: operators})({})
            if holds is not negated or (holds and names & (_NUMBERS | _VERSIONS)):
                comparison = ", ".join(f"{name}: {value}" for name, value in operators.items())
                message = (
                    f"{'not ' if not holds else ''}{comparison} also holds for customers without this trait{effect}; "
                    "add '$exists: true' to exclude them"
                )
                yield Problem(file, f"{path}.{trait}", message)


def find_text_dates(specs: Specs) -> Iterator[Problem]:
    """Yield order comparisons with a date: texts are compared by characters, and offsets are ignored."""
    for file, path, condition in list_conditions(specs):
        for trait, operators, _ in _list_terms(condition):
            for name, operand in _list_operands(operators):
                if name in _NUMBERS and looks_like_date(operand):
                    operator = "$before" if name.startswith("$lt") else "$after"
                    time = operand if "T" in str(operand).upper() else f"{operand}T00:00:00Z"
                    message = (
                        f"{name} compares {operand!r} as text, letter by letter, and no epoch or other offset with it; "
                        f"write '{operator}: {time}'"
                    )
                    yield Problem(file, f"{path}.{trait}", message)


def _null_effect(names: set[str]) -> str | None:
    """The value that these operators use for a missing trait; None if a match of it is expected."""
    if names & _NUMBERS:
        return ", where it counts as 0"
    if names & _VERSIONS:
        return ", where it counts as version 0"
    if names & _PATTERNS:
        return ", where it counts as the text 'null'"
    return "" if names & _DATES else None


def list_conditions(specs: Specs) -> Iterator[tuple[str, str, Mapping[str, object]]]:
    """Yield every condition of the shop that may still apply, with its file and path."""
    for file, prefix, experiment in specs.all_experiments():
        if experiment.status not in {"stopped", "shipped"}:
            yield file, f"{prefix}audience", experiment.audience
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
    for index, campaign in enumerate(specs.campaigns.values()):
        yield f"{specs.folder}/campaigns.yaml", f"campaigns[{index}].audience", campaign.audience
        for at, reach in enumerate(campaign.channels):
            yield f"{specs.folder}/campaigns.yaml", f"campaigns[{index}].channels[{at}].when", reach.when


def _list_terms(condition: Mapping[str, object], *, negated: bool = False) -> Iterator[TraitTerm]:
    """Yield the terms of a condition that use operators, at any depth."""
    for key, value in condition.items():
        if key == "$not" and isinstance(value, Mapping):
            yield from _list_terms(value, negated=not negated)
        elif key in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                if isinstance(part, Mapping):
                    yield from _list_terms(part, negated=negated is not (key == "$nor"))
        elif isinstance(value, Mapping) and is_operators(value) and not key.startswith("$"):
            yield key, value, negated


def _list_operands(operators: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Yield the operators of a term with their operands, including those in a `$not`."""
    for name, operand in operators.items():
        yield name, operand
        if name == "$not" and isinstance(operand, Mapping):
            yield from _list_operands(operand)


def _list_names(operators: Mapping[str, object]) -> Iterator[str]:
    return (name for name, _ in _list_operands(operators))
