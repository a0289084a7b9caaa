"""A request that is sent again with its `Idempotency-Key` gets the answer it had; the log holds that decision once.

The answer is kept with its records before they are in the spool, and without them after. Who finds records does not
know whether the worker that put them there lived to spool them, so it spools them too: `repeatable` ids tell the
collector which decisions may come twice.
"""

from hashlib import blake2b, sha1
from pathlib import Path

import msgspec

from engine.profiles.wire import Script, Wire

LIFE = 60
"""Seconds; a client that asks again does so at once, and a busy shop makes many answers in a minute."""


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """An answer as it was given; `records` (payload, customer) are those that may not be in the log yet."""

    answer: bytes
    records: list[tuple[bytes, str]]


_TEXT = Path(__file__).with_name("claim.lua").read_text(encoding="utf-8")
_CLAIM = Script(_TEXT, sha1(_TEXT.encode(), usedforsecurity=False).hexdigest())
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Kept).decode


async def claim(wire: Wire, token: str, body: bytes, kept: Kept) -> Kept:
    """What was answered to the request `body` with the key `token`; `kept` if nothing was yet.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    earlier = await wire.call(_CLAIM, [_key(token, body)], [_encode(kept), LIFE])
    return _decode(earlier) if isinstance(earlier, bytes) else kept


async def answered(wire: Wire, token: str, body: bytes) -> Kept | None:
    """What was answered to the request `body` with the key `token`; None if nothing was yet.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    return await wire.get([_key(token, body)], lambda values: _decode(values[0]) if values[0] else None)


def settle(wire: Wire, token: str, body: bytes, kept: Kept) -> None:
    """Tell those who ask again that the records are in the spool. Not waited for: not knowing it costs a duplicate."""
    told = wire.send("SET", _key(token, body), _encode(Kept(kept.answer, [])), "XX", "KEEPTTL")
    told.add_done_callback(lambda future: future.cancelled() or future.exception())


def _key(token: str, body: bytes) -> str:
    digest = blake2b(token.encode() + b"\0" + body, digest_size=16)
    return f"cp:{{r:{digest.hexdigest()}}}"
