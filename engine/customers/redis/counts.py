"""What was counted for a customer, by counter: read by decisions, written by claims."""

from collections.abc import Iterable, Mapping

import msgspec

from engine.customer import Counts
from engine.customers.redis.pipeline import StoredValue

_decode = msgspec.msgpack.Decoder(Mapping[str, list[tuple[float, str]]]).decode


def decode_counts(value: StoredValue) -> Counts:
    """A customer's counts from their stored form."""
    if value is None:
        return {}
    return {name: [entry[0] for entry in entries] for name, entries in _decode(value).items()}


def merge_counts(values: Iterable[StoredValue]) -> bytes:
    """The counts of several visitors that are one customer, in stored form; empty if there are none."""
    both: dict[str, list[tuple[float, str]]] = {}
    for value in values:
        for name, entries in (_decode(value) if value is not None else {}).items():
            both.setdefault(name, []).extend(entries)
    return msgspec.msgpack.encode({name: sorted(entries) for name, entries in both.items()}) if both else b""
