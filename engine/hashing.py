"""Hashing: GrowthBook's public bucketing, draws of a decision, and digests of erased identifiers.

An experiment imported from GrowthBook keeps every assignment. FNV-1a, 32 bits, as in
http://www.isthe.com/chongo/tech/comp/fnv/; bucketing as in GrowthBook's "Build your own SDK", spec version 0.5. A text
is hashed over its UTF-16 code units, as the JavaScript SDKs do.

The results are a contract: another hash would give running experiments other variants and change logged draws.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, overload

BucketRanges = Sequence[tuple[float, float]]
"""The half-open range [low, high) of each variant."""

_BASIS = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF
# Up to this length it is cheaper to let the product grow than to cut it to 32 bits at every step.
_SHORT = 64
_PLACES = 10_000


def _code_units(text: str) -> Iterable[int]:
    """The UTF-16 code units of a text; a lone surrogate is one, as in JavaScript."""
    if text.isascii():
        return text.encode()
    units = array("H")
    units.frombytes(text.encode("utf-16", "surrogatepass")[2:])
    return units


def _fnv1a32(units: Iterable[int], state: int = _BASIS) -> int:
    """FNV-1a of code units, continued from `state`, the hash of the preceding ones."""
    for unit in units:
        state = (state ^ unit) * _PRIME & _MASK
    return state


@overload
def bucket(seed: str, unit: str, version: Literal[1, 2] = 2) -> float: ...
@overload
def bucket(seed: str, unit: str, version: int) -> float | None: ...
def bucket(seed: str, unit: str, version: int = 2) -> float | None:
    """The place of `unit` in [0, 1) under `seed`; None when the hash version is not 1 or 2.

    Version 2 is `fnv1a32(str(fnv1a32(seed + unit))) % 10000 / 10000`, version 1 `fnv1a32(unit + seed) % 1000 / 1000`.
    """
    if version == 2:
        return seeded_bucket(seed)(unit)
    if version == 1:
        return _fnv1a32(_code_units(unit + seed)) % 1000 / 1000
    return None


@lru_cache(maxsize=4096)
def seeded_bucket(seed: str) -> Callable[[str], float]:
    """`bucket` of version 2 with the seed hashed once: `seeded_bucket(seed)(unit) == bucket(seed, unit)`."""
    place = _seeded_place(seed)
    return lambda unit: place(unit) / _PLACES


def _seeded_place(seed: str) -> Callable[[str], int]:
    """Version 2 of the hash as a whole number below 10,000."""
    start = _fnv1a32(_code_units(seed))

    def place(unit: str) -> int:
        if len(unit) > _SHORT or not unit.isascii():
            state = _fnv1a32(_code_units(unit), start)
        else:
            state = start
            for byte in unit.encode():
                state = (state ^ byte) * _PRIME
        digits = _BASIS
        for byte in b"%d" % (state & _MASK):
            digits = (digits ^ byte) * _PRIME
        return (digits & _MASK) % _PLACES

    return place


def variant_lookup(seed: str, ranges: BucketRanges) -> Callable[[str], int]:
    """`choose_variant(bucket(seed, unit), ranges)` as a lookup: the fastest way from a unit to its variant.

    The table takes 20 kB: the variant of each of the 10,000 places.
    """
    variants = array("h", [-1]) * _PLACES
    for index, (low, high) in reversed(list(enumerate(ranges))):
        first, end = _first_place(low), _first_place(high)
        if first < end:
            variants[first:end] = array("h", [index]) * (end - first)
    place = _seeded_place(seed)
    return lambda unit: variants[place(unit)]


def _first_place(edge: float) -> int:
    """The smallest place with `place / 10,000 >= edge` in floating point, which is how `bucket` compares."""
    place = math.floor(edge * _PLACES) - 1
    while place / _PLACES < edge:
        place += 1
    return min(max(place, 0), _PLACES)


def equal_weights(n: int) -> list[float]:
    """`n` equal shares that sum to 1; no shares for n < 1."""
    return [1 / n] * n if n > 0 else []


def bucket_ranges(n: int, coverage: float = 1.0, weights: Sequence[float] | None = None) -> list[tuple[float, float]]:
    """The half-open range [low, high) of each of `n` variants.

    A variant's range starts where the full shares of those before it end and is cut to `coverage` of its own share:
    raising coverage only widens ranges. As in GrowthBook, coverage is clamped to [0, 1], and weights that are not
    `n` or do not sum to 1 within 0.01 give way to equal ones; `check` refuses both before a plan is made.
    """
    coverage = min(max(coverage, 0.0), 1.0)
    shares = equal_weights(n) if weights is None or len(weights) != n else weights
    if not 0.99 <= sum(shares) <= 1.01:
        shares = equal_weights(n)
    ranges = []
    low = 0.0
    for share in shares:
        ranges.append((low, low + coverage * share))
        low += share
    return ranges


def choose_variant(place: float, ranges: BucketRanges) -> int:
    """The index of the first range that contains `place`, or -1."""
    for index, (low, high) in enumerate(ranges):
        if low <= place < high:
            return index
    return -1


def in_namespace(unit: str, namespace: tuple[str, float, float]) -> bool:
    """Whether `unit` lies in a GrowthBook namespace (name, low, high): version 1 of the hash, seeded `__name`."""
    name, low, high = namespace
    return low <= bucket(f"__{name}", unit, 1) < high


def uniform_draw(decision_id: str, key: str) -> float:
    """The random number in [0, 1) of one draw, 53 bits: a BLAKE2b hash of decision and `key` (a placement).

    A decision's draw can be replayed from its record. The id's length goes first, so that no two pairs of id and key
    give the same text.
    """
    text = f"{len(decision_id)}:{decision_id}{key}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(text, digest_size=8).digest()) >> 11) * 2.0**-53


def identifier_digest(identifier: str) -> str:
    """The digest that tombstones store instead of an erased identifier: 128 bits of BLAKE2b, one-way."""
    return blake2b(identifier.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
