"""Decisions that were asked for ahead of being seen, kept until their exposure comes or a day has passed."""

import msgspec

from engine.profiles.wire import Values, Wire

LIFE = 86_400


class Prefetched(msgspec.Struct, frozen=True, array_like=True):
    """For whom it was decided, and the experiments and placements that may be seen of it."""

    customer: str
    keys: list[str]


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
