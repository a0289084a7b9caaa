"""The offers of a collection as bits of integers, indexed by the terms that decide who may see them.

Bit i stands for the i-th offer. A term shared by a thousand offers is evaluated once and applied to all by one bit
operation. Terms that compare one trait with texts or numbers are looked up in tables; all others are predicates.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from engine.catalog.conditions.compile import Predicate
from engine.catalog.plan.indexing.audience_terms import Bounds, Texts, index_audiences
from engine.catalog.plan.indexing.bits import Bits, bits_by_name

_NO_NAMES: Mapping[str, Bits] = {}


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
    texts, bounds, terms = index_audiences([offer.audience for offer in offers])
    return OfferIndex(
        keys=tuple(offer.key for offer in offers),
        everything=(1 << len(offers)) - 1,
        bits=bits_by_name({offer.key: (place,) for place, offer in enumerate(offers)}, len(offers)),
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
    return {kind: bits_by_name(places, len(offers)) for kind, places in index.items()}


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
