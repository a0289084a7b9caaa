"""Decisions of which more will be heard, kept for a day: asked for ahead of being seen, or with limited offers."""

import msgspec

from engine.decide.profile import CustomerIds
from engine.profiles.keys import Key
from engine.profiles.wire import Values, Wire

LIFE = 86_400


class Prefetched(msgspec.Struct, frozen=True, array_like=True):
    """For whom it was decided, and the experiments and placements that wait to be seen (none: they were at once).

    `key` is where the customer's claims are; `offers` are those by placement that must be claimed yet or heard of
    again, with the moment of truth and when it began. `who` names a customer who was not seen yet, and `unit` is what
    their variants hang on.
    """

    customer: str
    keys: list[str]
    key: Key = ""
    offers: dict[str, tuple[str, str | None, float]] = {}
    channel: str = ""
    zone: str = "UTC"
    unit: str = ""
    who: CustomerIds | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Prefetched).decode


async def hold(wire: Wire, decision_id: str, prefetched: Prefetched) -> None:
    """Keep a decision until it is seen.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    await wire.send("SET", _key(decision_id), _encode(prefetched), "EX", LIFE)


async def held(wire: Wire, decision_id: str) -> Prefetched | None:
    """The decision of this id, if it waits to be seen.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found: Prefetched | None = await wire.get([_key(decision_id)], _read)
    return found


def _read(values: Values) -> Prefetched | None:
    return None if values[0] is None else _decode(values[0])


def _key(decision_id: str) -> str:
    return f"cp:{{d:{decision_id[:64]}}}"
