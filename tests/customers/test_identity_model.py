"""Whoever logs in where, in whatever order and at whichever worker: nobody is two people and no purchase is lost."""

import asyncio

import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.customer import CustomerIds, Profile
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore

NOW = 1_790_000_000.0
POOLS = {
    "user_id": ["u-1", "u-2", "u-3"],
    "email": ["x@x.de", "y@x.de"],
    "anonymous_id": ["a-1", "a-2"],
    "device_id": ["d-1"],
}

ids = st.fixed_dictionaries({}, optional={kind: st.sampled_from(values) for kind, values in POOLS.items()}).filter(bool)
acts = st.lists(
    st.tuples(st.sampled_from(["track", "identify", "alias", "decide"]), ids, st.integers(0, 50)),
    min_size=1,
    max_size=12,
)


async def silent(accepted: list[Accepted]) -> None: ...


async def live(store: ProfileStore) -> dict[str, Profile]:
    found = {}
    for kind, values in POOLS.items():
        for value in values:
            resolved = await store.fetch(CustomerIds(**{kind: value}), NOW)
            if resolved.is_known:
                found[resolved.key] = resolved.profile
                assert resolved.is_settled
    return found


# A visitor whom one batch has seen alone is merged there, while another process stores their purchase.
MERGED_BEFORE_STORED: list[tuple[str, dict[str, str], int]] = [
    ("track", {"device_id": "d-1", "user_id": "u-2", "email": "x@x.de"}, 49),
    ("track", {"device_id": "d-1", "anonymous_id": "a-2"}, 13),
    ("alias", {"anonymous_id": "a-2", "device_id": "d-1"}, 0),
    ("track", {"user_id": "u-1"}, 1),
    ("decide", {"device_id": "d-1", "user_id": "u-3", "anonymous_id": "a-1", "email": "x@x.de"}, 0),
    ("track", {"user_id": "u-1", "anonymous_id": "a-1"}, 0),
    ("track", {"device_id": "d-1", "email": "x@x.de", "user_id": "u-2"}, 0),
    ("identify", {"user_id": "u-1"}, 0),
    ("track", {"user_id": "u-3", "email": "x@x.de", "device_id": "d-1", "anonymous_id": "a-2"}, 0),
]


@given(acts, st.booleans())
@example(acts=MERGED_BEFORE_STORED, at_once=True)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_purchase_is_lost_and_nobody_has_two_user_ids(
    redis_url: str,
    acts: list[tuple[str, dict[str, str], int]],
    at_once: bool,  # noqa: FBT001 (drawn, not passed)
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()

    async def act(store: ProfileStore, number: int, kind: str, who: dict[str, str], revenue: int) -> int:
        if kind == "decide":
            found = await store.fetch(CustomerIds(**who), NOW)
            await store.bind_customer(found, NOW, silent)
            return 0
        name = "purchase" if kind == "track" else None
        said: dict[str, object] = {"revenue": revenue, "order_id": number} if name else {}
        event = Event(kind, f"m{number}", event=name, properties=said, timestamp=NOW + number, **who)  # type: ignore[arg-type]
        (status,) = await store.ingest([event], NOW + 100, silent)
        assert status.status == "accepted"
        return revenue if name else 0

    async def run() -> None:
        workers = [ProfileStore.open(redis_url, timeout=30) for _ in range(2)]
        calls = [act(workers[n % 2], n, *one) for n, one in enumerate(acts)]
        earned = await asyncio.gather(*calls) if at_once else [await call for call in calls]
        customers = await live(workers[0])
        assert all(len(profile.ids.get("user_id", [])) <= 1 for profile in customers.values())
        assert sum(profile.revenue for profile in customers.values()) == sum(earned)
        for profile in customers.values():
            if "user_id" in profile.ids:
                assert profile.ids["user_id"] == [profile.id]
        assert await workers[0].finish_merges(NOW, silent) == 0
        for worker in workers:
            await worker.close()

    asyncio.run(run())
