"""Checks connections and tables outside the log from the YAML alone, without connecting."""

from collections.abc import Iterator, Mapping
from typing import Final

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.spec.experiment import ExperimentSpec
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.metrics import MetricSpec
from engine.catalog.spec.sources import MAY_HAVE_ADDRESS, NEEDS_ADDRESS, NEEDS_PATH, SourceSpec
from engine.errors import Problem
from engine.metric_kinds import METRIC_KINDS

COMPARISONS: Final = frozenset(("$eq", "$ne", "$gt", "$gte", "$lt", "$lte"))
MEMBERSHIPS: Final = frozenset(("$in", "$nin"))
_LITERALS = (str, int, float, bool)


def source_problems(specs: Specs) -> Iterator[Problem]:
    """Yield repeated connections, and connections with missing or unused keys for their kind."""
    seen: set[str] = set()
    for index, source in enumerate(specs.sources.sources):
        found = list(_check_connection(source))
        if source.key in seen:
            found.append(("key", f"{source.key!r} is defined twice; give each connection its own key"))
        seen.add(source.key)
        for key, message in found:
            yield Problem(f"{specs.folder}/sources.yaml", f"sources[{index}].{key}", message)


def _check_connection(source: SourceSpec) -> Iterator[FieldProblem]:
    needs = {"path": source.kind in NEEDS_PATH, "address": source.kind in NEEDS_ADDRESS}
    remedies = {
        "path": "write the path of its folder or file",
        "address": "write the name of the environment variable that has its address",
    }
    for key, is_needed in needs.items():
        is_given = getattr(source, key) is not None
        if is_needed and not is_given:
            yield key, f"is missing; {remedies[key]}"
        elif is_given and not is_needed and not (key == "address" and source.kind in MAY_HAVE_ADDRESS):
            yield key, f"is not used by a connection of kind {source.kind}; leave it out"


def table_problems(metric: MetricSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of a metric's table: an unknown connection, a missing column, keys that need events."""
    table = metric.source
    if table is None:
        return
    yield from check_defined("source.at", table.at, known.sources, "sources.yaml")
    kind = METRIC_KINDS[metric.kind]
    if not kind.is_read_from_tables:
        able = [name for name, one in METRIC_KINDS.items() if one.is_read_from_tables]
        yield "kind", f"a {metric.kind} is not read from tables; use one of {', '.join(able)}"
    if (kind.needs_value or kind.is_money) and table.value is None:
        yield "source.value", f"is missing; a {metric.kind} needs the column that it adds up"
    for key in ("event", "value", "denominator", "denominator_value"):
        if getattr(metric, key) is not None:
            yield key, "is of events, and this metric is read from a table; name its columns under 'source'"
    if table.currency is not None and table.value is None:
        yield "source.currency", "is the currency of a value, and there is none; add 'value', or leave it out"
    if table.denominator is not None and not kind.has_denominator:
        yield "source.denominator", f"a {metric.kind} has none; leave it out, or write kind: ratio"
    if table.currency is not None and kind.has_denominator:
        yield "source.currency", "is not converted in a ratio; leave it out, and filter by currency"
    if kind.has_steps and table.event is None:
        yield "source.event", f"is missing; a {metric.kind} needs the column that has the events of its steps"
    if table.event is not None and not kind.has_steps:
        yield "source.event", f"a {metric.kind} has none; leave it out, and write a filter on the column"
    for at, step in enumerate(metric.ordered_steps if metric.steps else ()):
        yield from _check_filter(step.filter, f"steps[{at}].filter")
    yield from _check_filter(metric.filter, "filter")
    yield from _check_filter(metric.denominator_filter, "denominator_filter")


def _check_filter(condition: Mapping[str, object], key: str) -> Iterator[FieldProblem]:
    """Yield what a condition on columns may not contain: anything but comparisons with constants."""
    for column, wanted in condition.items():
        if column.startswith("$"):
            yield f"{key}.{column}", "does not apply to a table's columns; write 'column: value' lines"
            continue
        operators = wanted if isinstance(wanted, Mapping) else {"$eq": wanted}
        constants: list[object] = []
        for name, operand in operators.items():
            if name in MEMBERSHIPS:
                fits = isinstance(operand, list) and all(isinstance(one, _LITERALS) for one in operand)
            else:
                fits = name in COMPARISONS and isinstance(operand, _LITERALS)
            if not fits:
                able = ", ".join(sorted(COMPARISONS | MEMBERSHIPS))
                yield f"{key}.{column}", f"compares a table's column by {name!r}; use {able} with texts or numbers"
                break
            constants += operand if isinstance(operand, list) else [operand]
        else:
            if len({_kind_of(one) for one in constants}) != 1:
                found = f"compares a table's column with {constants!r:.80}, which is not of one kind"
                yield f"{key}.{column}", f"{found}; write texts only, numbers only, or true and false"


def _kind_of(literal: object) -> type:
    """The kind of a constant, as which its column is read: true and false are not numbers."""
    return next(kind for kind in (bool, str, float) if isinstance(literal, kind) or kind is float)


def exposures_problems(spec: ExperimentSpec, known: DefinedNames) -> Iterator[FieldProblem]:
    """Yield the problems of a table of exposures."""
    if spec.exposures is None:
        return
    yield from check_defined("exposures.at", spec.exposures.at, known.sources, "sources.yaml")
    if spec.unit != "customer":
        yield "exposures", f"are of customers, and the unit is {spec.unit}; leave them out, or write unit: customer"
    if spec.exposures.key is not None and spec.exposures.experiment is None:
        yield "exposures.experiment", "is missing; 'key' is a value of the column that names the experiment"
