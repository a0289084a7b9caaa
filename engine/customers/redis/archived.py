"""Redis formats of a profile's archive; `model/archive.py` describes its purpose.

- `keyspace.archived_orders`: a string, the msgpack map of order id to the array of `Order`'s fields. Where traits read
  more of an order, the byte `0xc1`, which no msgpack begins with, and a msgpack array of that map and one of the facts.
- `keyspace.archived_identifiers`: a set of texts, each the kind of an identifier, a colon and its value.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, cast

import msgspec

from engine import keyspace
from engine.customer import KINDS, IdKind, Order, Scalar
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValue
from engine.errors import UnreadableValueError

_WITH_FACTS = b"\xc1"
_decode = msgspec.msgpack.Decoder(dict[str, Order]).decode
_decode_both = msgspec.msgpack.Decoder(tuple[dict[str, Order], dict[str, dict[str, Scalar]]]).decode
_encode = msgspec.msgpack.Encoder().encode


_NO_FACTS: Final[Mapping[str, dict[str, Scalar]]] = MappingProxyType({})


class ArchivedOrders(NamedTuple):
    """Orders outside the profile, by id, and their facts."""

    orders: dict[str, Order]
    facts: Mapping[str, dict[str, Scalar]] = _NO_FACTS


def decode_orders(value: StoredValue) -> ArchivedOrders:
    """Decodes archived orders; empty if nothing is stored.

    Raises:
        UnreadableValueError: if this version does not write such a value.
    """
    try:
        if value is None:
            return ArchivedOrders({})
        return ArchivedOrders(*_decode_both(value[1:])) if value[:1] == _WITH_FACTS else ArchivedOrders(_decode(value))
    except msgspec.DecodeError as error:
        raise UnreadableValueError(f"archived orders: {error}; were they written by a newer version?") from error


def encode_orders(archived: ArchivedOrders) -> bytes:
    """Encodes archived orders."""
    return (
        _WITH_FACTS + _encode((archived.orders, dict(archived.facts))) if archived.facts else _encode(archived.orders)
    )


def encode_members(identifiers: Iterable[tuple[IdKind, str]], members: Iterable[bytes] = ()) -> bytes:
    """Encodes identifiers to add to a set, and members of another set, for `write.lua`; empty if there are none."""
    texts = [*(f"{kind}:{value}" for kind, value in identifiers), *(member.decode() for member in members)]
    return _encode(texts) if texts else b""


async def read_members(pipeline: RedisPipeline, key: ProfileKey) -> list[bytes]:
    """Reads the members of a customer's archived identifiers, sorted.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    reply = await pipeline.send("SMEMBERS", keyspace.archived_identifiers(key))
    return sorted(cast("Iterable[bytes]", reply))


async def read_members_of(pipeline: RedisPipeline, keys: Sequence[ProfileKey]) -> dict[ProfileKey, list[bytes]]:
    """Reads the members of several customers' archived identifiers; errors as in `read_members`."""
    return dict(zip(keys, await asyncio.gather(*(read_members(pipeline, key) for key in keys)), strict=True))


async def read_identifiers(pipeline: RedisPipeline, key: ProfileKey) -> dict[IdKind, list[str]]:
    """Reads a customer's archived identifiers by kind; errors as in `read_members`."""
    found: dict[IdKind, list[str]] = {}
    for member in await read_members(pipeline, key):
        name, _, value = member.decode().partition(":")
        for kind in KINDS:
            if kind == name:
                found.setdefault(kind, []).append(value)
    return found
