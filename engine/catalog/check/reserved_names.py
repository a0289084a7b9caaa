"""Warns of conditions and features that expect a caller's value under a name that the engine sets itself.

`id`, `channel`, `hour` and `weekday` are set in every decision, over what the request or the profile has under these
names. A condition that compares one of them with a value it never has was written for the caller's value.

| name | value in a decision |
|---|---|
| `id` | the customer's id, a text |
| `channel` | a channel of `channels.yaml` |
| `hour` | 0 up to 24 with its fraction, where the customer is |
| `weekday` | 0 (Monday) to 6, where the customer is |
"""

from collections.abc import Collection, Iterator, Mapping

from engine.catalog.check.null_comparisons import list_conditions
from engine.catalog.conditions.check import is_operators
from engine.catalog.spec.experiment import FeatureSpec, PolicySpec
from engine.catalog.spec.folder import Specs
from engine.errors import Problem
from engine.vocabulary import RESERVED_CONTEXT

_EQUAL = frozenset(("$eq", "$ne"))
_AMONG = frozenset(("$in", "$nin", "$ini", "$nini", "$all", "$alli"))
_ORDER = frozenset(("$lt", "$lte", "$gt", "$gte"))
_LAST = {"hour": 24, "weekday": 6}


def find_reserved_names(specs: Specs) -> Iterator[Problem]:
    """Yield comparisons of reserved names with values that the engine never sets."""
    channels = {channel.key for channel in specs.channels.channels}
    for file, path, condition in list_conditions(specs):
        for name, operator, value in _list_comparisons(condition):
            rule = _mismatch(name, operator, value, channels)
            if rule is not None:
                yield Problem(file, f"{path}.{name}", _message(name, value, rule))
    for file, path, feature in _list_features(specs):
        for value in (*(feature.one_of or ()), *(feature.range or ())):
            operator = "$lte" if feature.range else "$in"
            rule = _mismatch(feature.trait, operator, value, channels)
            if rule is not None:
                yield Problem(file, path, _message(feature.trait, value, rule))


def _message(name: str, value: object, rule: str) -> str:
    return (
        f"{name} {value!r}: {rule}; the engine sets {name} in every decision, over what a request sends under that "
        f"name; give the caller's value another name, such as sent_{name}"
    )


def _mismatch(name: str, operator: str, value: object, channels: Collection[str]) -> str | None:
    """The rule by which a reserved name never has this value; None if it may have it."""
    if name == "channel":
        known = ", ".join(sorted(channels))
        folded = {channel.lower() for channel in channels} if operator in {"$ini", "$nini"} else channels
        found = value.lower() if operator in {"$ini", "$nini"} and isinstance(value, str) else value
        return None if operator in _ORDER or found in folded else f"it is one of the channels {known}"
    if name == "id":
        return None if isinstance(value, str) else "it is the customer's id, a text"
    last = _LAST[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= last:
        return f"it is a number from 0 to {last}" + (", Monday is 0" if name == "weekday" else "")
    if name == "hour" and operator not in _ORDER:
        return f"it has its fraction (9.75 is a quarter to ten), so it is almost never equal; write '$gte: {value:g}'"
    if name == "weekday" and operator not in _ORDER and value != int(value):
        return "it is a whole number, Monday is 0"
    return None


def _list_comparisons(condition: object) -> Iterator[tuple[str, str, object]]:
    """Yield each comparison of a reserved name, at any depth: name, operator and value."""
    if not isinstance(condition, Mapping):
        return
    for key, value in condition.items():
        if key in {"$and", "$or", "$nor"} and isinstance(value, list):
            for part in value:
                yield from _list_comparisons(part)
        elif key == "$not":
            yield from _list_comparisons(value)
        elif key in RESERVED_CONTEXT:
            yield from ((key, *compared) for compared in _list_values(value))


def _list_values(operand: object) -> Iterator[tuple[str, object]]:
    if not isinstance(operand, Mapping) or not is_operators(operand):
        yield from () if operand is None else (("$eq", operand),)
        return
    for name, value in operand.items():
        if name == "$not":
            yield from _list_values(value)
        elif name in _AMONG and isinstance(value, list):
            yield from ((name, one) for one in value if one is not None)
        elif name in _EQUAL | _ORDER and value is not None:
            yield name, value


def _list_features(specs: Specs) -> Iterator[tuple[str, str, FeatureSpec]]:
    """Yield features and groups of policies that read a reserved name with values of their own."""
    for selection in specs.selections.values():
        yield from ((specs.files[selection.key], *one) for one in _features_of("policy", selection.policy))
    for experiment in specs.experiments.values():
        for index, variant in enumerate(experiment.variants):
            if variant.policy is not None:
                path = f"variants[{index}].policy"
                yield from ((specs.files[experiment.key], *one) for one in _features_of(path, variant.policy))


def _features_of(path: str, policy: PolicySpec) -> Iterator[tuple[str, FeatureSpec]]:
    for field, features in (("features", policy.features), ("pool", policy.pool)):
        for index, feature in enumerate(features):
            if isinstance(feature, FeatureSpec) and feature.trait in RESERVED_CONTEXT:
                yield f"{path}.{field}[{index}]", feature
