"""Confidence's flags: `{"account": …, "flags": […], "segments": […]}`, as its API and its resolver's state have them.

The first enabled rule whose segment has the unit decides. A segment is a targeting and a part of a million buckets of
the account's hash; the assignments of a rule divide the buckets of the segment's own hash. A flag without a match gives
the default of the caller's code. Messages: confidence.flags.admin.v1 of https://github.com/spotify/confidence-resolver.
"""

import gzip
import zlib
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import msgspec

from engine.imports.confidence.targeting import camel, read_targeting
from engine.imports.draft import Draft, Split
from engine.imports.model import Json, Unsupported
from engine.imports.predicates import NEVER, Hash, InRanges, TraitTest, Tree, all_of, has_shares, to_condition
from engine.imports.shared_parts import ReadFlag, SharedParts
from engine.imports.source_values import read_number, read_source

BUCKETS = 1_000_000
"""The buckets of a segment's allocation."""
MOST_RANGES = 5_000
"""A segment whose buckets lie in more pieces than this is not imported: the file would be too long."""
TARGETING_KEY = "targeting_key"


class ConfidenceRule(msgspec.Struct, frozen=True, rename="camel"):
    """One rule; the assignments are read by themselves."""

    segment: str
    name: str = ""
    assignment_spec: object = None
    targeting_key_selector: str = ""
    enabled: bool = False
    environments: list[str] = []
    materialization_spec: object = None


class ConfidenceFlag(msgspec.Struct, frozen=True, rename="camel"):
    """One flag."""

    name: str
    variants: list[object] = []
    state: str | int = "ACTIVE"
    rules: list[object] = []


def read_confidence(document: Json, shop: SharedParts) -> Iterator[tuple[str, ReadFlag]]:
    """Yield the flags of a document.

    Raises:
        Unsupported: if it has no flags.
    """
    state = camel(document)
    flags = state.get("flags")
    if not isinstance(flags, list):
        raise Unsupported("has no 'flags'; give {account, flags, segments} of Confidence as JSON")
    segments = _Segments(state, shop)
    named = {
        _last(one["name"]) if isinstance(one, Mapping) and one.get("name") else f"flags[{at}]": one
        for at, one in enumerate(flags)
    }
    shop.name_flags(named)
    for name, raw in named.items():
        yield name, lambda name=name, raw=raw: _ConfidenceReader(name, raw, shop, segments).read()  # type: ignore[misc]


def _last(name: object) -> str:
    """The last part of a resource name, as in `flags/my-flag`."""
    return str(name).rpartition("/")[2]


def _messages(raw: object) -> list[dict[str, object]]:
    """The messages of a list; what is none is left out."""
    return [camel(one) for one in raw if isinstance(one, Mapping)] if isinstance(raw, list) else []


class _Segments:
    """The segments of a document, as trees."""

    def __init__(self, state: Mapping[str, object], shop: SharedParts) -> None:
        self.shop = shop
        self.account = _last(state["account"]) if state.get("account") else None
        segments = _messages(state.get("segments") or state.get("segmentsNoBitsets"))
        self.segments = {str(one.get("name")): one for one in segments}
        self.packed = {str(one.get("segment")): one for one in _messages(state.get("bitsets"))}
        self.reading: list[str] = []

    def read(self, name: str, attribute: str, draft: Draft) -> Tree:
        """The condition that a unit is in a segment, whose units are the values of an attribute.

        Raises:
            Unsupported: if it needs itself, or has a form that is not known.
        """
        segment = self.segments.get(name)
        if segment is None or segment.get("state") in {"ARCHIVED", 3}:
            draft.note(name, "changed", "the segment is not in the file, or archived; its rules never match")
            return NEVER
        if name in self.reading:
            raise Unsupported(f"has the segment {name}, which needs itself")
        self.reading.append(name)
        try:
            targeting = read_targeting(segment.get("targeting"), lambda other: self.read(other, attribute, draft))
        finally:
            self.reading.pop()
        if not has_shares(targeting) and targeting != NEVER:
            title = str(segment.get("displayName") or _last(name))
            targeting = TraitTest(self.shop.in_segment(title, to_condition(targeting)))
        return all_of([targeting, *self._allocated(name, segment, attribute, draft)])

    def _allocated(self, name: str, segment: Mapping[str, object], attribute: str, draft: Draft) -> list[Tree]:
        """The part of the units that the segment is allocated; nothing where that is all."""
        allocation = camel(segment.get("allocation") or {})
        bits = self._bits(name, segment)
        if bits is None:
            share = _proportion(allocation.get("proportion"))
            if share >= 1:
                return []
            draft.note(name, "changed", "its buckets are not in the file: people are assigned to its share again")
            return [InRanges(Hash(_last(name), unit=attribute), ((0.0, share),))] if share > 0 else [NEVER]
        ranges = _ranges(bits)
        if ranges == ((0.0, 1.0),):
            return []
        if self.account is None:
            raise Unsupported(f"has the segment {name} with a part of the buckets, and the file has no account to hash")
        if len(ranges) > MOST_RANGES:
            raise Unsupported(f"has the segment {name}, whose buckets lie in {len(ranges):,} pieces")
        by = Hash(f"MegaSalt-{self.account}", "confidence", buckets=BUCKETS, unit=attribute)
        return [InRanges(by, ranges)] if ranges else [NEVER]

    def _bits(self, name: str, segment: Mapping[str, object]) -> bytes | None:
        """The bits of a segment's buckets; None where the file does not have them."""
        packed = self.packed.get(name, {})
        if packed.get("fullBitset"):
            return b"\xff" * (BUCKETS // 8)
        text = packed.get("gzippedBitset") or camel(segment.get("bitsetAllocation") or {}).get("bitset")
        if text is None:
            return None
        try:
            data = b64decode(str(text), validate=True)
            return gzip.decompress(data) if "gzippedBitset" in packed else data
        except (NotBase64, OSError, EOFError, zlib.error):
            raise Unsupported(f"has the segment {name}, whose bitset cannot be read") from None


def _proportion(raw: object) -> float:
    """A decimal, which is text or a message with its text; all where there is none."""
    text = camel(raw).get("value") if isinstance(raw, Mapping) else raw
    number = read_number(text) if text not in (None, "") else 1.0
    if number is None:
        raise Unsupported(f"has the proportion {text!r}, which is not a number")
    return float(number)


def _ranges(bits: bytes) -> tuple[tuple[float, float], ...]:
    """The runs of ones, the least bit of each byte first, as parts of [0, 1)."""
    found: list[tuple[float, float]] = []
    at = 0
    number = int.from_bytes(bits, "little") & (1 << BUCKETS) - 1
    for bit, run in groupby(reversed(f"{number:0{BUCKETS}b}")):
        size = sum(1 for _ in run)
        if bit == "1":
            found.append((at / BUCKETS, (at + size) / BUCKETS))
        at += size
    return tuple(found)


class _ConfidenceReader:
    """Reads one flag into a draft."""

    def __init__(self, name: str, raw: object, shop: SharedParts, segments: _Segments) -> None:
        self.flag = read_source(camel(raw), ConfidenceFlag)
        self.segments = segments
        self.draft = Draft(name, shop.keys[name])
        keys: list[str] = []
        names: list[str] = []
        for one in map(camel, self.flag.variants):
            names.append(str(one.get("name")))
            keys.append(self.draft.variant(one.get("value") or {}, _last(one.get("name")), within=keys))
        self.keys = {_last(name): key for name, key in zip(names, keys, strict=True)}

    def read(self) -> Draft:
        """The draft of the flag."""
        if self.flag.state in {"ARCHIVED", 2}:
            raise Unsupported("is archived: it gives the code's default")
        self.draft.default = self.draft.code_default()
        for raw in self.flag.rules:
            self._rule(read_source(camel(raw), ConfidenceRule))
        return self.draft

    def _rule(self, rule: ConfidenceRule) -> None:
        name = _last(rule.name) or f"rule{len(self.draft.rules) + 1}"
        if not rule.enabled:
            self.draft.note(name, "changed", "the rule is not enabled, so it is left out")
            return
        if rule.environments:
            names = ", ".join(map(_last, rule.environments))
            self.draft.note(name, "changed", f"the rule is for {names}; here it is for every environment: move it")
        if rule.materialization_spec:
            mode = camel(camel(rule.materialization_spec).get("mode") or {})
            self.draft.note(name, "changed", "stored assignments are not in the file; the hash decides")
            if mode.get("materializationMustMatch"):
                return
        attribute = rule.targeting_key_selector.strip() or TARGETING_KEY
        attribute = "id" if attribute == TARGETING_KEY else attribute
        tree = self.segments.read(rule.segment, attribute, self.draft)
        if tree == NEVER:
            return
        spec = camel(rule.assignment_spec or {})
        count = spec.get("bucketCount")
        if not isinstance(count, int) or count < 1:
            raise Unsupported(f"has the rule {name} without a number of buckets")
        by = Hash(_last(rule.segment), "confidence", buckets=count, unit=attribute)
        parts = list(self._parts(_messages(spec.get("assignments")), count))
        if parts:
            self.draft.add(tree, Split(by, parts), name)

    def _parts(self, assignments: Sequence[Mapping[str, object]], count: int) -> Iterator[tuple[str, float, float]]:
        """Yield the variants with their ranges; the first assignment that has a bucket takes it."""
        taken: list[tuple[int, int]] = []
        for one in assignments:
            key = self._outcome(one)
            for bounds in _messages(one.get("bucketRanges")):
                low, high = (max(0, min(count, int(str(bounds.get(end) or 0)))) for end in ("lower", "upper"))
                for start, end in _without(low, high, taken):
                    taken.append((start, end))
                    if key is not None:
                        yield key, start / count, end / count

    def _outcome(self, assignment: Mapping[str, object]) -> str | None:
        """The variant of an assignment; None where the unit goes on to the next rule."""
        if "fallthrough" in assignment:
            return None
        if "clientDefault" in assignment:
            return self.draft.code_default()
        name = _last(camel(assignment.get("variant") or {}).get("variant"))
        if name not in self.keys:
            raise Unsupported(f"gives the variant {name!r}, which it does not have")
        return self.keys[name]


def _without(low: int, high: int, taken: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range of buckets without those that are taken."""
    for start, end in sorted(taken):
        if start >= high or end <= low:
            continue
        if low < start:
            yield low, start
        low = max(low, end)
    if low < high:
        yield low, high
