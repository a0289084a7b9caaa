"""Learners with partitions of their own end with what one learner of all would know, whoever logs in or dies."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest
from structlog.testing import capture_logs

from engine import keyspace
from engine.errors import BadInput
from engine.journal import stream
from engine.journal.records import QuarantineRecord, RewardRecord
from engine.journal.spool.spool import partition_of
from engine.learn import learn
from engine.learn.learner import Learner
from engine.learn.partitions.leases import PartitionLeases, lost_sets, register_set
from engine.learn.state import State, state_path
from tests.learn.conftest import CLICK
from tests.learn.test_kills import forget, journeys

HOUR = 3600.0
SEED = 14
OWNERS = ([0], [1])


def learn_all(shop: Any, owned: list[int] | None) -> None:
    plan = shop.plan
    learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)


def logged(shop: Any) -> Counter[Any]:
    """Rewards and quarantined records, with how often each is in the streams."""
    return Counter(one for one in shop.logged() if isinstance(one, RewardRecord | QuarantineRecord))


def statistics(shop: Any) -> dict[str, Any]:
    return {key: shop.learnt(key).statistics for key in ("hero", "till", "side") if key in shop.published()}


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for key, values in one.items():
        for name, value in values.items():
            np.testing.assert_allclose(other[key][name], value, rtol=0, atol=1e-9)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_reward_after_login_counts_whoever_learns_the_known_customer(shop: Any) -> None:
    visitors = [f"a{i}" for i in range(20)]
    users = [next(u for n in range(99) if partition_of(u := f"u{v}-{n}", 2) != partition_of(v, 2)) for v in visitors]
    for i, (visitor, user) in enumerate(zip(visitors, users, strict=True)):
        shop.send(*shop.shown(f"d{i}", i, visitor))
        merge = msgspec.json.encode({"from": visitor, "into": user})
        shop.send(shop.event("$merge", i + 5, user, properties=merge))
        shop.send(shop.event("click", i + 6, user, f"d{i}" if i % 2 else None))
    shop.pass_time(2 * HOUR)
    for owned in OWNERS:
        learn_all(shop, owned)
    assert shop.learnt().statistics["total"].tolist() == [20, 0, 0]
    assert shop.learnt().statistics["count"].tolist() == [20, 0, 0]
    assert Counter(shop.rewards()) == Counter((f"d{i}", "hero", 1.0) for i in range(20))


def test_two_learners_end_with_the_statistics_of_one_however_they_are_interrupted(shop: Any) -> None:
    draw = random.Random(SEED)
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", CLICK)
    records = journeys(shop, draw, 400)
    for start in range(0, len(records), 10):
        shop.send(*records[start : start + 10])
    shop.pass_time(40 * HOUR)
    learn_all(shop, None)
    alone, of_one = statistics(shop), logged(shop)
    with closing(State(state_path(shop.settings.data, None))) as state:
        aside = state.aside()
    assert len(of_one) > 250
    forget(shop)
    before = logged(shop)

    plan = shop.plan
    busy = dict.fromkeys((0, 1), True)
    while any(busy.values()):  # each runs for a while, ends without a word, and goes on with its file
        owned = draw.choice([number for number, is_busy in busy.items() if is_busy])
        learner = Learner(shop.settings, [owned], entries=draw.choice([1, 3, 30]))
        for _ in range(draw.randrange(1, 40)):
            busy[owned] = learner.step(plan, None)
            if not busy[owned]:
                break
        learner.close()
    for owned in OWNERS:
        learn_all(shop, owned)
    same(alone, statistics(shop))
    assert logged(shop) - before == of_one
    with closing(State(state_path(shop.settings.data, [0]))) as state:
        assert state.aside() == aside


def test_streams_retain_what_either_learner_has_not_read_and_no_more(shop: Any) -> None:
    def retained() -> int:
        stream.trim_streams(shop.client, [0, 1])
        return sum(shop.client.xlen(keyspace.partition(number).stream) for number in (0, 1))

    for owned in OWNERS:
        learn_all(shop, owned)
    for i in range(20):
        shop.send(*shop.shown(f"d{i}", i, f"u{i}"))
    sent = retained()
    learn_all(shop, [0])
    assert retained() == sent
    learn_all(shop, [1])
    rewards = retained()
    assert rewards < sent
    learn_all(shop, None)  # takes the place of both
    shop.send(*shop.shown("d20", 20, "u20"))
    learn_all(shop, None)
    assert retained() == 0


def test_a_learner_waits_for_the_lease_of_another_machine_and_continues_from_its_policies(shop: Any) -> None:
    shop.send(*shop.shown("d0", 0), shop.event("click", 5, decision="d0"))
    shop.learn()
    other = PartitionLeases(shop.client, "elsewhere", [1], seconds=600)
    assert other.hold()
    assert not PartitionLeases(shop.client, "here", [0, 1]).hold()
    assert PartitionLeases(shop.client, "here", [0]).hold()  # what was refused as a whole left nothing behind
    assert PartitionLeases(shop.client, "here", [0]).hold(), "a learner goes on with its file at once"
    shop.client.delete(keyspace.partition_lease(0))
    shop.send(*shop.shown("d1", 60, arm="b"), shop.event("click", 65, decision="d1"))
    settings = msgspec.structs.replace(shop.settings, data=shop.settings.data.with_name("there"))
    plan, stop = shop.plan, threading.Event()
    waiter = threading.Thread(target=learn, args=(settings, lambda: plan, stop))
    with capture_logs() as lines:
        waiter.start()
        try:
            wait_until(lambda: bool(lines))
            assert lines[0]["event"] == "another learner has a lease on the partitions; waiting to take over"
            assert shop.learnt().statistics["total"].tolist() == [1, 0, 0]
            other.release()
            shop.pass_time(2 * HOUR)
            wait_until(lambda: shop.learnt().statistics["total"].tolist() == [1, 1, 0])
        finally:
            stop.set()
            waiter.join()
    assert shop.learnt().statistics["total"].tolist() == [1, 1, 0]
    assert not shop.client.exists(*map(keyspace.partition_lease, (0, 1))), "a learner that ends gives its leases back"


def test_leases_are_renewed_while_a_batch_takes_long(shop: Any) -> None:
    leases, key = PartitionLeases(shop.client, "here", [0], seconds=5.0), keyspace.partition_lease(0)
    assert leases.hold()
    with stream.connect_stream(shop.settings.redis) as client, leases.renewing(client):
        shop.client.pexpire(key, 600_000)
        wait_until(lambda: 0 < shop.client.pttl(key) <= 5000)  # set again by nobody but the thread
        assert not leases.is_lost
    assert leases.hold()


def test_a_learner_whose_lease_another_got_in_a_batch_publishes_nothing(shop: Any) -> None:
    shop.send(*shop.shown("d0", 0), shop.event("click", 5, decision="d0"))
    shop.pass_time(2 * HOUR)
    with closing(Learner(shop.settings)) as learner:
        leases = learner.leases(shop.client)
        assert leases.hold()
        with stream.connect_stream(shop.settings.redis) as client, leases.renewing(client):
            shop.client.set(keyspace.partition_lease(0), "elsewhere")  # as after a lease that ended meanwhile
            wait_until(lambda: leases.is_lost)
        assert not learner.step(shop.plan, None)
        learner.publish_last()
        assert not shop.published()
        assert not shop.rewards()
        shop.client.delete(keyspace.partition_lease(0))
        assert not leases.hold(), "what the other learnt is not known here"
    learn_all(shop, None)
    assert shop.learnt().statistics["total"].tolist() == [1, 0, 0]
    assert shop.rewards() == [("d0", "hero", 1.0)]


def test_learning_once_ends_where_a_lease_outlives_a_killed_learner(shop: Any) -> None:
    assert PartitionLeases(shop.client, "elsewhere", [1], seconds=60).hold()
    with pytest.raises(BadInput, match="another learner of this store has the partitions; stop it"):
        learn_all(shop, None)
    assert not shop.published()


def test_a_set_of_partitions_is_lost_when_none_of_its_leases_is_held(shop: Any) -> None:
    for owned in ([0], [1]):
        register_set(shop.client, owned)
    lease = PartitionLeases(shop.client, "one", [0])
    assert lease.hold()
    assert lost_sets(shop.client) == [[1]]
    register_set(shop.client, [0, 1])  # takes the place of both
    assert lost_sets(shop.client) == []
    lease.release()
    assert lost_sets(shop.client) == [[0, 1]]
    register_set(shop.client, None)
    assert lost_sets(shop.client) == []
