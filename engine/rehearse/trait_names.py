"""Finds the traits that a shop's YAML compares with texts, and those of a sample that it does not read."""

from collections.abc import Iterable, Iterator, Mapping

from engine.catalog.check.decode import suggest_name
from engine.catalog.check.null_comparisons import list_conditions
from engine.catalog.conditions.check import LOGICAL
from engine.catalog.conditions.compile import condition_fields
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from engine.catalog.spec.folder import Specs
from engine.rehearse.customers import SampledCustomer

READ_BY_ALL = frozenset(("timezone", "store", "device"))
"""Traits that decisions read of every customer."""


def unread_traits(sample: Iterable[SampledCustomer], *shops: Specs) -> list[str]:
    """A line for each trait of the sample that no file of the shops names, in the order of the sample."""
    given = dict.fromkeys(name for one in sample for name in one.profile.traits)
    if not given:
        return []
    read = READ_BY_ALL.union(*map(_names, shops))
    return [
        f"no file of the shop reads the trait {name!r}; {suggest_name(name, sorted(read), 'remove it or rename it')}"
        for name in given
        if not any(_is_part(name, other) or _is_part(other, name) for other in read)
    ]


def text_traits(*shops: Specs) -> frozenset[str]:
    """The traits that are only compared with texts, and ids of units."""
    texts: set[str] = set()
    others: set[str] = set()
    for specs in shops:
        operands = [term for *_, condition in list_conditions(specs) for term in _operands(condition, specs)]
        for policy in _policies(specs):
            lists = (one for one in (*policy.features, *policy.pool) if isinstance(one, FeatureSpec))
            operands += [(one.trait, value) for one in lists for value in one.one_of or ()]
        texts |= {trait for trait, value in operands if isinstance(value, str)}
        others |= {trait for trait, value in operands if isinstance(value, int | float)}
    return frozenset((texts | {trait for specs in shops for trait in specs.units.traits.values()}) - others)


def _operands(condition: Mapping[str, object], specs: Specs) -> Iterator[tuple[str, object]]:
    """Yield each trait of a condition with each compared value, at any depth."""
    for key, value in condition.items():
        if key in LOGICAL:
            parts = value if isinstance(value, list | tuple) else [value]
            for part in parts:
                if isinstance(part, Mapping):
                    yield from _operands(part, specs)
        elif not key.startswith("$"):
            yield from ((key, operand) for operand in _values(value, specs))


def _values(value: object, specs: Specs) -> Iterator[object]:
    if isinstance(value, Mapping):
        for name, operand in value.items():
            if name in {"$inGroup", "$notInGroup"} and operand in specs.segments:
                yield from specs.segments[str(operand)].values or ()
            elif name not in {"$exists", "$type", "$size"}:
                yield from _values(operand, specs)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item, specs)
    else:
        yield value


def _is_part(name: str, other: str) -> bool:
    return name == other or name.startswith(f"{other}.")


def _names(specs: Specs) -> frozenset[str]:
    """The names of the traits that conditions, policies, moments, strata, units and rules of merging read."""
    names = {name for *_, condition in list_conditions(specs) for name in condition_fields(condition)}
    for policy in _policies(specs):
        names |= {one if isinstance(one, str) else one.trait for one in (*policy.features, *policy.pool)}
    names |= {moment.trigger.date for moment in specs.moments.values() if moment.trigger.date is not None}
    strata = (experiment.analysis.stratum for _, _, experiment in specs.all_experiments())
    names |= {stratum for stratum in strata if stratum is not None}
    return frozenset(names | specs.customers.merge.keys() | set(specs.units.traits.values()))


def _policies(specs: Specs) -> Iterator[PolicySpec]:
    yield from (selection.policy for selection in specs.selections.values())
    for experiment in specs.experiments.values():
        yield from (variant.policy for variant in experiment.variants if variant.policy is not None)
