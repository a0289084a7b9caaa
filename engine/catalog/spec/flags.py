"""Flags: their variants' values, and the experiment that each of their rules stands for.

A rule `N` of the flag `F` is the experiment `F#N`: it has its own audience, seed and metrics, and everything that
shares, reports and checks ask of an experiment. What the flag answers is decided in `engine.decision.assign`.
"""

import re
from collections.abc import Iterator, Mapping

import msgspec
from msgspec import UNSET

from engine.catalog.spec.experiment import EnvironmentSpec, ExperimentSpec, FlagType, RuleSpec, VariantSpec

RULE = "#"
"""Stands between the key of a flag and the name of its rule: `checkout#de`."""
BOOLEANS: Mapping[str, bool] = {"on": True, "off": False, "true": True, "false": False, "yes": True, "no": False}
"""The variants of a boolean flag that need no value, by their keys."""
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def expand_flag(spec: ExperimentSpec, environment: str | None = None) -> ExperimentSpec:
    """The flag in `environment`, with each variant once and with its payload; an experiment stays unchanged."""
    override = spec.environments.get(environment) if environment else None
    if override is not None:
        spec = _override(spec, override)
    if spec.type is None and not spec.rules and spec.default is None:
        return _with_payloads(spec) if any(variant.value is not UNSET for variant in spec.variants) else spec
    named = {variant.key: variant for variant in spec.variants}
    declares_all = bool(spec.variants)  # then another name is a mistake, unless it comes with a value
    for variant in list_variants(spec):
        known = named.get(variant.key)
        if (known is None and not declares_all) or (_has_value(variant) and not (known and _has_value(known))):
            named[variant.key] = variant
    if spec.rules:  # the rules have the weights
        variants = [VariantSpec(key=one.key, payload=one.payload, value=one.value) for one in named.values()]
    else:
        variants = list(spec.variants or named.values())
    return _with_payloads(msgspec.structs.replace(spec, variants=variants))


def list_variants(spec: ExperimentSpec) -> Iterator[VariantSpec]:
    """Yield every variant that the flag names in any environment, in file order.

    One that is named alone has no value.
    """
    yield from spec.variants
    parts = [(spec.rules, spec.default), *((one.rules or [], one.default) for one in spec.environments.values())]
    for rules, default in parts:
        for rule in rules:
            if rule.variant is not None:
                yield VariantSpec(key=rule.variant)
            yield from rule.variants
        if default is not None:
            yield VariantSpec(key=default)


def rule_names(rules: list[RuleSpec]) -> list[str]:
    """The name of each rule: its key, the value of its audience's only trait, or its number as `rule1`."""
    names = [rule.key or _name_of_audience(rule.audience) for rule in rules]
    return [name if name and names.count(name) == 1 else f"rule{at}" for at, name in enumerate(names, 1)]


def rule_experiments(spec: ExperimentSpec) -> list[ExperimentSpec]:
    """The experiment of each rule of an expanded flag, in order; a rule with one variant is a flag."""
    values = {variant.key: variant for variant in spec.variants}
    return [
        ExperimentSpec(
            key=f"{spec.key}{RULE}{name}",
            kind="experiment" if len(rule.variants) > 1 else "flag",
            title=rule.title or spec.title,
            hypothesis=rule.hypothesis or spec.hypothesis,
            owner=spec.owner,
            unit=rule.unit or spec.unit,
            fallback_unit=rule.fallback_unit or spec.fallback_unit,
            seed=rule.seed or f"{spec.seed or spec.key}{RULE}{name}",
            hash_version=rule.hash_version,
            hash=rule.hash,
            buckets=rule.buckets,
            status=spec.status if rule.status == "running" else rule.status,
            ship=rule.ship,
            decided=rule.decided,
            start=rule.start or spec.start,
            end=rule.end or spec.end,
            channels=spec.channels,
            audience=rule.audience,
            coverage=rule.coverage,
            ramp=rule.ramp,
            prerequisites=rule.prerequisites,
            filters=rule.filters,
            tags=spec.tags,
            variants=[_with_value_of(values, variant) for variant in variants_of_rule(rule)],
            metrics=rule.metrics,
            analysis=rule.analysis,
        )
        for name, rule in zip(rule_names(spec.rules), spec.rules, strict=True)
    ]


def variants_of_rule(rule: RuleSpec) -> list[VariantSpec]:
    """The variants among which the rule chooses."""
    return [VariantSpec(key=rule.variant)] if rule.variant is not None else rule.variants


def is_constant(spec: ExperimentSpec) -> bool:
    """Whether a flag gives its default to its whole audience: it has no rules and nothing that needs the hash."""
    is_whole = spec.coverage == 1 and not (spec.ramp or spec.filters or spec.layer or spec.sticky or spec.metrics)
    has_shares = not is_whole or any(one.weight is not None or one.range is not None for one in spec.variants)
    return spec.default is not None and not spec.rules and not has_shares


def has_type(value: object, kind: FlagType) -> bool:
    """Whether a value has the flag's type; true is not a number. Null fits all: it keeps the default of the code."""
    if value is None:
        return True
    if kind == "boolean":
        return isinstance(value, bool)
    if kind == "number":
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, str if kind == "string" else Mapping)


def value_of(variant: VariantSpec, kind: FlagType | None) -> object:
    """A variant's value as in its file; without one, the value that its key stands for, else UNSET.

    A payload `{value: X}` is X, unless the flag's type is object.
    """
    if variant.value is not UNSET:
        return variant.value
    if variant.payload:
        return variant.payload["value"] if kind != "object" and variant.payload.keys() == {"value"} else variant.payload
    if kind == "boolean":
        return BOOLEANS.get(variant.key.lower(), UNSET)
    if kind == "number":
        try:
            return float(variant.key) if "." in variant.key else int(variant.key)
        except ValueError:
            return UNSET
    return {"object": {}, "string": variant.key}.get(kind or "", UNSET)


def _override(spec: ExperimentSpec, override: EnvironmentSpec) -> ExperimentSpec:
    """The flag with the keys that the environment overrides."""
    return msgspec.structs.replace(
        spec,
        status=override.status or spec.status,
        default=override.default or spec.default,
        rules=spec.rules if override.rules is None else override.rules,
    )


def _with_payloads(spec: ExperimentSpec) -> ExperimentSpec:
    """The spec in which each variant's value is also its payload."""
    variants = []
    for variant in spec.variants:
        value = value_of(variant, spec.type)
        if value is UNSET:
            variants.append(variant)
        else:
            payload = dict(value) if isinstance(value, Mapping) and spec.type in {None, "object"} else {"value": value}
            variants.append(msgspec.structs.replace(variant, payload=payload))
    return msgspec.structs.replace(spec, variants=variants)


def _has_value(variant: VariantSpec) -> bool:
    return variant.value is not UNSET or bool(variant.payload)


def _with_value_of(values: Mapping[str, VariantSpec], variant: VariantSpec) -> VariantSpec:
    """The variant of a rule with the payload that the flag has for its key."""
    known = values.get(variant.key)
    return variant if known is None else msgspec.structs.replace(variant, payload=known.payload, value=UNSET)


def _name_of_audience(audience: Mapping[str, object]) -> str | None:
    """`de` for `{country: DE}`, `employee` for `{employee: true}`; None for any longer condition."""
    if len(audience) != 1:
        return None
    [(trait, value)] = audience.items()
    if isinstance(value, Mapping) and len(value) == 1:
        [(operator, operand)] = value.items()
        one = isinstance(operand, list) and len(operand) == 1
        value = operand if operator == "$eq" else operand[0] if operator == "$in" and one else None
    name = trait if value is True else str(value).lower()
    known = isinstance(value, str | int) and not trait.startswith("$")
    return name if known and _NAME.fullmatch(name) else None
