"""The offers of a collection as bits of integers, indexed by the terms that decide who may see them.

Bit i stands for the i-th offer. A term shared by a thousand offers is evaluated once and applied to all by one bit
operation. Terms that compare one trait with texts or numbers are looked up in tables; all others are predicates.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from engine.catalog.conditions.compile import Predicate, compile_condition, conjuncts
from engine.catalog.conditions.js_coercion import ARRAYS, NUMBERS, read_member, to_number, to_text
from engine.catalog.spec.units import Unit
from policies.batches import Ints

Bits = int
TextKind = Literal["equal", "$eq", "$in"]
Bound = Literal["$gt", "$gte", "$lt", "$lte"]
FEW_OFFERS = 4096
"""Offers up to which the bits of every name are stored."""
STORED_NAMES = 4096
"""The number of names whose bits are stored, those with most offers first: 50 MB for 100,000 offers."""
_NO_NAMES: Mapping[str, Bits] = {}


class PlaceBits(Mapping[str, Bits]):
    """The bits of names, built on demand: with 100,000 offers each bit alone is an integer of 12 kB."""

    def __init__(self, places: Mapping[str, Sequence[int]]) -> None:
        several = sorted((name for name, at in places.items() if len(at) > 1), key=lambda name: -len(places[name]))
        self._bits = {name: _bits_of(places[name]) for name in several[:STORED_NAMES]}
        self._places = {name: at[0] if len(at) == 1 else tuple(at) for name, at in places.items()}

    def __getitem__(self, name: str) -> Bits:
        bits = self._bits.get(name)
        if bits is not None:
            return bits
        at = self._places[name]
        return 1 << at if isinstance(at, int) else _bits_of(at)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bits_by_name(places: Mapping[str, Sequence[int]], offers: int) -> Mapping[str, Bits]:
    """The bits of each name among this many offers."""
    return {name: _bits_of(at) for name, at in places.items()} if offers <= FEW_OFFERS else PlaceBits(places)


def _bits_of(places: Iterable[int]) -> Bits:
    """The bits at these places, set byte by byte."""
    at = tuple(places)
    found = bytearray((max(at, default=0) >> 3) + 1)
    for place in at:
        found[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(found, "little")


class IndexedOffer(NamedTuple):
    """The properties of one offer by which the index selects.

    `names` are the names that a gate looks offers up by, under their kind: its channels, its counters and so on.
    """

    key: str
    start: float
    end: float
    audience: Mapping[str, object]
    names: Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True)
class Texts:
    """Text terms on one trait: `needing` are the offers with a term, `having` those that accept a text."""

    path: tuple[str, ...]
    kind: TextKind
    needing: Bits
    having: Mapping[str, Bits]

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers whose term is false; coerces values as `compile_condition` does."""
        value = _read_path(attributes, self.path)
        having = self.having
        if isinstance(value, str):
            return self.needing ^ (self.needing & having.get(value, 0))
        if self.kind == "equal":
            return self.needing ^ (self.needing & having.get(to_text(value), 0))
        accepting = 0
        if self.kind == "$in" and isinstance(value, ARRAYS):
            for item in value:
                if isinstance(item, str):
                    accepting |= having.get(item, 0)
        return self.needing ^ (self.needing & accepting)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Numeric terms on one trait.

    For a value between `edges[i - 1]` and `edges[i]` the offers `below[i]` fail; for one equal to `edges[i]`, `at[i]`.
    """

    path: tuple[str, ...]
    edges: Sequence[float]
    below: Sequence[Bits]
    at: Sequence[Bits]
    needing: Bits

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers with a bound that the value breaks; a value that is not a number breaks all bounds."""
        value = to_number(_read_path(attributes, self.path))
        if value != value:  # noqa: PLR0124 (NaN is the one number that is not itself)
            return self.needing
        place = bisect_right(self.edges, value)
        if place and self.edges[place - 1] == value:
            return self.at[place - 1]
        return self.below[place]


@dataclass(frozen=True, slots=True)
class OfferIndex:
    """The index of one collection. `dated[i]` are the offers valid between `edges[i - 1]` and `edges[i]`."""

    keys: tuple[str, ...]
    everything: Bits
    bits: Mapping[str, Bits]
    edges: Sequence[float]
    dated: Sequence[Bits]
    names: Mapping[str, Mapping[str, Bits]]
    texts: tuple[Texts, ...]
    bounds: tuple[Bounds, ...]
    terms: tuple[tuple[Predicate, Bits], ...]

    def named(self, kind: str) -> Mapping[str, Bits]:
        """The offers by name, for one kind of name; empty if no offer has one."""
        return self.names.get(kind, _NO_NAMES)

    def within_dates(self, now: float) -> Bits:
        """The offers whose dates include `now` (seconds since 1970)."""
        if not self.edges:
            return self.dated[0]
        return self.dated[bisect_right(self.edges, now)]

    def outside_audience(self, attributes: Mapping[str, object], among: Bits) -> Bits:
        """The offers of `among` whose audience excludes the customer."""
        failing = 0
        for texts in self.texts:
            if texts.needing & among:
                failing |= texts.failing(attributes)
        for bounds in self.bounds:
            if bounds.needing & among:
                failing |= bounds.failing(attributes)
        for matches, needing in self.terms:
            # A predicate costs more than the bits: skip it where every offer that needs it is excluded already.
            if needing & among & ~failing and not matches(attributes):
                failing |= needing
        return failing & among


def build_offer_index(offers: Sequence[IndexedOffer]) -> OfferIndex:
    """The index of a collection; the order of its offers is the order of the bits."""
    edges, dated = _index_dates(offers)
    texts, bounds, terms = _index_audiences([offer.audience for offer in offers])
    return OfferIndex(
        keys=tuple(offer.key for offer in offers),
        everything=(1 << len(offers)) - 1,
        bits=_bits_by_name({offer.key: (place,) for place, offer in enumerate(offers)}, len(offers)),
        edges=edges,
        dated=dated,
        names=_index_names(offers),
        texts=texts,
        bounds=bounds,
        terms=terms,
    )


def _index_names(offers: Sequence[IndexedOffer]) -> dict[str, Mapping[str, Bits]]:
    """The offers by kind of name and name."""
    index: dict[str, dict[str, list[int]]] = {}
    for place, offer in enumerate(offers):
        for kind, names in offer.names.items():
            places = index.setdefault(kind, {})
            for name in names:
                places.setdefault(name, []).append(place)
    return {kind: _bits_by_name(places, len(offers)) for kind, places in index.items()}


def _index_dates(offers: Sequence[IndexedOffer]) -> tuple[list[float], list[Bits]]:
    """The times at which an offer starts or ends, and the offers valid before, between and after them."""
    changes: dict[float, Bits] = {}
    running = 0
    for place, offer in enumerate(offers):
        bit = 1 << place
        if offer.start <= 0.0:
            running |= bit
        else:
            changes[offer.start] = changes.get(offer.start, 0) ^ bit
        if offer.end != float("inf"):
            changes[offer.end] = changes.get(offer.end, 0) ^ bit
    edges = sorted(changes)
    dated = [running]
    for edge in edges:
        running ^= changes[edge]
        dated.append(running)
    return edges, dated


def _index_audiences(
    audiences: Sequence[Mapping[str, object]],
) -> tuple[tuple[Texts, ...], tuple[Bounds, ...], tuple[tuple[Predicate, Bits], ...]]:
    """The terms of all audiences: those on texts, those on numbers, and the others as predicates."""
    texts: dict[tuple[str, TextKind], dict[str, list[int]]] = {}
    needing: dict[tuple[str, TextKind], dict[int, None]] = {}
    bounds: dict[str, list[tuple[float, Bound, int]]] = {}
    others: dict[str, tuple[Mapping[str, object], list[int]]] = {}
    for place, audience in enumerate(audiences):
        for term in conjuncts(audience):
            named = _parse_text_term(term)
            bound = _parse_bound(term)
            # A second term on the same trait needs both to hold, which one table cannot express.
            if named is not None and place not in needing.get(named[:2], ()):
                path, kind, options = named
                needing.setdefault((path, kind), {})[place] = None
                table = texts.setdefault((path, kind), {})
                for option in dict.fromkeys(options):
                    table.setdefault(option, []).append(place)
            elif bound is not None:
                path, operator, number = bound
                bounds.setdefault(path, []).append((number, operator, place))
            else:
                others.setdefault(repr(term), (term, []))[1].append(place)
    return (
        tuple(
            Texts(
                path=tuple(path.split(".")),
                kind=kind,
                needing=_bits_of(needing[path, kind]),
                having=_bits_by_name(table, len(audiences)),
            )
            for (path, kind), table in texts.items()
        ),
        tuple(_index_bounds(path, terms) for path, terms in bounds.items()),
        tuple((compile_condition(term), _bits_of(places)) for term, places in others.values()),
    )


def _index_bounds(path: str, terms: Sequence[tuple[float, Bound, int]]) -> Bounds:
    """Sweeps the edges upwards and records which offers fail below the lowest edge, at each edge, and above it.

    An offer with several bounds on the trait fails while any of them does, hence a count of broken bounds per offer.
    """
    needing = _bits_of(place for _, _, place in terms)
    counts: dict[int, int] = {}
    failing = 0

    def count_broken(changes: Iterable[tuple[int, int]]) -> None:
        nonlocal failing
        flipped = set[int]()
        for place, change in changes:
            before = counts.get(place, 0)
            counts[place] = before + change
            if bool(before) != bool(counts[place]):
                flipped ^= {place}
        failing ^= _bits_of(flipped)

    by_edge: dict[float, list[tuple[Bound, int]]] = {}
    for number, operator, place in terms:
        by_edge.setdefault(number, []).append((operator, place))
    count_broken((place, 1) for _, operator, place in terms if operator in ("$gt", "$gte"))
    below, at = [failing], []
    edges = sorted(by_edge)
    for edge in edges:
        here = by_edge[edge]
        count_broken(
            (place, -1 if operator == "$gte" else 1) for operator, place in here if operator in ("$gte", "$lt")
        )
        at.append(failing)
        count_broken((place, -1 if operator == "$gt" else 1) for operator, place in here if operator in ("$gt", "$lte"))
        below.append(failing)
    return Bounds(path=tuple(path.split(".")), edges=edges, below=below, at=at, needing=needing)


def _parse_text_term(term: Mapping[str, object]) -> tuple[str, TextKind, list[str]] | None:
    """The trait and texts of a term that accepts only these texts; None for any other term."""
    ((path, value),) = term.items()
    if path.startswith("$"):
        return None
    if isinstance(value, str):
        return path, "equal", [value]
    if isinstance(value, Mapping) and len(value) == 1:
        ((operator, operand),) = value.items()
        if operator == "$eq" and isinstance(operand, str):
            return path, "$eq", [operand]
        if operator == "$in" and isinstance(operand, list) and all(isinstance(o, str) for o in operand):
            return path, "$in", operand
    return None


def _parse_bound(term: Mapping[str, object]) -> tuple[str, Bound, float] | None:
    """The trait, operator and number of a numeric term; None for any other term."""
    ((path, value),) = term.items()
    if path.startswith("$") or not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((operator, operand),) = value.items()
    if isinstance(operand, bool) or not isinstance(operand, NUMBERS) or operand != operand:  # noqa: PLR0124 (NaN)
        return None
    return (path, operator, operand) if operator in ("$gt", "$gte", "$lt", "$lte") else None


def set_places(bits: Bits) -> Iterator[int]:
    """Yield the places of the set bits, lowest first."""
    if bits >> FEW_OFFERS:  # byte by byte: each step on the whole integer would cost its length
        for at, byte in enumerate(bits.to_bytes((bits.bit_length() + 7) // 8, "little")):
            if byte:
                yield from (8 * at + place for place in set_places(byte))
        return
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _read_path(attributes: Mapping[str, object], path: tuple[str, ...]) -> object:
    """The value at a dotted path; None if a part is missing."""
    value: object = attributes
    for name in path:
        if value is None:
            return None
        value = value.get(name) if type(value) is dict else read_member(value, name)
    return value


def places_of(bits: Bits, size: int) -> Ints:
    """The places of the bits that are set, in order; read-only, as they are cached.

    To hash the bits of 100,000 offers takes as long as the rest of a decision, so those are found by their ends.
    """
    if size <= FEW_OFFERS:
        return _cached_places(bits, size)
    ends = (size, bits & _END, bits >> max(bits.bit_length() - 64, 0))
    found = _by_ends.get(ends)
    if found is not None and found[0] == bits:
        return found[1]
    if len(_by_ends) >= CACHED_PLACES:
        _by_ends.clear()
    places = _read_places(bits, size)
    _by_ends[ends] = bits, places
    return places


CACHED_PLACES = 256
_END = (1 << 64) - 1
_by_ends: dict[tuple[int, Bits, Bits], tuple[Bits, Ints]] = {}


@lru_cache(CACHED_PLACES)
def _cached_places(bits: Bits, size: int) -> Ints:
    return _read_places(bits, size)


def _read_places(bits: Bits, size: int) -> Ints:
    data = np.frombuffer(bits.to_bytes((size + 7) // 8, "little"), np.uint8)
    places: Ints = np.unpackbits(data, bitorder="little").view(np.bool_).nonzero()[0]
    places.setflags(write=False)
    return places


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer: the place in [0, 1) to which it hashes a unit decides which of its experiments the unit may enter."""

    key: str
    hash_unit: Callable[[str], float]


@dataclass(frozen=True, slots=True)
class LayerSlots:
    """A layer's experiments of one unit: `inside[i]` are those whose range covers `edges[i - 1]` up to `edges[i]`."""

    layer: Layer
    unit: Unit
    members: Bits
    edges: Sequence[float]
    inside: Sequence[Bits]

    def outside_range(self, units: Mapping[Unit, str | None]) -> Bits:
        """The layer's experiments whose range does not cover the unit; none if the request has no such unit."""
        unit = units[self.unit]
        return self.members & ~self.inside[bisect_right(self.edges, self.layer.hash_unit(unit))] if unit else 0
