"""Eppo's Universal Flag Configuration: `{"flags": {…}}`, https://docs.geteppo.com/sdks/.

Allocations are asked in their order; the first whose rules match and one of whose splits has the subject decides.
Where none does, the default in the caller's code applies. The subject's key is the attribute `id`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import msgspec

from engine.catalog.conditions.semver import read_version
from engine.imports.draft import Draft, Split
from engine.imports.model import Json, Unsupported
from engine.imports.predicates import ALWAYS, NEVER, During, Hash, InRange, Tree, all_of, any_of, trait
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_number, read_source, read_time, text_forms

_ORDER: Mapping[str, tuple[str, str]] = {
    "GT": ("$gt", ">"),
    "GTE": ("$gte", ">="),
    "LT": ("$lt", "<"),
    "LTE": ("$lte", "<="),
}


class EppoCondition(msgspec.Struct, frozen=True):
    """A condition on one attribute."""

    attribute: str
    operator: str
    value: object = None


class EppoRule(msgspec.Struct, frozen=True):
    """A rule: all of its conditions hold."""

    conditions: list[EppoCondition] = []


class EppoRange(msgspec.Struct, frozen=True):
    """Shards from `start` up to `end`."""

    start: int
    end: int


class EppoShard(msgspec.Struct, frozen=True):
    """The shards of one salt that a split takes."""

    salt: str
    ranges: list[EppoRange] = []


class EppoSplit(msgspec.Struct, frozen=True, rename="camel"):
    """A variation for the subjects in all of its shards."""

    variation_key: str
    shards: list[EppoShard] = []


class EppoAllocation(msgspec.Struct, frozen=True, rename="camel"):
    """Splits for who matches one of the rules, within a time."""

    key: str
    rules: list[EppoRule] | None = None
    splits: list[EppoSplit] = []
    start_at: str | None = None
    end_at: str | None = None


class EppoVariation(msgspec.Struct, frozen=True):
    """A variation."""

    key: str
    value: object = None


class EppoFlag(msgspec.Struct, frozen=True, rename="camel"):
    """One flag."""

    enabled: bool = False
    variation_type: str = "STRING"
    variations: dict[str, EppoVariation] = {}
    allocations: list[EppoAllocation] = []
    total_shards: int = 10_000


def read_eppo(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the flags of a document.

    Raises:
        Unsupported: if it has no flags.
    """
    flags = document.get("flags")
    if not isinstance(flags, Mapping):
        raise Unsupported("has no 'flags'; give a Universal Flag Configuration of Eppo")
    shop.name_flags(flags)
    for name, raw in flags.items():
        yield name, lambda name=name, raw=raw: _EppoReader(name, raw, shop).read()  # type: ignore[misc]


class _EppoReader:
    """Reads one flag into a draft."""

    def __init__(self, name: str, raw: object, shop: SharedParts) -> None:
        self.flag = read_source(raw, EppoFlag)
        self.draft = Draft(name, shop.keys[name])
        keys: list[str] = []
        for variation in self.flag.variations.values():
            keys.append(self.draft.variant(self._value(variation), variation.key, within=keys))
        self.keys = dict(zip(self.flag.variations, keys, strict=True))

    def read(self) -> Draft:
        """The draft of the flag."""
        draft = self.draft
        draft.is_off = not self.flag.enabled
        draft.default = draft.code_default()
        for allocation in self.flag.allocations:
            tree = self._when(allocation)
            if tree != NEVER:
                self._splits(allocation, tree)
        return draft

    def _value(self, variation: EppoVariation) -> object:
        """The value of a variation, checked against the type of the flag."""
        value, kind = variation.value, self.flag.variation_type
        if kind == "JSON" and isinstance(value, str):
            try:
                return json.loads(value)
            except ValueError:
                raise Unsupported(f"the variation {variation.key!r} is no JSON") from None
        accepted: Mapping[str, bool] = {
            "STRING": isinstance(value, str),
            "BOOLEAN": isinstance(value, bool),
            "INTEGER": isinstance(value, int | float) and float(value).is_integer() and not isinstance(value, bool),
            "NUMERIC": isinstance(value, int | float) and not isinstance(value, bool),
            "JSON": isinstance(value, Mapping),
        }
        if not accepted.get(kind, False):
            raise Unsupported(f"the variation {variation.key!r} is not of the flag's type {kind} (TYPE_MISMATCH)")
        if kind == "INTEGER" and isinstance(value, float):
            return int(value)
        return float(value) if kind == "NUMERIC" and isinstance(value, int) else value

    def _when(self, allocation: EppoAllocation) -> Tree:
        rules = allocation.rules or []
        parts = [
            any_of([all_of([self._condition(one) for one in rule.conditions]) for rule in rules]) if rules else ALWAYS
        ]
        for text, is_start in ((allocation.start_at, True), (allocation.end_at, False)):
            moment = read_time(text)
            if moment is not None:
                parts.append(During(start=moment) if is_start else During(end=moment))
        return all_of(parts)

    def _condition(self, one: EppoCondition) -> Tree:
        name, value = one.attribute, one.value
        match one.operator:
            case "IS_NULL":
                return trait(name, {"$exists": not value})
            case "ONE_OF" | "NOT_ONE_OF" if isinstance(value, list):
                operator = "$in" if one.operator == "ONE_OF" else "$nin"
                return trait(name, {"$exists": True, operator: text_forms(value, name)})
            case "MATCHES" | "NOT_MATCHES" if isinstance(value, str):
                pattern: object = {"$regex": value}
                negated = {"$exists": True, "$not": pattern}
                return trait(name, {"$exists": True, "$regex": value} if one.operator == "MATCHES" else negated)
            case "GT" | "GTE" | "LT" | "LTE":
                operator, sign = _ORDER[one.operator]
                number = read_number(value)
                if number is not None:
                    return trait(name, {"$exists": True, operator: number})
                if read_version(value) is not None:
                    return trait(name, {"$semver": f"{sign}{value}"})
        self.draft.note("allocations", "not kept", f"{one.operator} with {value!r} is not documented; it never holds")
        return NEVER

    def _splits(self, allocation: EppoAllocation, tree: Tree) -> None:
        """The rules of an allocation: one split by ranges where its variations differ in one salt, else one each."""
        together = self._one_split(allocation.splits)
        if together is not None:
            shares, split = together
            self.draft.add(all_of([tree, *shares]), split, allocation.key)
            return
        for split_ in allocation.splits:
            shards = [any_of([self._range(shard.salt, one) for one in shard.ranges]) for shard in split_.shards]
            self.draft.add(all_of([tree, *shards]), self._key(split_), allocation.key)

    def _one_split(self, splits: Sequence[EppoSplit]) -> tuple[list[InRange], Split] | None:
        """The shares that all splits have in common, and the one by which they differ; None for any other form."""
        if len(splits) < 2 or any(len(shard.ranges) != 1 for split in splits for shard in split.shards):
            return None
        salts = [[shard.salt for shard in split.shards] for split in splits]
        if any(one != salts[0] for one in salts) or len(set(salts[0])) != len(salts[0]):
            return None
        columns = [[split.shards[at].ranges[0] for split in splits] for at in range(len(salts[0]))]
        differing = [at for at, column in enumerate(columns) if any(one != column[0] for one in column)]
        if len(differing) != 1 or _overlap(columns[differing[0]]):
            return None
        shares = [self._range(salts[0][at], column[0]) for at, column in enumerate(columns) if at != differing[0]]
        total = self.flag.total_shards
        parts = [
            (self._key(split), one.start / total, one.end / total)
            for split, one in zip(splits, columns[differing[0]], strict=True)
        ]
        return shares, Split(self._hash(salts[0][differing[0]]), parts)

    def _range(self, salt: str, one: EppoRange) -> InRange:
        return InRange(self._hash(salt), one.start / self.flag.total_shards, one.end / self.flag.total_shards)

    def _hash(self, salt: str) -> Hash:
        total = self.flag.total_shards
        return Hash(salt, "eppo", buckets=None if total == 10_000 else total)

    def _key(self, split: EppoSplit) -> str:
        if split.variation_key not in self.keys:
            raise Unsupported(f"gives the variation {split.variation_key!r}, which it does not have")
        return self.keys[split.variation_key]


def _overlap(ranges: Sequence[EppoRange]) -> bool:
    ordered = sorted((one.start, one.end) for one in ranges)
    return any(before[1] > after[0] for before, after in pairwise(ordered))
