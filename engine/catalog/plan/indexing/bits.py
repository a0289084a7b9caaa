"""Sets of offers as bits of integers: bit i stands for the i-th offer of a collection."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np

from policies.batches import Ints

Bits = int
FEW_OFFERS = 4096
"""Offers up to which the bits of every name are stored."""
STORED_NAMES = 4096
"""The number of names whose bits are stored, those with most offers first: 50 MB for 100,000 offers."""


class PlaceBits(Mapping[str, Bits]):
    """The bits of names, built on demand: with 100,000 offers each bit alone is an integer of 12 kB."""

    def __init__(self, places: Mapping[str, Sequence[int]]) -> None:
        several = sorted((name for name, at in places.items() if len(at) > 1), key=lambda name: -len(places[name]))
        self._bits = {name: bits_of(places[name]) for name in several[:STORED_NAMES]}
        self._places = {name: at[0] if len(at) == 1 else tuple(at) for name, at in places.items()}

    def __getitem__(self, name: str) -> Bits:
        bits = self._bits.get(name)
        if bits is not None:
            return bits
        at = self._places[name]
        return 1 << at if isinstance(at, int) else bits_of(at)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def bits_by_name(places: Mapping[str, Sequence[int]], offers: int) -> Mapping[str, Bits]:
    """The bits of each name among this many offers."""
    return {name: bits_of(at) for name, at in places.items()} if offers <= FEW_OFFERS else PlaceBits(places)


def bits_of(places: Iterable[int]) -> Bits:
    """The bits at these places, set byte by byte."""
    at = tuple(places)
    found = bytearray((max(at, default=0) >> 3) + 1)
    for place in at:
        found[place >> 3] |= 1 << (place & 7)
    return int.from_bytes(found, "little")


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
