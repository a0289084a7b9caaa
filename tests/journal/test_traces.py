import msgspec
import pytest

from engine.customer import CustomerIds, Profile
from engine.decision.decision import Availability, DecideRequest
from engine.errors import BadInput
from engine.journal.traces import FORMAT, RELEASE, Trace, decode_trace, encode_trace

REQUEST = DecideRequest(customer=CustomerIds(user_id="u"), channel="web", context={"intent": "buy"})
TRACE = Trace(1.5, REQUEST, Profile("u", "u", points=3.0), Availability({"exposure|*": [1.0]}), tripped=["hero"])


def test_a_trace_names_its_format_and_its_release() -> None:
    blob = encode_trace(TRACE)
    assert (blob[0], decode_trace(blob)) == (FORMAT, TRACE)
    assert decode_trace(blob).release == RELEASE


def test_a_trace_from_before_formats_is_read_without_a_release() -> None:
    before = msgspec.msgpack.encode(msgspec.to_builtins(TRACE)[:7])
    assert decode_trace(before) == msgspec.structs.replace(TRACE, release="")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "has no trace"),
        (
            bytes((FORMAT + 1,)) + encode_trace(TRACE)[1:],
            f"has format {FORMAT + 1} and .* reads format {FORMAT}; explain it with",
        ),
        (encode_trace(TRACE)[:-5], "cannot be read .*damaged"),
        (bytes((FORMAT,)), "cannot be read"),
    ],
    ids=["none", "newer", "cut", "empty"],
)
def test_an_unreadable_trace_is_an_error_with_reason_and_remedy(blob: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        decode_trace(blob)
