"""Compares an imported folder with GrowthBook's own rules, customer by customer.

The source is read from the document again and asked by GrowthBook's hash and ranges, as its SDK does; the folder is
asked by `decide`, as the service does. The customers are made up from the values that the conditions compare.
"""

from collections.abc import Mapping
from contextlib import suppress

import msgspec
from msgspec import UNSET

from engine.catalog.check.load import build_specs
from engine.catalog.conditions.compile import Predicate, compile_condition
from engine.catalog.plan.compile import compile_plan
from engine.catalog.plan.plan import Experiment
from engine.catalog.spec.flags import value_of
from engine.customer import CustomerIds
from engine.decision.decision import DecideRequest, decide
from engine.hashing import bucket, bucket_ranges, choose_variant, in_namespace
from engine.imports.growthbook import GrowthBookFeature, GrowthBookRule
from engine.imports.import_flags import to_yaml
from engine.imports.model import Criteria, ImportResult, Json, Unsupported
from engine.imports.source_values import read_source
from engine.rehearse.generated_customers import make_customers
from engine.traits.attributes import derive_attributes

NOW = 1_790_000_000.0
SHOWN = 20
"""Differences that a proof lists."""
_PASS = object()
"""A rule that gives no value, so that the next one is asked."""


class Difference(msgspec.Struct, frozen=True):
    """A customer whose value is not GrowthBook's."""

    feature: str
    customer: str
    growthbook: object
    here: object


class Proof(msgspec.Struct, frozen=True):
    """The numbers of compared values and customers, and the values that differ (at most 20)."""

    customers: int
    compared: int
    equal: int
    differences: list[Difference]


def prove_growthbook(
    document: Json, result: ImportResult, number: int = 10_000, existing: Mapping[str, bytes] | None = None
) -> Proof:
    """Compare the values of `number` customers under the imported folder with those of GrowthBook's rules.

    The folder has the `existing` files beside the imported ones.
    """
    source = _Source(document)
    new = {name: to_yaml(content) for name, content in result.files.items()}
    specs = build_specs("to", {**(existing or {}), **new})
    plan = compile_plan(specs)
    channel = "web" if "web" in plan.channels else next(iter(plan.channels))
    keys = {feature: key for feature, key in result.flags.items() if key is not None}
    compared = equal = 0
    differences: list[Difference] = []
    for one in make_customers(number, specs, now=NOW):
        profile = one.profile
        request = DecideRequest(
            customer=CustomerIds(user_id=profile.id),
            channel=channel,
            experiments=list(keys.values()),
            context=one.context,
        )
        assigned = decide(plan, {}, profile, request, NOW).assigned
        attributes = {**derive_attributes(profile, NOW), **one.context, "id": profile.id}
        for feature, key in keys.items():
            there = source.value(feature, attributes)
            here = _value(plan.experiments[key], assigned[key].assignment.index)
            compared += 1
            if msgspec.json.encode(here, order="sorted") == msgspec.json.encode(there, order="sorted"):
                equal += 1
            elif len(differences) < SHOWN:
                differences.append(Difference(feature, profile.id, there, here))
    return Proof(number, compared, equal, differences)


def _value(experiment: Experiment, index: int) -> object:
    """The value of a flag's variant, None without one."""
    return value_of(experiment.spec.variants[index], experiment.spec.type) if index >= 0 else None


class _Source:
    """GrowthBook's features with the lists of values that their conditions name."""

    def __init__(self, document: Json) -> None:
        self.features = _read_features(document["features"])
        self.predicates: dict[int, Predicate] = {}
        groups = document.get("savedGroups")
        self.groups = {
            str(name): [*values, *(str(value) for value in values)]
            for name, values in (groups if isinstance(groups, Mapping) else {}).items()
            if isinstance(values, list)
        }

    def value(self, name: str, attributes: Mapping[str, object]) -> object:
        """The value of a feature, by the first rule that gives one."""
        if name not in self.features:
            return None
        for rule in self.features[name].rules:
            found = self._rule(rule, name, attributes)
            if found is not _PASS:
                return found
        return self.features[name].default_value

    def _rule(self, rule: GrowthBookRule, name: str, attributes: Mapping[str, object]) -> object:
        for parent in rule.parent_conditions:
            if not self._compile(parent.condition)({"value": self.value(parent.id, attributes)}):
                return None if parent.gate else _PASS
        if not self._is_admitted(rule, attributes) or not self._compile(rule.condition)(attributes):
            return _PASS
        place = self._place(rule, rule.seed or (name if rule.force is not UNSET else rule.key or name), attributes)
        if rule.force is not UNSET:
            return rule.force if _is_in_rollout(rule, place) else _PASS
        variations = rule.variations or rule.contextual_variations
        if place is None or len(variations) < 2:
            return _PASS
        coverage = 1.0 if rule.coverage is None else rule.coverage
        ranges = rule.ranges or bucket_ranges(len(variations), coverage, rule.weights)
        index = choose_variant(place, [(pair[0], pair[1]) for pair in ranges])
        passes = 0 <= index < len(rule.meta) and rule.meta[index].passthrough
        return _PASS if index < 0 or passes else variations[index]

    def _is_admitted(self, rule: GrowthBookRule, attributes: Mapping[str, object]) -> bool:
        """Whether filters, or else the namespace, let the customer in."""
        if rule.filters is None:
            unit = attributes.get(rule.hash_attribute)
            return rule.namespace is None or (unit is not None and in_namespace(str(unit), rule.namespace))
        for one in rule.filters:
            unit = attributes.get(one.attribute)
            place = None if unit is None else bucket(one.seed, str(unit), one.hash_version)
            if place is None or not any(low <= place < high for low, high in one.ranges):
                return False
        return True

    def _compile(self, condition: Criteria) -> Predicate:
        """The predicate of a condition of the document, compiled once."""
        known = self.predicates.get(id(condition))
        if known is None:
            known = self.predicates[id(condition)] = compile_condition(condition, self.groups)
        return known

    def _place(self, rule: GrowthBookRule, seed: str, attributes: Mapping[str, object]) -> float | None:
        unit = attributes.get(rule.hash_attribute)
        return None if unit in (None, "") else bucket(seed, str(unit), rule.hash_version or 1)


def _read_features(raw: object) -> dict[str, GrowthBookFeature]:
    """The features as the import reads them, without the malformed, which it does not keep."""
    found: dict[str, GrowthBookFeature] = {}
    for name, one in (raw if isinstance(raw, Mapping) else {}).items():
        with suppress(Unsupported):
            found[name] = read_source(one, GrowthBookFeature)
    return found


def _is_in_rollout(rule: GrowthBookRule, place: float | None) -> bool:
    """Whether a rollout lets in who has this place: at most its coverage."""
    if rule.range is None and rule.coverage is None:
        return True
    if place is None or (rule.range is None and rule.coverage == 0):
        return False
    return rule.range[0] <= place < rule.range[1] if rule.range is not None else place <= (rule.coverage or 0.0)
