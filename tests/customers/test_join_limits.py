"""No way of joining, at once or in a chain, brings more identifiers into a customer than `binds` and `holds` allow."""

import asyncio

import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import KINDS, WEAK, CustomerIds, Profile
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore

NOW = 1_790_000_000.0
RULES = ProfileRules(
    binds={"phone": 2, "email": 1, "device_id": 2, "anonymous_id": 2},
    holds={"loyalty_card": 3, "email": 2, "phone": 2, "anonymous_id": 32, "device_id": 16},
)
POOLS = {
    "user_id": ["u-1", "u-2"],
    "loyalty_card": ["c-1", "c-2", "c-3", "c-4", "c-5"],
    "email": ["x@x.de", "y@x.de", "z@x.de"],
    "phone": ["+49301111", "+49302222", "+49303333"],
    "anonymous_id": ["a-1", "a-2", "a-3", "a-4"],
    "device_id": ["d-1", "d-2"],
}
ids = st.fixed_dictionaries({}, optional={kind: st.sampled_from(values) for kind, values in POOLS.items()}).filter(bool)


async def silent(accepted: list[Accepted]) -> None: ...


async def customers(store: ProfileStore) -> dict[str, Profile]:
    found = {}
    for kind, values in POOLS.items():
        for value in values:
            resolved = await store.fetch(CustomerIds(**{kind: value}), NOW)
            if resolved.is_known:
                found[resolved.key] = resolved.profile
                assert resolved.is_settled
    return found


def assert_within_limits(profile: Profile) -> None:
    for kind in set(KINDS) - WEAK:
        assert len(profile.ids.get(kind, ())) <= RULES.hold_limit(kind), (kind, profile.ids)
    strongest, *weaker = (kind for kind in KINDS if kind in profile.ids)
    for kind in weaker:
        if strongest in WEAK or kind not in WEAK:
            assert len(profile.ids[strongest]) <= RULES.bind_limit(kind), (kind, profile.ids)


@example(  # a card that two customers join, of which one has a user id: the user stays who they are
    acts=[
        {"email": "x@x.de"},
        {"user_id": "u-1", "phone": "+49301111"},
        {"loyalty_card": "c-1", "device_id": "d-1", "anonymous_id": "a-1", "phone": "+49301111", "email": "x@x.de"},
    ],
    at_once=False,
)
@example(  # an e-mail address that names one card comes with a phone number that names two
    acts=[
        {"loyalty_card": "c-2", "phone": "+49303333"},
        {"loyalty_card": "c-1", "email": "x@x.de", "phone": "+49303333"},
    ],
    at_once=False,
)
@given(acts=st.lists(ids, min_size=1, max_size=14), at_once=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_customer_is_past_a_limit_and_no_purchase_is_lost(
    redis_url: str,
    acts: list[dict[str, str]],
    at_once: bool,  # noqa: FBT001 (drawn, not passed)
) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()

    async def act(store: ProfileStore, number: int, who: dict[str, str]) -> None:
        properties: dict[str, object] = {"revenue": 1, "order_id": str(number + 1)}
        event = Event(
            type="track",
            message_id=f"m{number}",
            event="purchase",
            properties=properties,
            timestamp=NOW + number,
            **who,
        )
        (status,) = await store.ingest([event], NOW + 100, silent)
        assert status.status == "accepted"

    async def run() -> None:
        workers = [ProfileStore.open(redis_url, RULES, timeout=30) for _ in range(2)]
        calls = [act(workers[n % 2], n, who) for n, who in enumerate(acts)]
        if at_once:
            await asyncio.gather(*calls)
        else:
            for call in calls:
                await call
        found = await customers(workers[0])
        for profile in found.values():
            assert_within_limits(profile)
        assert sum(profile.revenue for profile in found.values()) == len(acts)
        for worker in workers:
            await worker.close()

    asyncio.run(run())
