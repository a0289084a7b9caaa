"""A collection's offers as bits, indexed by what decides who may have them: cost follows terms, not offers."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from engine.catalog.conditions.compile import Predicate, compile_condition, conjuncts
from engine.catalog.conditions.js_coercion import read_member, to_number, to_text

Bits = int
TextKind = Literal["equal", "$eq", "$in"]
Bound = Literal["$gt", "$gte", "$lt", "$lte"]


class IndexedOffer(NamedTuple):
    """What the index must know of one offer."""

    key: str
    channels: Iterable[str]
    start: float
    end: float
    purpose: str | None
    audience: Mapping[str, object]
    counters: Iterable[str]
    pools: Iterable[str]


@dataclass(frozen=True, slots=True)
class Texts:
    """Terms on one trait that name texts: which offers need one of them, and which have it for each text."""

    path: tuple[str, ...]
    kind: TextKind
    needing: Bits
    having: Mapping[str, Bits]

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers whose term does not hold, by the same rules as `compile_condition`."""
        value = _at(attributes, self.path)
        having = self.having
        if isinstance(value, str):
            return self.needing & ~having.get(value, 0)
        if self.kind == "equal":
            return self.needing & ~having.get(to_text(value), 0)
        found = 0
        if self.kind == "$in" and isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, str):
                    found |= having.get(item, 0)
        return self.needing & ~found


@dataclass(frozen=True, slots=True)
class Bounds:
    """Terms on one trait that compare it with a number: `failing_from[i]` fail for a value between edges i-1 and i."""

    path: tuple[str, ...]
    edges: Sequence[float]
    below: Sequence[Bits]
    at: Sequence[Bits]
    needing: Bits

    def failing(self, attributes: Mapping[str, object]) -> Bits:
        """The offers one of whose bounds the value breaks; what is no number breaks them all."""
        value = to_number(_at(attributes, self.path))
        if value != value:  # noqa: PLR0124 (NaN is the one number that is not itself)
            return self.needing
        place = bisect_right(self.edges, value)
        if place and self.edges[place - 1] == value:
            return self.at[place - 1]
        return self.below[place]


@dataclass(frozen=True, slots=True)
class OfferIndex:
    """The offers of one collection; bit i stands for the i-th."""

    keys: tuple[str, ...]
    everything: Bits
    bits: Mapping[str, Bits]
    channels: Mapping[str, Bits]
    edges: Sequence[float]
    dated: Sequence[Bits]
    purposes: Mapping[str, Bits]
    texts: tuple[Texts, ...]
    bounds: tuple[Bounds, ...]
    terms: tuple[tuple[Predicate, Bits], ...]
    counters: Mapping[str, Bits]
    pools: Mapping[str, Bits]

    def within_dates(self, now: float) -> Bits:
        """The offers whose dates hold at `now` (s since 1970)."""
        return self.dated[bisect_right(self.edges, now)]

    def outside_audience(self, attributes: Mapping[str, object], among: Bits) -> Bits:
        """The offers of `among` of whose audience the customer is not."""
        failing = 0
        for texts in self.texts:
            failing |= texts.failing(attributes)
        for bounds in self.bounds:
            failing |= bounds.failing(attributes)
        for matches, needing in self.terms:
            if needing & among & ~failing and not matches(attributes):
                failing |= needing
        return failing & among


def build_offer_index(offers: Sequence[IndexedOffer]) -> OfferIndex:
    """The index of a collection, in the order of its offers."""
    channels: dict[str, Bits] = {}
    purposes: dict[str, Bits] = {}
    pools: dict[str, Bits] = {}
    counters: dict[str, Bits] = {}
    for place, offer in enumerate(offers):
        bit = 1 << place
        for channel in offer.channels:
            channels[channel] = channels.get(channel, 0) | bit
        for pool in offer.pools:
            pools[pool] = pools.get(pool, 0) | bit
        if offer.purpose is not None:
            purposes[offer.purpose] = purposes.get(offer.purpose, 0) | bit
        for counter in offer.counters:
            counters[counter] = counters.get(counter, 0) | bit
    edges, dated = _dates(offers)
    texts, bounds, terms = _audiences([offer.audience for offer in offers])
    return OfferIndex(
        tuple(offer.key for offer in offers),
        (1 << len(offers)) - 1,
        {offer.key: 1 << place for place, offer in enumerate(offers)},
        channels,
        edges,
        dated,
        purposes,
        texts,
        bounds,
        terms,
        counters,
        pools,
    )


def _dates(offers: Sequence[IndexedOffer]) -> tuple[list[float], list[Bits]]:
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


def _audiences(
    audiences: Sequence[Mapping[str, object]],
) -> tuple[tuple[Texts, ...], tuple[Bounds, ...], tuple[tuple[Predicate, Bits], ...]]:
    texts: dict[tuple[str, TextKind], dict[str, Bits]] = {}
    needing: dict[tuple[str, TextKind], Bits] = {}
    bounds: dict[str, list[tuple[float, Bound, Bits]]] = {}
    others: dict[str, tuple[Mapping[str, object], Bits]] = {}
    for place, audience in enumerate(audiences):
        bit = 1 << place
        for term in conjuncts(audience):
            named = _named(term)
            bound = _bound(term)
            if named is not None and not needing.get(named[:2], 0) & bit:
                path, kind, options = named
                needing[path, kind] = needing.get((path, kind), 0) | bit
                table = texts.setdefault((path, kind), {})
                for option in options:
                    table[option] = table.get(option, 0) | bit
            elif bound is not None:
                path, operator, number = bound
                bounds.setdefault(path, []).append((number, operator, bit))
            else:
                text = repr(term)
                others[text] = (term, others[text][1] | bit if text in others else bit)
    return (
        tuple(Texts(tuple(path.split(".")), kind, needing[path, kind], table) for (path, kind), table in texts.items()),
        tuple(_bounds(path, found) for path, found in bounds.items()),
        tuple((compile_condition(term), bits) for term, bits in others.values()),
    )


def _bounds(path: str, found: Sequence[tuple[float, Bound, Bits]]) -> Bounds:
    """Sweep upwards: what fails below the lowest edge, at each edge, and between each and the next."""
    failing = needing = 0
    for _, _, bit in found:
        needing |= bit
    counts: dict[Bits, int] = {}

    def fail(bit: Bits, change: int) -> None:
        nonlocal failing
        counts[bit] = counts.get(bit, 0) + change
        failing = failing | bit if counts[bit] else failing & ~bit

    for _, operator, bit in found:
        if operator in ("$gt", "$gte"):
            fail(bit, 1)
    below, at = [failing], []
    edges = sorted({number for number, _, _ in found})
    by_edge: dict[float, list[tuple[Bound, Bits]]] = {}
    for number, operator, bit in found:
        by_edge.setdefault(number, []).append((operator, bit))
    for edge in edges:
        for operator, bit in by_edge[edge]:
            if operator in ("$gte", "$lt"):
                fail(bit, -1 if operator == "$gte" else 1)
        at.append(failing)
        for operator, bit in by_edge[edge]:
            if operator in ("$gt", "$lte"):
                fail(bit, -1 if operator == "$gt" else 1)
        below.append(failing)
    return Bounds(tuple(path.split(".")), edges, below, at, needing)


def _named(term: Mapping[str, object]) -> tuple[str, TextKind, list[str]] | None:
    """The trait and the texts of a term that asks for one of them."""
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


def _bound(term: Mapping[str, object]) -> tuple[str, Bound, float] | None:
    """The trait and the number of a term that compares it with one."""
    ((path, value),) = term.items()
    if path.startswith("$") or not isinstance(value, Mapping) or len(value) != 1:
        return None
    ((operator, operand),) = value.items()
    if isinstance(operand, bool) or not isinstance(operand, int | float) or operand != operand:  # noqa: PLR0124 (NaN)
        return None
    return (path, operator, operand) if operator in ("$gt", "$gte", "$lt", "$lte") else None


def set_places(bits: Bits) -> Iterator[int]:
    """The places of the bits that are set, in order."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def _at(attributes: Mapping[str, object], path: tuple[str, ...]) -> object:
    found: object = attributes
    for name in path:
        if found is None:
            return None
        found = found.get(name) if type(found) is dict else read_member(found, name)
    return found
