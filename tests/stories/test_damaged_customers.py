"""A customer whose stored value is damaged can be erased, and stands in nobody's way."""

from typing import Any

import duckdb

from tests.store import open_store

SHOP = {"offers": {"a": {}}, "placements": {"hero": {"offers": ["a"]}}}


def damage(url: str, name: bytes) -> None:
    """Cut the stored value of a customer off."""
    with open_store(url) as client:
        for key in client.scan_iter("cp:{*}"):
            value = client.get(key) if client.type(key) == b"string" else None
            if value is not None and value[:1] == b"P" and name in value:
                client.set(key, value[:20])


def test_a_damaged_customer_is_erased_by_any_of_their_identifiers(open_shop: Any, redis_url: str) -> None:
    shop = open_shop(SHOP, workers=1)
    for number, identifier in enumerate(("user_id", "anonymous_id", "email")):
        ids = {"user_id": f"u-{number}", "anonymous_id": f"a-{number}", "email": f"u-{number}@x.de"}
        shop.tell("purchase", properties={"revenue": 3}, **ids)
        damage(redis_url, ids["user_id"].encode())
        assert shop.client().get(f"/v1/profiles/{ids[identifier]}").status_code == 503
        erased = shop.client().delete(f"/v1/profiles/{ids[identifier]}")
        assert (erased.status_code, ids[identifier] in erased.json()["ids"]) == (200, True), erased.text
        for value in ids.values():
            assert shop.client().get(f"/v1/profiles/{value}").status_code == 404
        assert shop.tell("purchase", properties={"revenue": 3}, **ids) == "rejected"
    shop.collect()
    rows = duckdb.sql(f"SELECT customer FROM '{shop.settings.log}/events/**/*.parquet'").fetchall()
    assert ("u-0",) not in rows  # it was erased by its name in the log
