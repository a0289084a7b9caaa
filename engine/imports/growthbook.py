"""GrowthBook's features, as its SDK endpoint gives them: `{"features": {…}, "savedGroups": {…}}`.

https://docs.growthbook.io/lib/build-your-own: the hash, the ranges and the conditions are ours. A rollout there lets in
those whose place is at most its coverage; here a range ends before its upper end, so the range is one place longer.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from engine.catalog.conditions.compile import compile_condition
from engine.catalog.conditions.js_coercion import to_text
from engine.hashing import bucket_ranges
from engine.imports.draft import Draft, Split
from engine.imports.model import Criteria, Json, Note, Unsupported
from engine.imports.predicates import ALWAYS, Hash, InRange, TraitTest, Tree, all_of
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import quote_numbers, read_source

Pair = Annotated[list[float], Meta(min_length=2, max_length=2)]
_PLACES = {1: 1000, 2: 10_000}
EVERYONE = ["*"]
"""Stands for the variants of a feature that is not in the document, and so has one value for everyone: none."""


class GrowthBookFilter(msgspec.Struct, frozen=True, rename="camel"):
    """A filter, or a namespace, of an experiment."""

    seed: str
    ranges: list[Pair]
    hash_version: int = 2
    attribute: str = "id"


class GrowthBookParent(msgspec.Struct, frozen=True):
    """A prerequisite: a feature, and a condition on its `value`; with `gate` the feature has no value without it."""

    id: str
    condition: Criteria
    gate: bool = False


class GrowthBookMeta(msgspec.Struct, frozen=True):
    """An experiment's settings of one variation; with `passthrough` its units go on to the next rule."""

    key: str | None = None
    name: str | None = None
    passthrough: bool = False


class GrowthBookRule(msgspec.Struct, frozen=True, rename="camel"):
    """A rule of a feature: a forced value, a rollout or an experiment."""

    id: str | None = None
    key: str | None = None
    name: str | None = None
    condition: Criteria = {}
    force: object | UnsetType = UNSET
    coverage: float | None = None
    variations: list[object] = []
    contextual_variations: list[object] = []
    weights: list[float] | None = None
    hash_attribute: str = "id"
    fallback_attribute: str | None = None
    hash_version: int | None = None
    range: Pair | None = None
    ranges: list[Pair] | None = None
    namespace: tuple[str, float, float] | None = None
    filters: list[GrowthBookFilter] | None = None
    seed: str | None = None
    meta: list[GrowthBookMeta] = []
    parent_conditions: list[GrowthBookParent] = []
    bucket_version: int = 0
    min_bucket_version: int = 0


class GrowthBookFeature(msgspec.Struct, frozen=True, rename="camel"):
    """One feature."""

    default_value: object = None
    rules: list[GrowthBookRule] = []


def read_growthbook(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the features of a document.

    Raises:
        Unsupported: if it has no features.
    """
    features = document.get("features")
    if not isinstance(features, Mapping):
        raise Unsupported("has no 'features'; give what GrowthBook's SDK endpoint answers")
    shop.name_flags(features)
    groups = document.get("savedGroups")
    for name, values in (groups if isinstance(groups, Mapping) else {}).items():
        if listed := _with_texts(values):
            shop.add_segment(str(name), {"values": listed})
        else:
            shop.notes.append(Note("", f"savedGroups.{name}", "not kept", "is not a list of values, or an empty one"))
    for name, raw in features.items():
        yield name, lambda name=name, raw=raw: _GrowthBookReader(name, raw, shop, features).read()  # type: ignore[misc]


class _GrowthBookReader:
    """Reads one feature into a draft."""

    def __init__(self, name: str, raw: object, shop: SharedParts, features: Mapping[str, object]) -> None:
        self.feature = read_source(raw, GrowthBookFeature)
        self.draft = Draft(name, shop.keys[name])
        self.shop, self.features = shop, features

    def read(self) -> Draft:
        """The draft of the feature."""
        draft = self.draft
        draft.default = draft.variant(self.feature.default_value)
        for number, rule in enumerate(self.feature.rules, 1):
            self._read_rule(rule, rule.id or rule.key or f"rule{number}")
        return draft

    def _read_rule(self, rule: GrowthBookRule, name: str) -> None:
        if not {rule.hash_version or 1, *(one.hash_version for one in rule.filters or [])} <= _PLACES.keys():
            self.draft.note(name, "kept", "its version of the hash is not defined, so the rule decides for nobody")
            return
        tree = all_of([TraitTest(quote_numbers(rule.condition)) if rule.condition else ALWAYS, *self._admitted(rule)])
        needs = []
        for parent in rule.parent_conditions:
            met, other = self._variants_of(parent)
            if parent.gate and other:
                closed = [] if other is EVERYONE else [{"experiment": self.shop.keys[parent.id], "variants": other}]
                self.draft.add(ALWAYS, self.draft.code_default(), f"{name}-gate", {"prerequisites": closed})
            if not met:
                self.draft.note(name, "kept", "its prerequisite is never met, so the rule decides for nobody")
                return
            needs += [] if met is EVERYONE else [{"experiment": self.shop.keys[parent.id], "variants": met}]
        more: dict[str, object] = {"prerequisites": needs} if needs else {}
        if rule.force is not UNSET:
            self._force(rule, tree, name, more)
        elif len(rule.variations) > 1:
            self._experiment(rule, rule.variations, tree, name, more)
        elif len(rule.contextual_variations) > 1:
            why = (
                "a contextual bandit keeps the weights of all contexts together; write a policy to learn from contexts"
            )
            self.draft.note(name, "changed", why)
            self._experiment(rule, rule.contextual_variations, tree, name, more)
        else:
            self.draft.note(
                name, "not kept", "it has neither a value nor two variations, so it assigns no one; give it one of them"
            )

    def _force(self, rule: GrowthBookRule, tree: Tree, name: str, more: dict[str, object]) -> None:
        """A forced value, for all or for the part of them that a rollout lets in."""
        variant = self.draft.variant(rule.force)
        by = self._hash(rule, rule.seed or self.draft.source)
        if rule.range is not None:
            outcome: str | Split = Split(by, [(variant, rule.range[0], rule.range[1])])
        elif rule.coverage is None:
            outcome = variant
        else:
            high = rollout_end(rule.coverage, by.hash_version)
            if high == 0.0:
                self.draft.note(name, "not kept", "it lets nobody in")
                return
            outcome = Split(by, [(variant, 0.0, high)])
        self.draft.add(tree, outcome, name, more)

    def _experiment(
        self, rule: GrowthBookRule, variations: list[object], tree: Tree, name: str, more: Mapping[str, object]
    ) -> None:
        count = len(variations)
        by = self._hash(rule, rule.seed or rule.key or self.draft.source)
        coverage = 1.0 if rule.coverage is None else rule.coverage
        ranges = rule.ranges or [list(pair) for pair in bucket_ranges(count, coverage, rule.weights)]
        meta = [*rule.meta, *[GrowthBookMeta()] * count][:count]
        chosen: list[str] = []
        parts = []
        for index, (value, (low, high), about) in enumerate(zip(variations, ranges, meta, strict=False)):
            if about.passthrough:
                self.draft.note(
                    name, "kept", f"units of variation {index} go on to the next rule, as they passed through"
                )
                continue
            chosen.append(self.draft.variant(value, about.key or about.name or str(index), within=chosen))
            parts.append((chosen[-1], low, high))
        if rule.fallback_attribute or rule.bucket_version or rule.min_bucket_version:
            why = "stored (sticky) variations and the fallback attribute are not moved: the hash decides"
            self.draft.note(name, "changed", why)
        self.draft.add(tree, Split(by, parts), name, more)

    def _admitted(self, rule: GrowthBookRule) -> Iterator[Tree]:
        """Yield the shares that filters, or else the namespace, let in."""
        filters = rule.filters
        if filters is None and rule.namespace is not None:
            name, low, high = rule.namespace
            filters = [GrowthBookFilter(f"__{name}", [[low, high]], 1, rule.hash_attribute)]
        for each in filters or []:
            by = Hash(each.seed, hash_version=each.hash_version, unit=each.attribute)
            if len(each.ranges) != 1:
                raise Unsupported("has a filter with several ranges")
            yield InRange(by, each.ranges[0][0], each.ranges[0][1])

    def _hash(self, rule: GrowthBookRule, seed: str) -> Hash:
        return Hash(seed, hash_version=rule.hash_version or 1, unit=rule.hash_attribute)

    def _variants_of(self, parent: GrowthBookParent) -> tuple[list[str], list[str]]:
        """The variants of another feature with which a prerequisite is met, and the others; of a missing one all."""
        holds = compile_condition(parent.condition)
        if parent.id not in self.features:
            return (EVERYONE, []) if holds({"value": None}) else ([], EVERYONE)
        with self.shop.reading(self.draft.source):
            names = _GrowthBookReader(parent.id, self.features[parent.id], self.shop, self.features).read().variants
        met = [name for name, value in names.items() if holds({"value": value})]
        return met, [name for name in names if name not in met]


def rollout_end(coverage: float, version: int) -> float:
    """The end of the half-open range with the same places as GrowthBook's `place <= coverage`."""
    places = _PLACES[version]
    if coverage <= 0:
        return 0.0
    last = int(coverage * places)
    while last / places > coverage:
        last -= 1
    while (last + 1) / places <= coverage:
        last += 1
    return min((last + 1) / places, 1.0)


def _with_texts(values: object) -> list[object]:
    """The values of a group, with the texts of its numbers: an id is a text here."""
    listed = values if isinstance(values, list) else []
    return list(dict.fromkeys(one for value in listed for one in (value, to_text(value))))
