"""A set of hashes finds every member, and the log has a repeated event once, however many are added later."""

import random
from pathlib import Path

import msgspec

from engine.journal.log.dedupe import Deduplicator, HashSet
from engine.journal.records import EventRecord
from engine.vocabulary import MERGED


def test_a_set_of_hashes_has_its_members_and_no_others() -> None:
    chance = random.Random(8)
    ids, expected = HashSet(loose=7), set[int]()
    for _ in range(2000):
        key = chance.choice((chance.getrandbits(64) - (1 << 63), chance.randrange(-50, 50)))
        assert (key in ids) == (key in expected)
        ids.add(key)
        expected.add(key)
    assert all(key in ids for key in expected)


def test_an_event_is_logged_once_however_many_visitors_became_its_customer(tmp_path: Path) -> None:
    log = Deduplicator(tmp_path)

    def add(message: str, customer: str, event: str, properties: dict[str, str]) -> int:
        record = EventRecord(
            message_id=message,
            time=0.0,
            received=0.0,
            customer=customer,
            event=event,
            decision_id=None,
            channel=None,
            revenue=None,
            properties=msgspec.json.encode(properties),
        )
        return len(log.new_rows(record, "2026-11-01", [{}]))

    visitors = [f"a-{n}" for n in range(300)]
    for visitor in visitors:
        assert add(f"m-{visitor}", visitor, "purchase", {}) == 1
        assert add(f"merge-{visitor}", "u-1", MERGED, {"from": visitor, "into": "u-1"}) == 1
    assert [add(f"m-{visitor}", "u-1", "purchase", {}) for visitor in visitors] == [0] * 300
    assert add("m-new", "u-1", "purchase", {}) == 1
