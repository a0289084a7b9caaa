"""The reference page has every key of the table, and the table every key that a function of the module makes."""

from pathlib import Path

import pytest

from engine import keyspace

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "keyspace.md"
PATTERNS = {key.pattern for key in keyspace.KEYSPACE}
MADE = {
    keyspace.profile("HASH"),
    keyspace.counted_messages("HASH"),
    keyspace.earlier_messages("HASH"),
    keyspace.counters("HASH"),
    keyspace.archived_orders("HASH"),
    keyspace.archived_identifiers("HASH"),
    keyspace.pending_decision("ID"),
    keyspace.pool("stock", "SKU"),
    keyspace.pool("budget", "OFFER"),
    keyspace.pool("shelf", "PLACE/SKU"),
    *(
        keyspace.pool_holds(kind, name)
        for kind, name in (("stock", "SKU"), ("budget", "OFFER"), ("shelf", "PLACE/SKU"))
    ),
    keyspace.order("DIGEST"),
    *keyspace.coupons("OFFER"),
    keyspace.roster(0),
    keyspace.roster_looks(0),
    keyspace.due_message("HASH", "CAUSE"),
    keyspace.due("CHANNEL"),
    keyspace.due_capacity("CHANNEL"),
    keyspace.due_lease("ID"),
    keyspace.idempotent_answer("DIGEST"),
    keyspace.key_rate("KEY"),
    *keyspace.partition(0),
    keyspace.partition_lease(0),
    keyspace.snapshot("KEY"),
    keyspace.stored_snapshots("KEY"),
}
CONSTANTS = {value for value in vars(keyspace).values() if isinstance(value, str) and value.startswith("cp:")}


def test_the_reference_page_is_generated_from_the_table() -> None:
    fresh = keyspace.render_keyspace()
    assert PAGE.read_text() == fresh, "run `python -m engine.keyspace > docs/reference/keyspace.md`"


def test_the_table_has_every_key_once() -> None:
    assert len(PATTERNS) == len(keyspace.KEYSPACE)
    assert PATTERNS == MADE | CONSTANTS


@pytest.mark.parametrize("key", keyspace.KEYSPACE, ids=lambda key: key.pattern)
def test_an_owner_is_a_room_of_the_engine(key: keyspace.KeyPattern) -> None:
    assert (Path(keyspace.__file__).parent / key.owner).is_dir()


def test_keys_of_one_script_share_a_node() -> None:
    """Redis Cluster hashes what stands between the first braces."""

    def slot(key: str) -> str:
        return key[key.index("{") : key.index("}") + 1]

    together = (
        set(keyspace.customer_keys("h")),
        {keyspace.pool("budget", "o"), keyspace.pool_holds("budget", "o")},
        set(keyspace.partition(3)),
        {keyspace.SNAPSHOT_HEADERS, keyspace.snapshot("k"), keyspace.stored_snapshots("k")},
    )
    assert all(len({slot(key) for key in keys}) == 1 for keys in together)
