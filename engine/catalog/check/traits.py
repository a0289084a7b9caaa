"""Checks `traits.yaml` and filters of triggers: required keys, reserved names, and traits that nothing reads."""

from collections.abc import Iterator, Mapping
from typing import Final

from engine.catalog.check.decode import FieldProblem
from engine.catalog.check.defined_names import DefinedNames, check_defined
from engine.catalog.conditions.compile import condition_fields
from engine.catalog.conditions.dates import reads_now
from engine.catalog.plan.audience_names import audience_names
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from engine.catalog.spec.fields import seconds
from engine.catalog.spec.folder import Specs
from engine.catalog.spec.segments import groups_in, segments_in
from engine.catalog.spec.traits import LONGEST_DAYS, TraitSpec
from engine.customer import KINDS
from engine.errors import Problem
from engine.vocabulary import AUDIT_EVENTS, DAY, EXPOSURE, MERGED, PAGE_CONTEXT, RESERVED_CONTEXT, WORTH_ATTRIBUTES

OF_PROPERTY: Final = frozenset(("sum", "mean", "min", "max", "first", "last", "distinct"))
ALWAYS_NUMBERS: Final = frozenset(("count", "sum", "rate", "distinct"))
"""Aggregates that are a number for every customer."""
TAKEN: Final = WORTH_ATTRIBUTES | RESERVED_CONTEXT | {"affinity", "satisfaction", "timezone", "device", *KINDS}
NEVER_SENT: Final = AUDIT_EVENTS | {EXPOSURE, MERGED}


def trait_problems(specs: Specs, known: DefinedNames) -> Iterator[Problem]:
    """Yield the problems of the shop's traits and of triggers' filters."""
    for name, spec in specs.traits.traits.items():
        for path, message in (*_check_name(name), *_check_trait(spec), *_check_filter(spec.filter, known)):
            yield Problem(f"{specs.folder}/traits.yaml", f"{name}.{path}" if path else name, message)
    for index, moment in enumerate(specs.moments.values()):
        where = f"moments[{index}].trigger"
        if moment.trigger.filter and moment.trigger.event is None:
            message = "is of an event's properties, and the trigger has no event; add 'event: …', or write 'when: …'"
            yield Problem(f"{specs.folder}/moments.yaml", f"{where}.filter", message)
        for path, message in _check_filter(moment.trigger.filter, known):
            yield Problem(f"{specs.folder}/moments.yaml", f"{where}.{path}", message)


def rfm_problems(specs: Specs) -> Iterator[Problem]:
    """Yield RFM segments with repeated names or empty ranges, and lists that leave customers without a segment."""
    segments = specs.grouping.rfm
    for index, segment in enumerate(segments):
        path = f"rfm[{index}]"
        if segment.name in [one.name for one in segments[:index]]:
            message = f"{segment.name!r} is given twice; give each segment its own name"
            yield Problem(f"{specs.folder}/segments.yaml", f"{path}.name", message)
        for name in ("recency", "frequency", "monetary"):
            scores = getattr(segment, name)
            if scores is not None and scores[0] > scores[1]:
                message = f"{scores} is empty; put the lowest score first"
                yield Problem(f"{specs.folder}/segments.yaml", f"{path}.{name}", message)
        if segment.takes_all != (index == len(segments) - 1):
            rule = "takes every customer, so segments below it stay empty" if segment.takes_all else "is the last"
            message = f"{rule}; end the list with a segment without scores, for everyone else"
            yield Problem(f"{specs.folder}/segments.yaml", path, message)


def find_unread_traits(specs: Specs) -> Iterator[Problem]:
    """Yield traits that no condition, moment or policy reads, since they take space in every profile."""
    read = audience_names(specs) | set(_features(specs))
    for name in specs.traits.traits:
        if name not in read:
            message = "is read by no condition, moment, segment or policy; use it, or remove it"
            yield Problem(f"{specs.folder}/traits.yaml", name, message)


def always_numbers(specs: Specs) -> frozenset[str]:
    """The shop's traits that are a number for every customer."""
    return frozenset(
        name
        for name, spec in specs.traits.traits.items()
        if any(aggregate in ALWAYS_NUMBERS for aggregate, _ in spec.aggregates())
    )


def _check_name(name: str) -> Iterator[FieldProblem]:
    if name in TAKEN:
        yield "", f"{name!r} is an attribute of the engine; choose another name, such as own_{name}"
    elif name in PAGE_CONTEXT:
        yield "", f"{name!r} is a name that pages send in their context; choose another one, such as own_{name}"


def _check_trait(spec: TraitSpec) -> Iterator[FieldProblem]:
    given = spec.aggregates()
    if len(given) != 1:
        names = " and ".join(name for name, _ in given) or "none"
        yield (
            "",
            f"has {names}; give exactly one of count, sum, mean, min, max, first, last, distinct, rate, time_since",
        )
        return
    aggregate, event = given[0]
    if event in NEVER_SENT or event.startswith("$"):
        yield aggregate, f"{event!r} is never sent to /v1/events, so nothing is computed; name an event that is"
    if aggregate in OF_PROPERTY and spec.of is None:
        yield "of", f"is missing; name the property whose {aggregate} it is, such as 'of: revenue'"
    if aggregate not in OF_PROPERTY and spec.of is not None:
        yield "of", f"a {aggregate} reads no property; leave it out, or write 'filter: …'"
    if aggregate == "rate" and spec.window is None:
        yield "window", "is missing; a rate is of the events of a span, such as 'window: 7d'"
    if aggregate != "rate" and spec.per is not None:
        yield "per", f"a {aggregate} has none; leave it out, or write 'rate: {event}'"
    if spec.window is not None and seconds(spec.window) > LONGEST_DAYS * DAY:
        yield "window", f"{spec.window} is over {LONGEST_DAYS}d, the longest; shorten it, or leave it out for all time"


def _check_filter(condition: Mapping[str, object], known: DefinedNames) -> Iterator[FieldProblem]:
    if reads_now(condition):
        yield "filter", "compares with now, but a counted event must stay counted; compare with a fixed time"
    for name in segments_in(condition):
        yield (
            "filter",
            f"{name!r} is a segment of customers, and this is a condition on an event's properties; remove it",
        )
    for name in groups_in(condition):
        yield from check_defined("filter", name, known.lists, "the lists of values in segments.yaml")
    if "$now" in condition_fields(condition):
        yield "filter", "'$now' is not a property of an event; compare with a fixed time"


def _features(specs: Specs) -> Iterator[str]:
    """Yield the traits that policies read."""
    policies: list[PolicySpec] = [selection.policy for selection in specs.selections.values()]
    policies += [
        variant.policy for spec in specs.experiments.values() for variant in spec.variants if variant.policy is not None
    ]
    for policy in policies:
        for feature in (*policy.features, *policy.pool):
            yield feature.trait if isinstance(feature, FeatureSpec) else feature
