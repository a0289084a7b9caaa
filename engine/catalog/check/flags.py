"""Checks flags with rules: variants, types of values, default and environments."""

from collections import Counter
from collections.abc import Iterator

from msgspec import UNSET
from msgspec.structs import replace

from engine.catalog.check.decode import FieldProblem, shorten_value, suggest_name
from engine.catalog.spec.experiment import ExperimentSpec, Prerequisite, RuleSpec, VariantSpec
from engine.catalog.spec.flags import expand_flag, has_type, list_variants, rule_names, value_of
from engine.catalog.spec.folder import Specs
from engine.errors import Problem


def flag_problems(specs: Specs) -> Iterator[Problem]:
    """Yield the problems of every flag, and flag keys that an experiment has."""
    for spec in specs.experiments.values():
        found = _check_flag(spec) if spec.kind == "flag" else _check_experiment(spec)
        yield from (Problem(specs.files[spec.key], path, message) for path, message in found)
    yield from _check_policy_keys(specs)


def prerequisite_problems(need: Prerequisite, other: ExperimentSpec | None) -> Iterator[FieldProblem]:
    """Yield the problems of one prerequisite by relative path; `other` is None if it is not defined."""
    given = [need.variants is not None, need.value is not UNSET, need.rules is not None, need.off is not None]
    if sum(given) != 1:
        yield "", f"has {sum(given)} of variants, value, rules and off; give exactly one"
    if other is None or not other.variants:
        return
    keys = [variant.key for variant in other.variants]
    for variant in need.variants or ():
        if variant not in keys:
            yield ".variants", f"{variant!r} is not in {need.experiment}; {suggest_name(variant, keys)}"
    names = rule_names(other.rules)
    for name in need.rules or ():
        if name not in names:
            yield ".rules", f"{name!r} is not a rule of {need.experiment}; {suggest_name(name, names)}"
    values = [value_of(variant, other.type) for variant in other.variants]
    if need.value is not UNSET and need.value not in values:
        shown = ", ".join(shorten_value(value) for value in values if value is not UNSET) or "none"
        yield ".value", f"{shorten_value(need.value)} is not a value of {need.experiment}; its values are {shown}"


def _check_experiment(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield keys of an experiment that only flags may have."""
    for name in ("rules", "default", "type", "environments", "holdouts"):
        if getattr(spec, name):
            yield name, "is a key of flags; write 'kind: flag', or leave it out"


def _check_flag(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield the problems of one flag, in each of its environments."""
    yield from _check_rules(spec, spec.rules, "rules")
    yield from _check_default(spec)
    if spec.rules:
        yield from _check_beside_rules(spec)
    yield from _check_values(spec, "")
    for name, override in spec.environments.items():
        path = f"environments.{name}"
        if override.rules is not None:
            yield from _check_rules(spec, override.rules, f"{path}.rules")
        here = expand_flag(replace(spec, environments={name: override}), name)
        for where, message in [*_check_default(here), *_check_values(here, f"{path}.")]:
            yield where if where.startswith(path) else f"{path}.{where}", message


def _check_rules(spec: ExperimentSpec, rules: list[RuleSpec], path: str) -> Iterator[FieldProblem]:
    """Yield rules without a variant or with too many keys, and repeated names."""
    for index, rule in enumerate(rules):
        where = f"{path}[{index}]"
        if (rule.variant is None) == (not rule.variants):
            yield where, "has a variant and variants, or neither; give it one of the two"
        for at, variant in enumerate(rule.variants):
            if variant.policy or variant.offers:
                yield (
                    f"{where}.variants[{at}]",
                    "chooses offers, which a flag does not; use an experiment on a placement",
                )
        keys = [variant.key for variant in spec.variants]
        named = [(".variant", rule.variant)] if rule.variant is not None else []
        named += [(f".variants[{at}].key", variant.key) for at, variant in enumerate(rule.variants)]
        for key_path, name in named:
            if name not in keys:
                yield where + key_path, f"{name!r} is not a variant; {suggest_name(name, keys)}"
    for name, times in Counter(rule.key for rule in rules if rule.key is not None).items():
        if times > 1:
            yield path, f"{name!r} names {times} rules; give each rule its own key"
    if spec.default is None and rules:
        yield "default", "is missing; name the variant of customers that no rule matches"


def _check_default(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    keys = [variant.key for variant in spec.variants]
    if spec.default is not None and spec.default not in keys:
        yield "default", f"{spec.default!r} is not a variant; {suggest_name(spec.default, keys)}"


def _check_beside_rules(spec: ExperimentSpec) -> Iterator[FieldProblem]:
    """Yield keys of a flag that only its rules may have."""
    for name, is_given in (
        ("coverage", spec.coverage != 1),
        ("ramp", bool(spec.ramp)),
        ("filters", bool(spec.filters)),
        ("layer", spec.layer is not None),
        ("sticky", spec.sticky),
        ("placement", spec.placement is not None),
        ("metrics", spec.metrics is not None),
    ):
        if is_given:
            yield name, "belongs to a rule where a flag has rules; move it there, or leave it out"


def _check_values(spec: ExperimentSpec, prefix: str) -> Iterator[FieldProblem]:
    """Yield values of a wrong type, variants without a value, and variants with two values."""
    given: dict[str, VariantSpec] = {}
    for variant in list_variants(spec):
        if variant.value is UNSET and not variant.payload:
            continue
        value = value_of(variant, spec.type)
        if variant.value is not UNSET and variant.payload and variant.payload not in ({"value": value}, value):
            yield f"{prefix}variants", f"{variant.key!r} has a value and a payload; leave one out"
        other = given.setdefault(variant.key, variant)
        if value_of(other, spec.type) != value:
            yield f"{prefix}variants", f"{variant.key!r} has two values; give its value once"
    for variant in spec.variants:
        value = value_of(variant, spec.type)
        if spec.type is None:
            continue
        if value is UNSET:
            yield f"{prefix}variants", f"{variant.key!r} has no value; give it one: {{key: …, value: …}}"
        elif not has_type(value, spec.type):
            message = f"{shorten_value(value)} of {variant.key!r} is not of the flag's type {spec.type} (TYPE_MISMATCH)"
            yield f"{prefix}variants", f"{message}; change the value or the type"


def _check_policy_keys(specs: Specs) -> Iterator[Problem]:
    """Yield experiments with a variant whose policy name equals another's, as `a.b` + `c` and `a` + `b.c`."""
    seen: dict[str, str] = {}
    for spec in specs.experiments.values():
        for index, variant in enumerate(spec.variants):
            if variant.policy is None and variant.offers is None:
                continue
            name = f"{spec.key}.{variant.key}"
            other = seen.setdefault(name, spec.key)
            if other != spec.key or name in specs.selections:
                message = f"{name!r} is also the policy of {other if other != spec.key else name}; rename the variant"
                yield Problem(specs.files[spec.key], f"variants[{index}].key", message)
