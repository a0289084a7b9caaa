"""What is sent several times, in whatever order and batches, leaves the customer of once in order; logins and all."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import CustomerIds
from engine.customers.customer_view import customer_view
from engine.customers.model.events import Accepted, Event
from engine.customers.store import ProfileStore
from engine.vocabulary import DAY

NOW = 1_790_000_000.0
RULES = ProfileRules(
    merge={"rooms": "union", "spend": "max", "name": "known_wins", "city": "source", "coffees": "sum"},
    sources=["store", "web"],
    tiers=[100.0, 500.0],
    points_per_unit=0.3,
    visits_limit=60,
)
PERSON: dict[str, list[str]] = {"user_id": ["u-1"], "email": ["x@x.de"], "anonymous_id": ["a-1", "a-2"]}

who = st.fixed_dictionaries({}, optional={kind: st.sampled_from(values) for kind, values in PERSON.items()})
traits = st.fixed_dictionaries(
    {},
    optional={
        "coffees": st.integers(0, 9),
        "name": st.sampled_from(["Ada", "Guest"]),
        "rooms": st.lists(st.sampled_from(["sea", "hill", "yard"]), max_size=2),
        "spend": st.integers(0, 9),
        "city": st.sampled_from(["Wien", "Ulm"]),
        "consent": st.fixed_dictionaries({"marketing": st.booleans()}),
    },
)
cents = st.integers(0, 30_000).map(lambda n: n / 100)
orders = st.sampled_from(["o1", "o2"])
tracks = st.one_of(
    st.tuples(st.just("purchase"), st.fixed_dictionaries({"revenue": cents}, optional={"order_id": orders})),
    st.tuples(st.just("refund"), st.fixed_dictionaries({"amount": cents}, optional={"order_id": orders})),
    st.tuples(st.just("refund"), st.fixed_dictionaries({"order_id": orders})),
    st.tuples(st.just("view"), st.fixed_dictionaries({"category": st.sampled_from(["coffee", "tea"])})),
    st.tuples(st.just("cart_updated"), st.fixed_dictionaries({"items": st.integers(0, 3)})),
    st.tuples(st.just("points_redeemed"), st.fixed_dictionaries({"points": st.integers(1, 50)})),
    st.tuples(st.sampled_from(["complaint_opened", "complaint_closed"]), st.just({})),
    st.tuples(st.sampled_from(["consent_given", "consent_withdrawn"]), st.just({"purpose": "marketing"})),
    st.tuples(st.just("nps"), st.fixed_dictionaries({"score": st.integers(0, 10)})),
)


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """What one person does under their identifiers, in order; whoever gives an address is logged in with it once."""
    events = []
    for number in range(draw(st.integers(1, 9))):
        ids = draw(who.filter(bool))
        at = NOW + 10 * number * draw(st.sampled_from([1, 100, DAY / 100]))
        channel = draw(st.sampled_from(["web", "store"]))
        kind = draw(st.sampled_from(["track", "identify", "alias"]))
        if kind == "track":
            name, said = draw(tracks)
            fields: dict[str, Any] = {"event": name, "properties": said}
        else:
            fields = {"traits": draw(traits)} if kind == "identify" else {}
            if kind == "alias" and len(ids) < 2:
                ids = {"user_id": "u-1", **ids, "anonymous_id": "a-1"}
        events.append(Event(kind, f"m{number}", timestamp=at, channel=channel, **ids, **fields))  # type: ignore[arg-type]
    moment = NOW + draw(st.integers(-50, 9000))
    if any(event.email for event in events):
        events.append(Event("alias", "login", user_id="u-1", email="x@x.de", timestamp=moment))
    return sorted(events, key=lambda event: (event.timestamp, event.message_id))


async def silent(accepted: list[Accepted]) -> None: ...


def after(url: str, batches: Sequence[Sequence[Event]]) -> dict[str, object]:
    """Every identifier of the person with whom it leads to."""

    async def run() -> dict[str, object]:
        with redis.Redis.from_url(url) as client:
            client.flushall()
        workers = [ProfileStore.open(url, RULES, timeout=30) for _ in range(2)]
        for number, batch in enumerate(batches):
            await workers[number % 2].ingest(batch, NOW + 100 * DAY, silent)
        found: dict[str, object] = {}
        for kind, values in PERSON.items():
            for value in values:
                one = await workers[0].fetch(CustomerIds(**{kind: value}), NOW)
                found[value] = customer_view(one.profile, NOW + 100 * DAY) if one.is_known else None
        for worker in workers:
            await worker.close()
        return found

    return asyncio.run(run())


def split(events: Sequence[Event], dice: random.Random) -> list[list[Event]]:
    shuffled = dice.sample(events, len(events))
    batches = []
    while shuffled:
        size = dice.randint(1, 4)
        batches.append(shuffled[:size])
        del shuffled[:size]
    return batches


@given(lives(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_three_times_in_any_order_and_batches_is_once_in_order(
    redis_url: str, events: list[Event], dice: random.Random
) -> None:
    once = after(redis_url, [[event] for event in events])
    thrice = after(redis_url, [batch for _ in range(3) for batch in split(events, dice)])
    assert thrice == once


def test_a_tablet_that_moved_on_counts_nothing_twice(redis_url: str) -> None:
    def of_all(times: int, *, known_before: bool) -> list[float]:
        async def run() -> list[float]:
            with redis.Redis.from_url(redis_url) as client:
                client.flushall()
            store = ProfileStore.open(redis_url, RULES, timeout=30)
            batch = []
            if known_before:
                await store.ingest([Event("track", "v", event="view", anonymous_id="tablet")], NOW, silent)
            for n in range(4):  # the third customer is one too many: the tablet names nobody from then on
                bought = {"revenue": 10.0, "order_id": f"o{n}"}
                batch += [
                    Event("identify", f"i{n}", user_id=f"u-{n}", anonymous_id="tablet", timestamp=NOW + 10 * n),
                    Event(
                        "track",
                        f"t{n}",
                        event="purchase",
                        properties=bought,
                        anonymous_id="tablet",
                        timestamp=NOW + 10 * n + 5,
                    ),
                ]
            for _ in range(times):
                await store.ingest(batch, NOW + 100, silent)
            found = [await store.fetch(CustomerIds(user_id=f"u-{n}"), NOW) for n in range(4)]
            found.append(await store.fetch(CustomerIds(anonymous_id="tablet"), NOW))
            await store.close()
            return [one.profile.revenue for one in found]

        return asyncio.run(run())

    for known_before in (False, True):
        assert of_all(1, known_before=known_before) == [10.0, 10.0, 0.0, 0.0, 20.0]
        assert of_all(3, known_before=known_before) == [10.0, 10.0, 0.0, 0.0, 20.0]
