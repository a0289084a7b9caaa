"""What a decision was made from besides plan and snapshots, kept in its record so that it can be made again.

One byte says in which format. Formats that only gained fields are one format; a change of what a field means, or of
how the same inputs are decided, is a new one.
"""

from collections.abc import Sequence
from importlib.metadata import version

import msgspec

from engine.customer import Profile
from engine.decision.decision import Availability, DecideRequest
from engine.errors import BadInput

FORMAT = 1
UNMARKED = range(0x90, 0xA0)
"""How msgpack begins an array: traces from before there was a format, which are as those of the first."""
RELEASE = version("counterpoint")


class Trace(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """When, the request and the customer as they were; `tripped` selections had an open breaker, `paused` were held.

    `release` is that of the engine that decided. `chances` are, by placement, the final probabilities of the candidates
    under a learnt policy: its snapshot is not kept for ever.
    """

    now: float
    request: DecideRequest
    profile: Profile
    standing: Availability
    degraded: bool = False
    tripped: list[str] = []
    paused: list[str] = []
    release: str = RELEASE
    chances: dict[str, Sequence[float]] = {}


_FORMAT = bytes((FORMAT,))
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Trace)


def encode(trace: Trace) -> bytes:
    """The trace as it is stored in a decision's record."""
    return _FORMAT + _encoder.encode(trace)


def decode(blob: bytes) -> Trace:
    """The trace of a record.

    Raises:
        BadInput: if the record has none, or one that this version does not read.
    """
    if not blob:
        raise BadInput("the record has no trace; what the log says of the decision is all that is left")
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
