"""The value under an identifier's key in Redis: a profile, a pointer, a frozen profile or a tombstone.

Redis format, by the first byte:

| byte | value |
|---|---|
| `P` | a profile: version (4 bytes, big endian), then the profile as a msgpack map |
| `>` | a pointer: 24 digits of the key it points to, then 24 of each customer it pointed to earlier |
| `M` | a profile frozen in a merge: 24 digits of the target's key, then a msgpack array of `FrozenProfile` |
| `T` | a tombstone: the customer was erased |

Transitions: nothing -> `P` or `>`; `P` -> `P` with the next version; `P` -> `M` -> `>` in a merge; `>` -> `>` when
rebound; a `>` past its limit -> a shared `P`; any -> `T` by an erasure. A `T` stays until it expires. Every write
compares the prefix of the stored value (`entry_prefix`), so concurrent writers cannot overwrite each other.
"""

import msgspec

from engine.customer import IdKind, Profile
from engine.customers.redis.keys import ProfileKey
from engine.errors import UnreadableValueError

KEY_DIGITS = 24
TOMBSTONE = b"T"
HEADER = 5


class Pointer(msgspec.Struct, frozen=True):
    """A pointer to the customer at `to`; `before` are the known customers that the identifier named earlier."""

    to: ProfileKey
    before: tuple[ProfileKey, ...] = ()


class FrozenProfile(msgspec.Struct, frozen=True, array_like=True):
    """A profile that is being merged into the customer `id` at `to`; no event is written to it any more."""

    to: ProfileKey
    kind: IdKind
    id: str
    profile: Profile


class Tombstone(msgspec.Struct, frozen=True):
    """The mark of an erased customer."""


ERASED = Tombstone()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Profile).decode
_decode_frozen = msgspec.msgpack.Decoder(FrozenProfile).decode
Entry = Profile | Pointer | FrozenProfile | Tombstone | None


def decode_entry(value: bytes | None) -> Entry:
    """Decodes a stored value.

    Raises:
        UnreadableValueError: if this version does not write such a value.
    """
    if value is None:
        return None
    tag = value[:1]
    try:
        if tag == b"P":
            return _decode(memoryview(value)[HEADER:])
        if tag == b">":
            digits = value[1:].decode()
            first, *rest = [digits[i : i + KEY_DIGITS] for i in range(0, len(digits), KEY_DIGITS)] or [""]
            if len([first, *rest][-1]) != KEY_DIGITS:
                raise UnreadableValueError(f"stored profile: points to {digits!r}, which is not a key; was it cut?")
            return Pointer(first, tuple(rest))
        if tag == b"M":
            return _decode_frozen(memoryview(value)[1 + KEY_DIGITS :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnreadableValueError(f"stored profile: {error}; was it written by a newer version?") from error
    if tag == TOMBSTONE:
        return ERASED
    raise UnreadableValueError(f"stored profile: starts with {tag!r}; was it written by a newer version?")


def encode_entry(entry: Profile | Pointer | FrozenProfile | Tombstone) -> bytes:
    """Encodes an entry for the store."""
    match entry:
        case Profile():
            return b"P" + entry.version.to_bytes(4, "big") + _encode(entry)
        case Pointer():
            return b">" + "".join((entry.to, *entry.before)).encode()
        case FrozenProfile():
            return b"M" + entry.to.encode() + _encode(entry)
        case Tombstone():
            return TOMBSTONE


def entry_prefix(entry: Entry) -> bytes:
    """Returns the prefix that a stored value has while `entry` is unchanged; empty if nothing is stored."""
    if entry is None:
        return b""
    if isinstance(entry, Profile):
        return b"P" + entry.version.to_bytes(4, "big")
    if isinstance(entry, FrozenProfile):
        return b"M" + entry.to.encode()
    return encode_entry(entry)


def entry_targets(entry: Entry) -> tuple[ProfileKey, ...]:
    """Returns the keys that an entry points to or pointed to earlier."""
    if isinstance(entry, FrozenProfile):
        return (entry.to,)
    return (entry.to, *entry.before) if isinstance(entry, Pointer) else earlier_targets(entry)


def earlier_targets(entry: Entry) -> tuple[ProfileKey, ...]:
    """Returns the keys of the known customers that an identifier named earlier."""
    if isinstance(entry, Pointer):
        return entry.before
    return tuple(entry.merged) if isinstance(entry, Profile) and entry.shared else ()
