"""What stands under an identifier's key: a profile, the way to one, one being merged into another, or a tombstone.

The first byte tells which: `P` and four bytes of version before the profile's msgpack; `>` before the 24 digits of
the key it points to and of every customer it pointed to earlier; `M` before the key merged into, the name of that
customer and the frozen profile behind it; `T` a tombstone.
"""

import msgspec

from engine.customer import IdKind, Profile
from engine.customers.redis.keys import ProfileKey
from engine.errors import CounterpointError

KEY_DIGITS = 24
TOMBSTONE = b"T"
HEADER = 5


class Pointer(msgspec.Struct, frozen=True):
    """The identifier names the customer at `to`; `before` are the known customers it named earlier."""

    to: ProfileKey
    before: tuple[ProfileKey, ...] = ()


class FrozenProfile(msgspec.Struct, frozen=True, array_like=True):
    """A profile on its way into the customer `id` at `to`: nothing more is written to it."""

    to: ProfileKey
    kind: IdKind
    id: str
    profile: Profile


class Tombstone(msgspec.Struct, frozen=True):
    """An erased customer was here."""


ERASED = Tombstone()
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Profile).decode
_decode_frozen = msgspec.msgpack.Decoder(FrozenProfile).decode
Entry = Profile | Pointer | FrozenProfile | Tombstone | None


def decode_entry(value: bytes | None) -> Entry:
    """The entry of a stored value.

    Raises:
        CounterpointError: if the value is none that this version writes.
    """
    if value is None:
        return None
    tag = value[:1]
    try:
        if tag == b"P":
            return _decode(memoryview(value)[HEADER:])
        if tag == b">":
            digits = value[1:].decode()
            first, *rest = (digits[i : i + KEY_DIGITS] for i in range(0, len(digits), KEY_DIGITS))
            return Pointer(first, tuple(rest))
        if tag == b"M":
            return _decode_frozen(memoryview(value)[1 + KEY_DIGITS :])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CounterpointError(f"stored profile: {error}; was it written by a newer version?") from error
    if tag == TOMBSTONE:
        return ERASED
    raise CounterpointError(f"stored profile: starts with {tag!r}; was it written by a newer version?")


def encode_entry(entry: Profile | Pointer | FrozenProfile | Tombstone) -> bytes:
    """The value to store."""
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
    """How a stored value must start for a write over `entry` not to lose another's; empty: nothing is stored."""
    if entry is None:
        return b""
    if isinstance(entry, Profile):
        return b"P" + entry.version.to_bytes(4, "big")
    if isinstance(entry, FrozenProfile):
        return b"M" + entry.to.encode()
    return encode_entry(entry)
