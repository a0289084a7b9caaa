"""LaunchDarkly's flags, as its data files and SDK endpoint give them: `{"flags": {…}, "segments": {…}}`.

https://docs.launchdarkly.com/sdk/features/flags-from-files. A flag that is off gives its off variation; here it is
paused, and its fallthrough is its last rule. The user's attributes are traits, those of another kind of context stand
under its name: `organization.key`.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import msgspec

from engine.imports.draft import Draft, Split
from engine.imports.launchdarkly_clauses import LaunchDarklyClause, read_clause, trait_path
from engine.imports.model import Json, Unsupported
from engine.imports.predicates import (
    ALWAYS,
    NEVER,
    Hash,
    InRange,
    TraitTest,
    Tree,
    all_of,
    any_of,
    has_shares,
    negate,
    to_condition,
    trait,
)
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_source

WHOLE = 100_000
"""The sum of the weights of a rollout."""


class LaunchDarklyWeight(msgspec.Struct, frozen=True):
    """One variation of a rollout."""

    variation: int
    weight: int
    untracked: bool = False


class LaunchDarklyRollout(msgspec.Struct, frozen=True, rename="camel"):
    """A choice by the hash of an attribute of one kind of context."""

    variations: list[LaunchDarklyWeight] = []
    bucket_by: str | None = None
    context_kind: str | None = None
    seed: int | None = None
    kind: str = "rollout"


class LaunchDarklyOutcome(msgspec.Struct, frozen=True):
    """A variation, or a rollout."""

    variation: int | None = None
    rollout: LaunchDarklyRollout | None = None


class LaunchDarklyRule(LaunchDarklyOutcome, frozen=True):
    """A rule: all of its clauses hold."""

    id: str | None = None
    clauses: list[LaunchDarklyClause] = []


class LaunchDarklyTarget(msgspec.Struct, frozen=True, rename="camel"):
    """The keys of contexts that get a variation."""

    values: list[str] = []
    variation: int = 0
    context_kind: str = "user"


class LaunchDarklyPrerequisite(msgspec.Struct, frozen=True):
    """A flag that must be on and give a variation."""

    key: str
    variation: int


class LaunchDarklyFlag(msgspec.Struct, frozen=True, rename="camel"):
    """One flag."""

    variations: list[object] = []
    on: bool = False
    off_variation: int | None = None
    fallthrough: LaunchDarklyOutcome = LaunchDarklyOutcome()
    targets: list[LaunchDarklyTarget] = []
    context_targets: list[LaunchDarklyTarget] = []
    rules: list[LaunchDarklyRule] = []
    prerequisites: list[LaunchDarklyPrerequisite] = []
    salt: str = ""


class LaunchDarklySegmentRule(msgspec.Struct, frozen=True, rename="camel"):
    """A rule of a segment; with a weight only that share of who meets its clauses is in the segment."""

    clauses: list[LaunchDarklyClause] = []
    weight: int | None = None
    bucket_by: str | None = None
    rollout_context_kind: str | None = None


class LaunchDarklySegmentTarget(msgspec.Struct, frozen=True, rename="camel"):
    """The keys of contexts of one kind."""

    values: list[str] = []
    context_kind: str = "user"


class LaunchDarklySegment(msgspec.Struct, frozen=True, rename="camel"):
    """A segment: who is included, or who is not excluded and meets one of the rules."""

    key: str = ""
    included: list[str] = []
    excluded: list[str] = []
    included_contexts: list[LaunchDarklySegmentTarget] = []
    excluded_contexts: list[LaunchDarklySegmentTarget] = []
    rules: list[LaunchDarklySegmentRule] = []
    salt: str = ""
    unbounded: bool = False


def read_launchdarkly(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the flags of a document.

    Raises:
        Unsupported: if it has no flags.
    """
    flags, values = document.get("flags"), document.get("flagValues")
    found: dict[str, object] = dict(flags) if isinstance(flags, Mapping) else {}
    for name, value in (values if isinstance(values, Mapping) else {}).items():
        found[name] = {"variations": [value], "on": True, "fallthrough": {"variation": 0}}
    if not isinstance(flags, Mapping) and not isinstance(values, Mapping):
        raise Unsupported("has neither 'flags' nor 'flagValues'; give a data file of LaunchDarkly")
    shop.name_flags(found)
    listed = document.get("segments")
    segments = listed if isinstance(listed, Mapping) else {}
    for name in found:
        yield name, lambda name=name: _LaunchDarklyReader(name, found, segments, shop).read()  # type: ignore[misc]


class _LaunchDarklyReader:
    """Reads one flag into a draft."""

    def __init__(
        self, name: str, flags: Mapping[str, object], segments: Mapping[str, object], shop: SharedParts
    ) -> None:
        self.flag = read_source(flags[name], LaunchDarklyFlag)
        self.name, self.flags, self.segments, self.shop = name, flags, segments, shop
        self.draft = Draft(name, shop.keys[name])
        keys: list[str] = []
        for value in self.flag.variations:
            keys.append(self.draft.variant(value, within=keys))
        self.keys = keys

    def read(self) -> Draft:
        """The draft of the flag."""
        flag, draft = self.flag, self.draft
        draft.is_off = not flag.on
        draft.default = draft.code_default() if flag.off_variation is None else self._key(flag.off_variation)
        for need in flag.prerequisites:
            self._depend(need)
        for target in self._targets():
            name = f"target-{self._key(target.variation)}"
            key = trait_path("key", target.context_kind)
            draft.add(trait(key, {"$in": target.values}), self._key(target.variation), name)
        for number, rule in enumerate(flag.rules, 1):
            name = rule.id or f"rule{number}"
            self._decide(self._clauses(rule.clauses, ()), rule, name)
        self._decide(ALWAYS, flag.fallthrough, "fallthrough")
        return draft

    def _decide(self, tree: Tree, outcome: LaunchDarklyOutcome, name: str) -> None:
        """Append a rule; where there is nothing to hash, LaunchDarkly gives the first variation with a weight."""
        found = self._outcome(outcome, name)
        self.draft.add(tree, found, name)
        if isinstance(found, Split) and found.by.unit != "id":
            self.draft.add(tree, next(key for key, low, high in found.parts if low < high), f"{name}-no-unit")

    def _targets(self) -> Iterator[LaunchDarklyTarget]:
        """Yield the targets with their keys; a user's target among those of contexts only gives its place."""
        if not self.flag.context_targets:
            yield from (one for one in self.flag.targets if one.values)
            return
        for one in self.flag.context_targets:
            if one.context_kind != "user" or one.values:
                yield one
            else:
                yield from (user for user in self.flag.targets if user.variation == one.variation and user.values)

    def _key(self, variation: int) -> str:
        if not 0 <= variation < len(self.keys):
            raise Unsupported(f"gives variation {variation}, which it does not have (MALFORMED_FLAG)")
        return self.keys[variation]

    def _depend(self, need: LaunchDarklyPrerequisite) -> None:
        if need.key not in self.flags:
            self.draft.is_off = True
            self.draft.note(need.key, "changed", "the prerequisite is not in the document, so the flag is paused")
            return
        with self.shop.reading(self.name):
            other = _LaunchDarklyReader(need.key, self.flags, self.segments, self.shop)
            required, key = other._key(need.variation), self.shop.keys[need.key]
            draft = other.read()
        self.draft.prerequisites.append({"experiment": key, "variants": [required]})
        if draft.default == required:  # off does not count, even where it gives the required variation
            self.draft.prerequisites.append({"experiment": key, "rules": [rule["key"] for rule in draft.rules]})

    def _outcome(self, outcome: LaunchDarklyOutcome, place: str) -> str | Split:
        """The variation, or the ranges of a rollout, of which the last takes what rounding leaves."""
        if outcome.variation is not None:
            return self._key(outcome.variation)
        rollout = outcome.rollout
        if rollout is None or not rollout.variations:
            raise Unsupported(f"{place} has neither a variation nor a rollout (MALFORMED_FLAG)")
        by = self._hash(rollout, self.name, self.flag.salt)
        ends = list(accumulate(one.weight / WHOLE for one in rollout.variations))
        ends[-1] = 1.0
        lows = [0.0, *ends[:-1]]
        if rollout.kind == "experiment" and any(one.untracked for one in rollout.variations):
            why = "units that LaunchDarkly leaves out of the experiment's results count here; analyse by the variants"
            self.draft.note(place, "changed", why)
        rows = zip(rollout.variations, lows, ends, strict=True)
        return Split(by, [(self._key(one.variation), low, min(high, 1.0)) for one, low, high in rows])

    def _hash(self, rollout: LaunchDarklyRollout, key: str, salt: str) -> Hash:
        by = "key" if rollout.kind == "experiment" else rollout.bucket_by or "key"
        seed = f"{key}.{salt}" if rollout.seed is None else str(rollout.seed)
        return Hash(seed, "launchdarkly", unit=trait_path(by, rollout.context_kind))

    def _clauses(self, clauses: Sequence[LaunchDarklyClause], within: tuple[str, ...]) -> Tree:
        return all_of([self._clause(one, within) for one in clauses])

    def _clause(self, clause: LaunchDarklyClause, within: tuple[str, ...]) -> Tree:
        if clause.op != "segmentMatch":
            return read_clause(clause)
        found = any_of([self._segment(str(name), within) for name in clause.values])
        return negate(found) if clause.negate else found

    def _segment(self, name: str, within: tuple[str, ...]) -> Tree:
        """The condition that a context is in a segment, which `segments.yaml` has unless it needs a hash."""
        raw = self.segments.get(name)
        if raw is None:
            return NEVER
        if name in within:
            raise Unsupported(f"the segment {name!r} contains itself")
        segment = read_source(raw, LaunchDarklySegment)
        if segment.unbounded:
            raise Unsupported(f"the segment {name!r} is a big one, whose members are not in the document")
        included = [LaunchDarklySegmentTarget(segment.included), *segment.included_contexts]
        excluded = [LaunchDarklySegmentTarget(segment.excluded), *segment.excluded_contexts]
        rules = any_of([self._segment_rule(rule, name, segment.salt, (*within, name)) for rule in segment.rules])
        tree = any_of([*_among(included), all_of([negate(any_of(_among(excluded))), rules])])
        if has_shares(tree) or tree in (ALWAYS, NEVER):
            return tree
        return TraitTest(self.shop.in_segment(name, to_condition(tree)))

    def _segment_rule(self, rule: LaunchDarklySegmentRule, name: str, salt: str, within: tuple[str, ...]) -> Tree:
        tree = self._clauses(rule.clauses, within)
        if rule.weight is None:
            return tree
        unit = trait_path(rule.bucket_by or "key", rule.rollout_context_kind)
        return all_of([tree, InRange(Hash(f"{name}.{salt}", "launchdarkly", unit=unit), 0.0, rule.weight / WHOLE)])


def _among(targets: Sequence[LaunchDarklySegmentTarget]) -> list[Tree]:
    return [trait(trait_path("key", one.context_kind), {"$in": one.values}) for one in targets if one.values]
