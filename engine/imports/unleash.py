"""Unleash's features, as its client API gives them: `{"version": 2, "features": […], "segments": […]}`.

An export of the admin's pages has strategies and environments beside the features (`featureStrategies`,
`featureEnvironments`); they are put together first. It names segments without their constraints, so a strategy in one
of those is not kept.

https://docs.getunleash.io/reference/activation-strategies. A strategy becomes rules: its constraints are the audience,
its rollout a filter by Unleash's own hash, its variants ranges of a second one. A feature without variants is a boolean
flag; one with variants has their payloads, and `code_default` where it is off or has none.
"""

import json
from collections.abc import Iterator, Mapping, Sequence

import msgspec
from msgspec.structs import replace

from engine.imports.draft import Draft, Split
from engine.imports.model import Json, Unsupported
from engine.imports.predicates import ALWAYS, NEVER, Hash, InRange, TraitTest, Tree, all_of, any_of, trait
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_number, read_source
from engine.imports.unleash_constraints import UnleashConstraint, attribute_of, read_constraint


class UnleashPayload(msgspec.Struct, frozen=True):
    """The payload of a variant; `value` is text, whatever the type."""

    type: str
    value: str


class UnleashOverride(msgspec.Struct, frozen=True, rename="camel"):
    """The values of an attribute that get a variant whatever their hash."""

    context_name: str
    values: list[str] = []


class UnleashVariant(msgspec.Struct, frozen=True):
    """A variant of a feature or strategy; its weight is a part of the sum of all weights."""

    name: str
    weight: int = 0
    payload: UnleashPayload | None = None
    stickiness: str | None = None
    overrides: list[UnleashOverride] | None = None


class UnleashStrategy(msgspec.Struct, frozen=True):
    """An activation strategy: it is on where all constraints and segments hold, for a share of the units."""

    name: str
    parameters: dict[str, str | int | float | bool] | None = None
    constraints: list[UnleashConstraint] | None = None
    segments: list[int] | None = None
    variants: list[UnleashVariant] | None = None
    disabled: bool | None = None


class UnleashDependency(msgspec.Struct, frozen=True):
    """A parent that must be on, or off, or have one of the variants."""

    feature: str
    enabled: bool = True
    variants: list[str] | None = None


class UnleashFeature(msgspec.Struct, frozen=True):
    """One feature."""

    name: str
    enabled: bool = False
    description: str | None = None
    strategies: list[UnleashStrategy] | None = None
    variants: list[UnleashVariant] | None = None
    dependencies: list[UnleashDependency] | None = None


class UnleashSegment(msgspec.Struct, frozen=True):
    """A segment: all of its constraints hold."""

    id: int
    name: str | None = None
    constraints: list[UnleashConstraint] | None = None


def read_unleash(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the features of a document.

    Raises:
        Unsupported: if it has no features.
    """
    raw = document.get("features")
    if not isinstance(raw, list):
        raise Unsupported("has no 'features'; give what Unleash's /api/client/features answers, or an export")
    if isinstance(document.get("featureStrategies"), list):
        raw = [_join_export(one, document) for one in _listed_mappings(document, "features")]
    features = {str(one.get("name")): one for one in raw if isinstance(one, Mapping)}
    shop.name_flags(features)
    listed = document.get("segments")
    segments = {
        str(one.get("id")): one for one in (listed if isinstance(listed, list) else []) if isinstance(one, Mapping)
    }
    for name, one in features.items():
        yield name, lambda one=one: _UnleashReader(one, shop, features, segments).read()  # type: ignore[misc]


class _UnleashReader:
    """Reads one feature into a draft."""

    def __init__(
        self, raw: object, shop: SharedParts, features: Mapping[str, object], segments: Mapping[str, object]
    ) -> None:
        self.feature = read_source(raw, UnleashFeature)
        self.shop, self.features, self.segments = shop, features, segments
        self.draft = Draft(self.feature.name, shop.keys[self.feature.name], self.feature.description)
        strategies = self.feature.strategies or []
        self.has_variants = bool(self.feature.variants) or any(one.variants for one in strategies)

    def read(self) -> Draft:
        """The draft of the feature."""
        draft, feature = self.draft, self.feature
        draft.default = draft.code_default() if self.has_variants else draft.variant(False)
        draft.is_off = not feature.enabled
        for need in feature.dependencies or []:
            self._depend(need)
        given = [one for one in feature.strategies or [] if not one.disabled]
        for strategy in given if feature.strategies else [UnleashStrategy("default")]:
            name = strategy.name
            tree = self._when(strategy)
            if tree != NEVER:
                self._decide(strategy, tree, name)
        return draft

    def _depend(self, need: UnleashDependency) -> None:
        parent = self.features.get(need.feature)
        if parent is None:
            self.draft.is_off = True
            self.draft.note(need.feature, "changed", "the parent is not in the document, so the feature is paused")
            return
        wanted: Json = {"experiment": self.shop.keys[need.feature]}
        if not need.enabled:
            self.draft.prerequisites.append({**wanted, "off": True})
            return
        with self.shop.reading(self.feature.name):
            other = _UnleashReader(parent, self.shop, self.features, self.segments).read()
        on = [key for key in other.variants if key != other.default and key in (need.variants or other.variants)]
        if on:
            self.draft.prerequisites.append({**wanted, "variants": on})
        else:
            self.draft.is_off = True
            self.draft.note(need.feature, "changed", "the parent never has such a variant, so the feature is paused")

    def _when(self, strategy: UnleashStrategy) -> Tree:
        """The condition under which a strategy is on."""
        parts: list[Tree] = [self._strategy(strategy)]
        for number in strategy.segments or []:
            raw = self.segments.get(str(number))
            if raw is None:
                self.draft.note(
                    strategy.name, "not kept", f"segment {number} is not in the document, so it is never on"
                )
                return NEVER
            segment = read_source(raw, UnleashSegment)
            if segment.constraints is None:
                why = f"segment {number} has no constraints in the document, so it is never on"
                self.draft.note(strategy.name, "not kept", f"{why}; give what /api/client/features answers")
                return NEVER
            parts += [self._constraint(strategy.name, one) for one in segment.constraints]
        parts += [self._constraint(strategy.name, one) for one in strategy.constraints or []]
        return all_of(parts)

    def _constraint(self, place: str, one: UnleashConstraint) -> Tree:
        try:
            return read_constraint(one)
        except Unsupported as error:
            self.draft.note(place, "not kept", f"{error}; the constraint never holds")
            return NEVER

    def _strategy(self, strategy: UnleashStrategy) -> Tree:
        """The condition under which a strategy is on, without its constraints."""
        parameters = {key: str(value) for key, value in (strategy.parameters or {}).items()}
        group = parameters.get("groupId") or self.feature.name
        match strategy.name:
            case "default":
                return ALWAYS
            case "userWithId":
                return trait("id", {"$in": _listed(parameters.get("userIds", ""))})
            case "remoteAddress":
                return any_of(
                    [TraitTest({"remoteAddress": {"$ip": one}}) for one in _listed(parameters.get("IPs", ""))]
                )
            case "flexibleRollout":
                return self._rollout(
                    strategy.name, parameters.get("rollout", "100"), group, parameters.get("stickiness", "default")
                )
            case "gradualRolloutUserId":
                return self._rollout(strategy.name, parameters.get("percentage", "0"), group, "userId")
            case "gradualRolloutSessionId":
                return self._rollout(strategy.name, parameters.get("percentage", "0"), group, "sessionId")
            case "gradualRolloutRandom":
                return self._rollout(strategy.name, parameters.get("percentage", "0"), group, "random")
            case other:
                why = f"the strategy {other!r} is a custom one, or needs more than the customer; it is never on"
                self.draft.note(strategy.name, "not kept", why)
                return NEVER

    def _rollout(self, place: str, share: str, group: str, stickiness: str) -> Tree:
        percent = read_number(share)
        if percent is None:
            self.draft.note(place, "not kept", f"{share!r} is not a percentage, so it is never on")
            return NEVER
        by = Hash(group, "unleash", unit=self._unit(place, stickiness))
        return InRange(by, 0.0, min(max(percent, 0), 100) / 100) if percent > 0 else NEVER

    def _unit(self, place: str, stickiness: str | None) -> str:
        """The attribute that is hashed."""
        if stickiness == "random":
            why = "a new choice at every request becomes one that a customer keeps"
            self.draft.note(place, "changed", why)
            return "userId"
        if stickiness in {None, "", "default"}:
            return "userId"
        return str(stickiness)

    def _decide(self, strategy: UnleashStrategy, tree: Tree, name: str) -> None:
        """Append the rules of a strategy that is on."""
        draft, feature = self.draft, self.feature
        parameters = {key: str(value) for key, value in (strategy.parameters or {}).items()}
        own = strategy.variants or []
        variants = own or feature.variants or []
        keys: list[str] = []
        for variant in variants:
            keys.append(draft.variant(_payload(variant), variant.name, within=keys))
        for variant, key in zip(variants, keys, strict=True):
            for override in [] if own else variant.overrides or []:
                attribute = attribute_of(override.context_name)
                draft.add(all_of([tree, trait(attribute, {"$in": override.values})]), key, f"{name}-{key}")
        total = sum(variant.weight for variant in variants)
        if not total:
            draft.add(tree, draft.variant(None, "on") if self.has_variants else draft.variant(True), name)
            return
        # The variants of a strategy are hashed like its rollout, those of a feature by a stickiness of their own.
        group = (parameters.get("groupId") or feature.name) if own else feature.name
        stickiness = parameters.get("stickiness") if own else variants[0].stickiness
        by = Hash(group, "unleash_variants", buckets=total, unit=self._unit(name, stickiness))
        ranges = _ranges(variants, keys, total)
        draft.add(tree, Split(by, ranges), name)
        if by.unit != "userId":
            draft.note(name, "changed", f"without {by.unit!r} the customer is hashed; the variant was a random one")
            draft.add(tree, Split(replace(by, unit="userId"), ranges), f"{name}-no-unit")


def _join_export(feature: Json, document: Json) -> Json:
    """A feature of an export in the form of the client API.

    Raises:
        Unsupported: if the export has several environments, of which only one can be meant.
    """
    name = feature.get("name")
    places = [one for one in _listed_mappings(document, "featureEnvironments") if one.get("featureName") == name]
    strategies = [one for one in _listed_mappings(document, "featureStrategies") if one.get("featureName") == name]
    environments = {str(one["environment"]) for one in (*places, *strategies) if one.get("environment") is not None}
    if len(environments) > 1:
        raise Unsupported(f"has {', '.join(sorted(environments))} of {name!r}; export one environment at a time")
    wanted: list[object] = []
    for one in _listed_mappings(document, "dependencies"):
        if one.get("feature") == name:
            wanted += _listed_mappings(one, "dependencies")
    return {
        **feature,
        "enabled": any(one.get("enabled") is True for one in places),
        "strategies": [{**one, "name": one.get("name") or one.get("strategyName")} for one in strategies],
        "variants": next((one["variants"] for one in places if one.get("variants")), feature.get("variants")),
        "dependencies": wanted or None,
    }


def _listed_mappings(document: Json, key: str) -> list[Json]:
    found = document.get(key)
    return [dict(one) for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def _ranges(variants: Sequence[UnleashVariant], keys: Sequence[str], total: int) -> list[tuple[str, float, float]]:
    """The range of each variant, by the sum of the weights before it."""
    ranges, low = [], 0
    for variant, key in zip(variants, keys, strict=True):
        ranges.append((key, low / total, (low + variant.weight) / total))
        low += variant.weight
    return ranges


def _payload(variant: UnleashVariant) -> object:
    """The value of a variant: its payload as its type says, its name without one."""
    payload = variant.payload
    if payload is None:
        return variant.name
    if payload.type == "number":
        number = read_number(payload.value)
        return payload.value if number is None else number
    if payload.type == "json":
        try:
            return json.loads(payload.value)
        except ValueError:
            return payload.value
    return payload.value


def _listed(text: str) -> list[str]:
    """The items of a list that is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]
