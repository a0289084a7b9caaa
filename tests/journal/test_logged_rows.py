"""The collector's shorter ways of reading frames and decisions find what the plain ones find."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.journal.log.parquet import as_columns, rows_of_record
from engine.journal.records import DecisionRecord, DecisionRow, decode, decode_for_log, encode
from engine.journal.spool.frames import decode_frames, decode_payloads, encode_frame

CANDIDATES = st.sampled_from([[], ["a"], ["a", "b"], ["b", "a"], ["ä", "\u2028"]])
CONTEXT = st.dictionaries(st.text(max_size=4), st.none() | st.booleans() | st.floats(allow_nan=False) | st.text())
ROWS = st.builds(
    DecisionRow,
    st.sampled_from(["experiment", "offer"]),
    st.text(max_size=4),
    st.none() | st.text(max_size=4),
    st.text(max_size=4),
    st.floats(0, 1),
    CANDIDATES,
    CONTEXT,
    st.none() | st.text(max_size=4),
    st.booleans(),
    st.text(max_size=2),
)
DECISIONS = st.builds(
    DecisionRecord,
    st.text(min_size=1, max_size=8),
    st.floats(0, 4e9),
    st.text(max_size=4),
    st.none() | st.text(max_size=4),
    st.text(max_size=4),
    st.text(max_size=4),
    st.lists(ROWS, max_size=4),
    st.binary(max_size=9),
)


@settings(deadline=None)
@given(st.lists(DECISIONS, min_size=1, max_size=5))
def test_a_decision_becomes_the_same_rows_with_its_candidates_left_encoded(decisions: list[DecisionRecord]) -> None:
    plain, shorter = [], []
    for decision in decisions:
        payload = encode(decision)
        table, day, rows = rows_of_record(decode(payload))
        assert rows_of_record(decode_for_log(payload)) == (table, day, rows)
        plain += rows
        shorter += rows_of_record(decode_for_log(payload))[2]
    if plain:
        columns = as_columns("decisions", shorter)
        assert columns == as_columns("decisions", plain)
        assert columns["candidates"].to_pylist() == [row.candidates for one in decisions for row in one.rows]


def test_a_decision_whose_candidates_are_no_list_of_text_is_refused() -> None:
    wrong = msgspec.msgpack.encode(["decision", "d", 1.0, "u", None, "web", "p", [["offer", "k", "v", "r", 0.5, [1]]]])
    with pytest.raises(msgspec.DecodeError):
        decode(wrong)
    with pytest.raises(msgspec.DecodeError):
        rows_of_record(decode_for_log(wrong))


@settings(deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=6), st.data())
def test_payloads_are_those_of_the_whole_frames_wherever_the_bytes_are_torn_or_altered(
    payloads: list[bytes], data: st.DataObject
) -> None:
    entry = bytearray(b"".join(encode_frame(seq + 1, 3, payload) for seq, payload in enumerate(payloads)))
    if entry and data.draw(st.booleans()):
        entry[data.draw(st.integers(0, len(entry) - 1))] ^= data.draw(st.integers(1, 255))
    torn = bytes(entry[: data.draw(st.integers(0, len(entry)))])
    behind = data.draw(st.integers(0, len(payloads)))
    frames = list(decode_frames(torn))
    found, whole = decode_payloads(torn, behind)
    assert found == [(frame.seq, frame.payload) for frame in frames if frame.seq > behind]
    assert whole == sum(len(frame.raw) for frame in frames)
