"""Hostile bytes are refused with the documented errors; `python -m tests.faults.parsers` runs for longer."""

import random
from pathlib import Path

import pytest

from engine.customers.model.event_batch import decode_batch
from engine.customers.redis.stored_entry import decode_entry
from engine.errors import UnreadableValueError
from tests.faults import parsers

INPUTS = {"yaml": 60, "request": 400, "record": 400, "stream": 400, "profile": 1000}


@pytest.mark.parametrize("name", INPUTS)
def test_no_mutation_of_good_input_raises_another_error(name: str, tmp_path: Path) -> None:
    parser = parsers.parsers(tmp_path)[name]
    for sample in parser.samples:
        parser.parse(sample)
    count, _ = parsers.run(parser, random.Random(7), lambda done: done == INPUTS[name])
    assert count == INPUTS[name]


def test_an_event_with_a_field_that_is_no_utf8_is_rejected_alone() -> None:
    good = b'{"type": "track", "message_id": "m-1", "user_id": "u", "event": "click"}'
    bad = b'{"type": "track", "message_id": "m-2", "user_id": "u", "event": "click", "colour\xd8": 1}'
    first, second = decode_batch(b'{"batch": [%b, %b]}' % (good, bad))
    assert (first.item.message_id, getattr(first.item, "status", "accepted")) == ("m-1", "accepted")
    assert (second.item.message_id, second.item.status, second.item.reason) == (
        "m-2",
        "rejected",
        "the body is not UTF-8 at byte 6; encode it as UTF-8",
    )


@pytest.mark.parametrize("cut", [b">", b">abc"])
def test_a_cut_pointer_to_a_customer_is_unreadable(cut: bytes) -> None:
    with pytest.raises(UnreadableValueError, match="which is not a key"):
        decode_entry(cut)
