"""A set of hashes finds every member, however many are added later."""

import random

from engine.journal.log.dedupe import HashSet


def test_a_set_of_hashes_has_its_members_and_no_others() -> None:
    chance = random.Random(8)
    ids, expected = HashSet(loose=7), set[int]()
    for _ in range(2000):
        key = chance.choice((chance.getrandbits(64) - (1 << 63), chance.randrange(-50, 50)))
        assert (key in ids) == (key in expected)
        ids.add(key)
        expected.add(key)
    assert all(key in ids for key in expected)
