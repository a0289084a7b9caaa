"""Counters of a customer for caps: decisions read them, claims write them."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from engine import keyspace
from engine.customer import Counts
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, StoredValue, StoredValues
from engine.errors import UnreadableValueError

_decode = msgspec.msgpack.Decoder(Mapping[str, list[tuple[float, str]]]).decode


def decode_counts(value: StoredValue) -> Counts:
    """Decodes a customer's stored counts.

    Raises:
        UnreadableValueError: if this version does not write such a value.
    """
    return {name: [entry[0] for entry in entries] for name, entries in _entries(value).items()}


def merge_counts(values: Iterable[StoredValue]) -> bytes:
    """Returns the stored counts of a merged customer from those of its profiles; empty if there are none."""
    both: dict[str, list[tuple[float, str]]] = {}
    for value in values:
        for name, entries in _entries(value).items():
            both.setdefault(name, []).extend(entries)
    return msgspec.msgpack.encode({name: sorted(entries) for name, entries in both.items()}) if both else b""


def _entries(value: StoredValue) -> Mapping[str, list[tuple[float, str]]]:
    try:
        return _decode(value) if value is not None else {}
    except msgspec.DecodeError as error:
        raise UnreadableValueError(f"stored counters: {error}; were they written by a newer version?") from error


async def read_counts(pipeline: RedisPipeline, keys: Sequence[ProfileKey]) -> dict[ProfileKey, bytes]:
    """Reads the encoded counters of customers who have any.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    if not keys:
        return {}
    values: StoredValues = await pipeline.get([keyspace.counters(key) for key in keys], list)
    return {key: value for key, value in zip(keys, values, strict=True) if value is not None}
