"""The inputs of a decision besides plan and snapshots, stored in its record so that `explain` can repeat it.

The first byte is the format. Adding fields keeps the format; changing the meaning of a field, or how the same
inputs are decided, needs a new one.
"""

from collections.abc import Sequence
from importlib.metadata import version

import msgspec

from engine.customer import Profile
from engine.decision.decision import Availability, DecideRequest
from engine.errors import BadInput

FORMAT = 1
UNMARKED = range(0x90, 0xA0)
"""First bytes of a msgpack array: traces written before the format byte, which equal format 1."""
RELEASE = version("counterpoint")


class Trace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Time, request and profile of a decision; `tripped` selections had an open breaker, `paused` ones were paused.

    `release` is the engine's version. `probabilities` has, by placement, the candidates' final probabilities where a
    learnt policy chose, because its snapshot is deleted after a while.
    """

    now: float
    request: DecideRequest
    profile: Profile
    availability: Availability
    degraded: bool = False
    tripped: list[str] = []
    paused: list[str] = []
    release: str = RELEASE
    probabilities: dict[str, Sequence[float]] = {}


_FORMAT = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Trace)


def encode_trace(trace: Trace) -> bytes:
    """The trace as bytes of a decision's record."""
    return _FORMAT + _encoder.encode(trace)


def decode_trace(blob: bytes) -> Trace:
    """The trace of a record.

    Raises:
        BadInput: if the record has no trace, or one that this version cannot read.
    """
    if not blob:
        raise BadInput("the record has no trace, so it cannot be repeated; its rows in the log are all there is")
    marked = blob[0] not in UNMARKED
    if marked and blob[0] != FORMAT:
        raise BadInput(
            f"the record's trace has format {blob[0]} and Counterpoint {RELEASE} reads format {FORMAT}; "
            "explain it with the release that decided it"
        )
    try:
        trace = _decoder.decode(memoryview(blob)[1:] if marked else blob)
    except msgspec.DecodeError as error:
        raise BadInput(f"the record's trace cannot be read ({error}); is the log damaged?") from error
    return trace if marked else msgspec.structs.replace(trace, release="")
