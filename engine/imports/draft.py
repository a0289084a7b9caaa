"""One flag on its way in: its variants, its rules in their order, and what it cannot keep."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from msgspec.structs import replace

from engine.catalog.spec.experiment import FlagType
from engine.catalog.spec.flags import BOOLEANS, has_type
from engine.imports.model import Json, Kept, Note
from engine.imports.predicates import LATEST, Alternative, Hash, InRange, Tree, alternatives
from engine.imports.source_values import write_time

CODE_DEFAULT = "code_default"
"""The variant without a value: the default in the caller's code."""
BUILT_IN_UNITS: Mapping[str, str] = {
    "id": "customer",
    "userId": "customer",
    "user_id": "customer",
    "targetingKey": "customer",
    "key": "customer",
    "deviceId": "device",
    "device_id": "device",
    "anonymousId": "device",
    "anonymous_id": "device",
    "store": "store",
}
"""The attributes of other systems that are units here; any other becomes a unit of `units.yaml`."""
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


class Split(NamedTuple):
    """A choice by the hash: the variants with their ranges of [0, 1)."""

    by: Hash
    parts: Sequence[tuple[str, float, float]]


class Draft:
    """One flag of the other system; `to_yaml` is what its file says."""

    def __init__(self, source: str, key: str, title: str | None = None) -> None:
        self.source, self.key, self.title = source, key, title
        self.variants: dict[str, object] = {}
        self.rules: list[Json] = []
        self.prerequisites: list[Json] = []
        self.default: str | None = None
        self.units: dict[str, str] = {}
        self.notes: list[Note] = []
        self.is_off = False

    def note(self, place: str, kept: Kept, why: str) -> None:
        """Remember what is not as it was."""
        note = Note(self.source, place, kept, why)
        if note not in self.notes:
            self.notes.append(note)

    def variant(self, value: object, name: str | None = None, *, within: Sequence[str] = ()) -> str:
        """The key of the variant with this value: an existing one, or a new one with this name.

        `within` are the variants of the same experiment, which stay apart even where their values are equal.
        """
        if name is None:
            for key, known in self.variants.items():
                if _same(known, value) and key not in within:
                    return key
        wanted = safe_name(name) if name else name_of_value(value)
        key, number = wanted, 2
        while key in self.variants and (key in within or not _same(self.variants[key], value)):
            key, number = f"{wanted}-{number}", number + 1
        self.variants[key] = value
        return key

    def code_default(self) -> str:
        """The variant that leaves the default in the caller's code."""
        return self.variant(None, CODE_DEFAULT)

    def add(self, tree: Tree, outcome: str | Split, name: str | None = None, more: Mapping[str, object] = {}) -> None:
        """Append the rules that give `outcome` where `tree` holds; `more` are further keys of each."""
        if isinstance(outcome, Split):
            outcome = _simplify(outcome)
        for one in alternatives(tree) if isinstance(outcome, str) or outcome.parts else ():
            if isinstance(outcome, str):
                self._add_rule(one, {"variant": outcome}, name, more)
            elif len({key for key, *_ in outcome.parts}) == len(outcome.parts) and not _is_whole(outcome):
                ranges = [{"key": key, "range": [low, high]} for key, low, high in outcome.parts]
                self._add_rule(one, {"variants": ranges, **self._hash(outcome.by)}, name, more)
            else:
                for key, low, high in outcome.parts:
                    part = replace(one, shares=(*one.shares, InRange(outcome.by, low, high)))
                    self._add_rule(part, {"variant": key}, name, more)

    def _add_rule(self, one: Alternative, outcome: Json, name: str | None, more: Mapping[str, object]) -> None:
        rule: Json = {"key": self._free_name(name)}
        if one.audience:
            rule["audience"] = one.audience
        if one.shares:
            rule["filters"] = [
                {**self._hash(share.by), "ranges": [list(part) for part in share.ranges]} for share in one.shares
            ]
        for key, moment in (("start", one.start), ("end", one.end)):
            if abs(moment) != LATEST:
                rule[key] = write_time(moment)
        self.rules.append({**rule, **more, **outcome})

    def _free_name(self, name: str | None) -> str:
        wanted = safe_name(name, 50) if name else f"rule{len(self.rules) + 1}"
        taken = {rule["key"] for rule in self.rules}
        key, number = wanted, 2
        while key in taken:
            key, number = f"{wanted}-{number}", number + 1
        return key

    def _hash(self, by: Hash) -> Json:
        """The keys of a rule or filter that hash as `by` says."""
        found: Json = {"seed": by.seed}
        if by.hash != "growthbook":
            found["hash"] = by.hash
        elif by.hash_version != 2:
            found["hash_version"] = by.hash_version
        if by.buckets is not None:
            found["buckets"] = by.buckets
        unit = self.unit_of(by.unit)
        return found if unit == "customer" else {**found, "unit": unit}

    def unit_of(self, attribute: str) -> str:
        """The unit of an attribute that the other system hashes."""
        built_in = BUILT_IN_UNITS.get(attribute)
        if built_in is not None:
            return built_in
        unit = safe_name(attribute)
        self.units[unit] = attribute
        return unit

    def value_type(self) -> FlagType | None:
        """The type that all values have; None where they differ, or where a value is a list."""
        values = [value for value in self.variants.values() if value is not None]
        return next(
            (kind for kind in get_args(FlagType) if values and all(has_type(value, kind) for value in values)), None
        )

    def to_yaml(self) -> Json:
        """The flag's file; without a default everyone else gets the code's."""
        default = self.default or self.code_default()
        kind = self.value_type()
        found: Json = {"key": self.key, "kind": "flag"}
        if kind is not None:
            found["type"] = kind
        if self.title:
            found["title"] = self.title
        if self.is_off:
            found["status"] = "paused"
        if self.prerequisites:
            found["prerequisites"] = self.prerequisites
        found["variants"] = [
            {"key": key}
            if kind == "boolean" and value is not None and BOOLEANS.get(key) is value
            else _valued(key, value)
            for key, value in self.variants.items()
        ]
        # Without rules the hash would choose among the variants.
        found["rules"] = self.rules or [{"key": "everyone", "variant": default}]
        return {**found, "default": default}


def safe_name(name: str, longest: int = 60) -> str:
    """The name with other characters than letters, digits, _ and - replaced."""
    return _UNSAFE.sub("-", name).strip("-")[:longest] or "unnamed"


def flag_key(name: str) -> str:
    """The key of a flag of the other system, as a key may be here."""
    kept = re.sub(r"[^A-Za-z0-9_./:-]+", "-", name)[:64].lstrip("./:")
    return kept or "unnamed"


def name_of_value(value: object) -> str:
    """The name of a variant that has none: `on`, `off`, or the value."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return CODE_DEFAULT
    if isinstance(value, str | int | float):
        return safe_name(str(value), 40)
    return "value"


def _valued(key: str, value: object) -> Json:
    return {"key": key, "value": value}


def _same(one: object, other: object) -> bool:
    """Whether two values are the same JSON: true is not 1."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _simplify(split: Split) -> str | Split:
    """The split without empty parts; a variant alone where it takes every customer."""
    parts: list[tuple[str, float, float]] = []
    for key, low, high in split.parts:
        if low >= high:
            continue
        if parts and parts[-1][0] == key and parts[-1][2] == low:
            parts[-1] = (key, parts[-1][1], high)
        else:
            parts.append((key, low, high))
    found = Split(split.by, parts)
    return parts[0][0] if _is_whole(found) and BUILT_IN_UNITS.get(split.by.unit) == "customer" else found


def _is_whole(split: Split) -> bool:
    """Whether everyone with the unit gets one variant."""
    return [(low, high) for _, low, high in split.parts] == [(0.0, 1.0)]
