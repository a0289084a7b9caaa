"""The public hashes of other flag systems, so that an imported rollout keeps every assignment.

Each gives a unit's place in [0, 1), which `ranges` divide as they do GrowthBook's. They differ in the text that is
hashed, in the function, and in how many places there are:

| hash | text | place |
|---|---|---|
| `unleash`, `unleash_variants` | `seed:unit` | MurmurHash3 (x86, 32 bits) modulo `buckets`, by default 100 and 1000 |
| `launchdarkly` | `seed.unit` | the first 15 hexadecimal digits of SHA-1 |
| `flagd` | `[seed, unit]` in CBOR | MurmurHash3 / 2^32 |
| `flagd_text`, `flagd_unit` | `seed` + `unit`, the unit alone, in CBOR | the same |
| `flagsmith` | `seed` + `unit` | MD5 modulo 9999, divided by 9998 |
| `eppo` | `seed-unit` | the first 32 bits of MD5 modulo `buckets`, by default 10,000 |
| `confidence` | `seed|unit` | bits 4 to 63 of MurmurHash3 (x64, 128 bits) modulo `buckets`, by default 1,000,000 |

MurmurHash3: A. Appleby, https://github.com/aappleby/smhasher; texts are hashed as UTF-8.
"""

import struct
from collections.abc import Callable
from functools import partial
from hashlib import md5, sha1

from engine.catalog.spec.hashed import USUAL_BUCKETS, HashName

_MASK = 0xFFFFFFFF
_MASK_LONG = 0xFFFFFFFFFFFFFFFF
_VARIANT_SEED = 86_028_157
"""The seed with which Unleash hashes variants, so that they are independent of rollouts."""
_LONG = float(0xFFFFFFFFFFFFFFF)
FLAGSMITH_PLACES = 9998
"""The number of places of Flagsmith's hash."""


def peer_place(name: HashName, seed: str, buckets: int | None = None) -> Callable[[str], float]:
    """The place of a unit in [0, 1) by the hash of another system."""
    places = buckets or USUAL_BUCKETS.get(name, 0)
    if name == "unleash":
        return partial(_modulo, f"{seed}:", 0, places)
    if name == "unleash_variants":
        return partial(_modulo, f"{seed}:", _VARIANT_SEED, places)
    if name == "launchdarkly":
        return partial(_launchdarkly, seed)
    if name == "flagd":
        head = b"\x82" + _cbor(seed)
        return lambda unit: murmur3(head + _cbor(unit)) / 2**32
    if name in {"flagd_text", "flagd_unit"}:
        prefix = seed if name == "flagd_text" else ""
        return lambda unit: murmur3(_cbor(prefix + unit)) / 2**32
    if name == "flagsmith":
        return partial(_flagsmith, seed)
    if name == "confidence":
        return partial(_confidence, f"{seed}|", places)
    return partial(_eppo, seed, places)


def murmur3(data: bytes, seed: int = 0) -> int:
    """MurmurHash3 (x86, 32 bits) of the data, as an unsigned number."""
    state = seed
    whole = len(data) & ~3
    for (block,) in struct.iter_unpack("<I", data[:whole]):
        state = _rotate(state ^ _scramble(block), 13) * 5 + 0xE6546B64 & _MASK
    if whole < len(data):
        state ^= _scramble(int.from_bytes(data[whole:], "little"))
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    return state ^ state >> 16


def murmur3_long(data: bytes) -> int:
    """The first 64 of the 128 bits of MurmurHash3 (x64) of the data, as an unsigned number."""
    one = two = 0
    whole = len(data) & ~15
    for first, second in struct.iter_unpack("<QQ", data[:whole]):
        one = (_rotate_long(one ^ _scramble_first(first), 27) + two) * 5 + 0x52DCE729 & _MASK_LONG
        two = (_rotate_long(two ^ _scramble_second(second), 31) + one) * 5 + 0x38495AB5 & _MASK_LONG
    rest = data[whole:]
    two ^= _scramble_second(int.from_bytes(rest[8:], "little"))
    one ^= _scramble_first(int.from_bytes(rest[:8], "little"))
    one, two = one ^ len(data), two ^ len(data)
    one = one + two & _MASK_LONG
    two = two + one & _MASK_LONG
    return _finish_long(one) + _finish_long(two) & _MASK_LONG


def _scramble_first(block: int) -> int:
    return _rotate_long(block * 0x87C37B91114253D5 & _MASK_LONG, 31) * 0x4CF5AD432745937F & _MASK_LONG


def _scramble_second(block: int) -> int:
    return _rotate_long(block * 0x4CF5AD432745937F & _MASK_LONG, 33) * 0x87C37B91114253D5 & _MASK_LONG


def _rotate_long(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK_LONG


def _finish_long(state: int) -> int:
    state = (state ^ state >> 33) * 0xFF51AFD7ED558CCD & _MASK_LONG
    state = (state ^ state >> 33) * 0xC4CEB9FE1A85EC53 & _MASK_LONG
    return state ^ state >> 33


def _scramble(block: int) -> int:
    return _rotate(block * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK


def _modulo(prefix: str, seed: int, buckets: int, unit: str) -> float:
    return murmur3(_encode(prefix + unit), seed) % buckets / buckets


def _launchdarkly(seed: str, unit: str) -> float:
    """LaunchDarkly's bucket; its greatest value, 1, becomes the largest number below 1."""
    digits = sha1(_encode(f"{seed}.{unit}"), usedforsecurity=False).hexdigest()[:15]
    return min(int(digits, 16) / _LONG, 1 - 2**-53)


def _flagsmith(seed: str, unit: str) -> float:
    """Flagsmith's percentage as a share; if it would be 1, the repeated text is hashed again."""
    text = f"{seed}{unit}"
    times = 1
    while True:
        value = int(md5(_encode(",".join([text] * times)), usedforsecurity=False).hexdigest(), 16) % (
            FLAGSMITH_PLACES + 1
        )
        if value < FLAGSMITH_PLACES:
            return value / FLAGSMITH_PLACES
        times += 1


def _eppo(seed: str, buckets: int, unit: str) -> float:
    digest = md5(_encode(f"{seed}-{unit}"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:4], "big") % buckets / buckets


def _confidence(prefix: str, buckets: int, unit: str) -> float:
    return (murmur3_long(_encode(prefix + unit)) >> 4) % buckets / buckets


def _cbor(text: str) -> bytes:
    """A text in CBOR (RFC 8949, 3.1, major type 3), with the shortest length."""
    data = _encode(text)
    size = len(data)
    if size < 24:
        return bytes((0x60 + size,)) + data
    if size < 256:
        return bytes((0x78, size)) + data
    if size < 65536:
        return b"\x79" + size.to_bytes(2, "big") + data
    return b"\x7a" + size.to_bytes(4, "big") + data


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
