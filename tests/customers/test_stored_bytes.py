"""What an earlier release stored in Redis of customers and claims is read as before, and written back the same.

Expected values name every field, so two fields of one type that change places in an array fail here.
"""

import asyncio
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from engine import keyspace
from engine.claims.claims import Claim, Claims, PoolShare
from engine.claims.pending_exposures import PendingDecision, fetch_pending
from engine.customer import (
    ComplaintStatement,
    Consent,
    CustomerIds,
    Decayed,
    IdKind,
    JourneyItem,
    Link,
    Order,
    Profile,
    SeriesTally,
    SurveyAnswer,
    Trait,
    TraitSeries,
)
from engine.customers.model.events import Accepted, Event
from engine.customers.redis.archived import ArchivedOrders, decode_orders, encode_orders, read_identifiers
from engine.customers.redis.pipeline import RedisPipeline, connect_store
from engine.customers.redis.stored_entry import (
    Entry,
    FrozenProfile,
    Pointer,
    Tombstone,
    decode_entry,
    encode_entry,
)
from engine.customers.store import ProfileStore

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "stored_customers.json").read_text())
ENTRIES: dict[str, bytes] = {name: bytes.fromhex(text) for name, text in VECTORS["entries"].items()}
SECRET: str = VECTORS["store"]["secret"]

T = 1764000000.0
A, B, C = "a" * 24, "b" * 24, "c" * 24
FULL = Profile(
    id="u-1",
    unit="a-1",
    version=7,
    created=T,
    updated=T + 9,
    ids={"user_id": ["u-1"], "anonymous_id": ["a-1", "a-2"]},
    units={"a-2": T + 1},
    merged=["0123abcd"],
    marks=b"\x01\x02\x03\x04\x05\x06\x07\x08",
    shared=True,
    undecided=True,
    traits={
        "city": Trait(value="Köln", time=T, source="web", known=True),
        "tags": Trait(value=["a", 1], time=T + 1, source="crm", known=False),
    },
    affinities={"tea": Decayed(value=2.5, time=T)},
    half_life=86400.0,
    points=12.5,
    earned=20.25,
    tier=2,
    orders={"o-1": Order(revenue=50.0, time=T + 2, points=5.0, refunded=10.5, full=True)},
    order_count=3,
    revenue=99.5,
    first_order=T - 100,
    last_order=T + 2,
    visits=[(1764000000, 1764000060)],
    past_visits=4,
    channels={"web": 1764000060},
    recent={"purchase": T + 2},
    complaint=(True, T + 3),
    consents={"news": Consent(granted=True, time=T, expires=T + 86400, source="app", by="0a1b2c3d")},
    answers={"nps": SurveyAnswer(score=9.0, time=T + 4)},
    journey={"cart": JourneyItem(value={"items": 2}, time=T + 5, until=T + 500)},
    sticky={"exp": "b"},
    links=[Link(a="0a1b2c3d", b="4e5f6071", time=T)],
    consent_statements={
        "news": {
            "0a1b2c3d": Consent(granted=True, time=T, expires=None, source="app", by="0a1b2c3d"),
            "4e5f6071": Consent(granted=False, time=T - 5, expires=None, source="web", by="4e5f6071"),
        }
    },
    trait_statements={"points_won": {"0a1b2c3d": Trait(value=4, time=T, source="till", known=True)}},
    complaints=[ComplaintStatement(time=T + 6, opens=True, id="c-1"), ComplaintStatement(time=T + 7, opens=False)],
)
EXPECTED: dict[str, Entry] = {
    "profile": FULL,
    "new profile": Profile(id="a-9", unit="a-9", undecided=True),
    "pointer": Pointer(to=A),
    "pointer of a shared device": Pointer(to=A, before=(B, C)),
    "frozen": FrozenProfile(to=B, kind="user_id", id="u-1", profile=msgspec.structs.replace(FULL, shared=False)),
    "tombstone": Tombstone(),
}
PENDING = PendingDecision(
    customer="u-1",
    keys=["hero", "exp"],
    key=A,
    offers={"hero": ("shoes", "welcome", T), "side": ("socks", None, 0.0)},
    channel="web",
    zone="Europe/Berlin",
    unit="a-1",
    who=CustomerIds(user_id="u-1", anonymous_id="a-1"),
)


async def silent(accepted: list[Accepted]) -> None: ...


def restore(url: str) -> None:
    """Put the keys that the earlier release wrote into the Redis at `url`."""
    with redis.Redis.from_url(url) as client:
        for key, kind, value in VECTORS["store"]["keys"]:
            if kind == "string":
                client.set(key, bytes.fromhex(value))
            elif kind == "hash":
                client.hset(key, mapping=value)
            else:
                client.zadd(key, value)
        client.set(keyspace.pending_decision("old"), bytes.fromhex(VECTORS["pending decision"]))


@pytest.mark.parametrize("name", EXPECTED)
def test_an_entry_is_read_and_written_as_before(name: str) -> None:
    entry = decode_entry(ENTRIES[name])
    assert entry == EXPECTED[name]
    assert entry is not None
    assert encode_entry(entry) == ENTRIES[name]


def test_the_full_profile_leaves_no_field_at_its_default() -> None:
    """But those that came later and are tested below: the bytes are those of the release before."""
    blank = Profile(id="", unit="")
    later = ["joining", "order_facts", "series", "archived_series"]
    assert [name for name in Profile.__struct_fields__ if getattr(FULL, name) == getattr(blank, name)] == later


def test_an_identifier_that_is_joining_is_stored_and_read() -> None:
    joining = msgspec.structs.replace(FULL, joining={"email:a@example.com": T + 60})
    assert decode_entry(encode_entry(joining)) == joining


def test_series_of_traits_are_stored_by_place_and_read() -> None:
    series = TraitSeries(
        points=[(T, None), (T + 1, "tea")], tallies=[SeriesTally(step=3, count=2, total=5, value=1.5, time=T)]
    )
    traits = {
        "order_facts": {"o-1": {"items": 2}},
        "series": {"0a1b2c3d": series},
        "archived_series": {"0a1b2c3d": series},
    }
    computed = msgspec.structs.replace(FULL, **traits)
    assert decode_entry(encode_entry(computed)) == computed
    assert msgspec.json.decode(msgspec.json.encode(series)) == [[[T, None], [T + 1, "tea"]], [[3, 2, 5, 1.5, T]]]


def test_customers_counts_and_pools_are_read_as_before(redis_url: str) -> None:
    restore(redis_url)

    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10, secret=SECRET.encode())
        claims = Claims(store.pipeline)
        visitor = await store.fetch(CustomerIds(anonymous_id="a-1"), T + 60, counts=True)
        customer = await store.fetch(CustomerIds(user_id="u-1"), T + 60, counts=True)
        assert visitor.profile == customer.profile
        assert customer.profile.revenue == 30.0
        assert customer.counts == {"exposure|socks": [T + 52], "exposure|shoes": [T, T + 52]}
        assert await claims.read_remaining(PoolShare(pool="stock", name="SKU"), T + 60) == 7
        assert await claims.read_remaining(PoolShare(pool="budget", name="shoes", limit=100.0), T + 60) == 97.5
        assert await claims.read_remaining(PoolShare(pool="budget", name="shoes", limit=100.0), T + 900) == 100
        assert await fetch_pending(store.pipeline, "old") == PENDING
        assert (await fetch_pending(store.pipeline, "d-2")) is not None
        await store.close()

    asyncio.run(run())


def test_messages_and_claims_of_the_earlier_release_stay_counted_once(redis_url: str) -> None:
    restore(redis_url)

    async def run() -> None:
        store = ProfileStore.open(redis_url, timeout=10, secret=SECRET.encode())
        claims = Claims(store.pipeline)
        repeated = [Event("track", message, user_id="u-1", event="view") for message in ("m1", "v0", "v19")]
        assert {status.status for status in await store.ingest(repeated, T + 60, silent)} == {"duplicate"}
        customer = await store.fetch(CustomerIds(user_id="u-1"), T + 60)
        share = PoolShare(pool="stock", name="SKU", amount=1, least=1, hold=600.0)
        known = Claim(id="d-2:shoes", counters=["exposure|shoes"], shares=[share])
        assert await claims.claim(customer.key, [known], T + 60) == [None]
        assert await claims.read_counts(customer.key) == {"exposure|socks": [T + 52], "exposure|shoes": [T, T + 52]}
        assert await claims.confirm(known, T + 61)
        assert await claims.read_remaining(share, T + 61) == 7
        await store.close()

    asyncio.run(run())


def test_an_archive_is_read_and_written_as_before(redis_url: str) -> None:
    orders = {"o-1": Order(12.5, T, 12.0, 2.5, full=True)}
    stored = bytes.fromhex("81a36f2d3195cb4029000000000000cb" + struct.pack(">d", T).hex() + "cb4028000000000000")
    stored += bytes.fromhex("cb4004000000000000c3")
    archived = ArchivedOrders(orders)
    assert (decode_orders(stored), encode_orders(archived)) == (archived, stored)
    with_facts = ArchivedOrders(orders, {"o-1": {"items": 2}})
    assert decode_orders(encode_orders(with_facts)) == with_facts
    assert encode_orders(with_facts) == b"\xc1\x92" + stored + bytes.fromhex("81a36f2d3181a56974656d7302")

    async def run() -> dict[IdKind, list[str]]:
        pipeline = RedisPipeline(connect_store(redis_url, 10))
        await pipeline.send("SADD", keyspace.archived_identifiers(A), "anonymous_id:a:1", "device_id:d-1")
        found = await read_identifiers(pipeline, A)
        await pipeline.close()
        return found

    assert asyncio.run(run()) == {"anonymous_id": ["a:1"], "device_id": ["d-1"]}
