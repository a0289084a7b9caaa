"""What a decision was made from besides plan and snapshots, kept in its record so that it can be made again."""

import msgspec

from engine.decide.decision import DecideRequest, Standing
from engine.decide.profile import Profile
from engine.errors import BadInput


class Trace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When, the request and the customer as they were; `tripped` selections had an open breaker, `paused` were held."""

    now: float
    request: DecideRequest
    profile: Profile
    standing: Standing
    degraded: bool = False
    tripped: list[str] = []
    paused: list[str] = []


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Trace)


def encode(trace: Trace) -> bytes:
    """The trace as it is stored in a decision's record."""
    return _encoder.encode(trace)


def decode(blob: bytes) -> Trace:
    """The trace of a record.

    Raises:
        BadInput: if the record has none, or one that this version does not read.
    """
    try:
        return _decoder.decode(blob)
    except msgspec.DecodeError as error:
        raise BadInput(f"the record's trace cannot be read ({error}); it was written by another version") from error
