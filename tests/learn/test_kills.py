"""A learner that is killed again and again ends with the same statistics as one that never was."""

import math
import random
import signal
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine import keyspace
from engine.journal import stream
from engine.journal.records import AnyRecord, DecisionRecord, DecisionRow, QuarantineRecord, RewardRecord, decode
from engine.learn.learner import Learner
from engine.learn.state import State, state_path
from engine.snapshots.publish import current_snapshot
from policies import load_policy
from tests.verbs import forked_script

SCRIPT = Path(__file__).with_name("learner_process.py")
KILLS = 20
MINUTE = 60.0


def journeys(shop: Any, draw: random.Random, count: int) -> list[AnyRecord]:
    """Decisions of three placements with all that can become of them, in an order that is only roughly time's."""
    timed: list[tuple[float, AnyRecord]] = []
    for i in range(count):
        at, who, id_ = i * 20.0, f"u{draw.randrange(60)}", f"d{i:05d}"
        key = draw.choice(["hero", "till", "till", "side"])
        context = {"hour": draw.uniform(0, 24)} if key == "hero" else {}
        shown = shop.shown(id_, at, who, key=key, arm=draw.choice("abc"), context=context, propensity=0.3)
        timed += [(at, shown[0]), (at + draw.choice([0, 0, 40]), shown[1])]
        after = at + draw.choice([5, 5, 20 * MINUTE, 55 * MINUTE, 70 * MINUTE])
        if draw.random() < 0.5:
            name = "purchase" if key == "till" else "click"
            revenue = draw.choice([draw.uniform(1, 9), math.nan, None]) if key == "till" else None
            named = draw.choice([id_, id_, None, "nobody"])
            event = shop.event(name, after, who, named, revenue=revenue)
            came = after + draw.choice([0, 0, 0, 15 * MINUTE])
            timed.append((came, msgspec.structs.replace(event, received=shop.t0 + came)))
            if draw.random() < 0.1:
                timed.append((came + 9, msgspec.structs.replace(event, received=shop.t0 + came + 9)))
            if draw.random() < 0.2:
                timed.append((after + 3600, shop.event("refund", after + 3600, who, id_)))
        if draw.random() < 0.1:
            into = f"u{draw.randrange(60)}"
            merged = f'{{"from": "{who}", "into": "{into}"}}'.encode()
            timed.append((at + draw.choice([0, 3, 30]), shop.event("$merge", at, into, properties=merged)))
    timed.sort(key=lambda pair: pair[0])
    return [record for _, record in timed]


def outcome(shop: Any, data: Path) -> tuple[dict[str, Any], list[Any], dict[str, int], list[Any], Counter[Any]]:
    """What was learnt, what is pending, what was kept aside, what guardrails saw, and what was logged how often."""
    with closing(State(state_path(data, None))) as state:
        learnt = state.policies()
        pending = state.db.execute("SELECT * FROM pending ORDER BY decision_id, key").fetchall()
        guarded = state.db.execute("SELECT * FROM under_guard ORDER BY customer").fetchall()
        guarded += state.db.execute("SELECT * FROM evidence").fetchall()
        reader = stream.Reader(shop.client, "test", stream.Progress(), partitions=2)
        logged: Counter[Any] = Counter()
        while deliveries := reader.read():
            for delivery in deliveries:
                if delivery.spool == state.id:
                    logged.update(decode(payload) for _, payload in delivery.frames)
        return learnt, pending, state.aside(), guarded, logged


def forget(shop: Any) -> None:
    """Nothing was ever learnt, as far as the store knows."""
    shop.client.delete(
        keyspace.SNAPSHOT_HEADERS, *shop.client.keys(f"{keyspace.SNAPSHOT_HEADERS}:*".replace("{", "[{]"))
    )
    stream.unregister_reader(shop.client, "learner")


def same(one: Any, other: Any) -> None:
    """Two learners know the same, wait for the same and logged the same."""
    assert other[0].keys() == one[0].keys()
    for key, mine in one[0].items():
        theirs = other[0][key]
        assert (theirs.learnt, theirs.policy.seen) == (mine.learnt, mine.policy.seen)
        for name, values in mine.policy.statistics.items():
            np.testing.assert_allclose(theirs.policy.statistics[name], values, rtol=0, atol=1e-9)
    assert other[1:] == one[1:]


def killed_at(shop: Any, data: Path, learnt: float, later: float, during: str) -> None:
    """Run a learner and kill it `later` seconds after it has learnt so much, in a batch or as it publishes."""
    words = (str(shop.folder), str(data), shop.settings.redis, str(learnt), during)
    with forked_script(SCRIPT, *words) as (process, printed):
        assert printed.readline() == b"\n"
        time.sleep(later)
    assert process.exitcode == -signal.SIGKILL


def filled(shop: Any, draw: random.Random, count: int) -> Any:
    """A stream with all that can happen, and the plan to learn it by."""
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", "{metric: click, window: 1h, settle: 10m}")
    shop.selection("till", "{kind: gaussian_thompson, discount: 0.999}", "{metric: spend, window: 1h, settle: 10m}")
    shop.guard()
    records = journeys(shop, draw, count)
    for i in range(60):
        variant = DecisionRow("experiment", "bold", draw.choice(["calm", "loud"]), "assigned", 0.5)
        records.insert(i * 5, DecisionRecord(f"e{i}", shop.t0 + i * 33.0, f"u{i}", None, "web", "plan", [variant]))
    for start in range(0, len(records), 10):
        shop.send(*records[start : start + 10])
    shop.pass_time(40 * 3600)
    return shop.plan


def test_however_the_streams_are_cut_the_same_is_learnt(shop: Any) -> None:
    plan = filled(shop, random.Random(5), 300)
    shop.learn(plan)
    whole = outcome(shop, shop.settings.data)
    assert min(one.learnt for key, one in whole[0].items() if key != "bold.loud") > 50
    for cut, (entries, restart) in enumerate([(1, 6), (2, 1000), (1000, 1000), (5, 3)]):
        forget(shop)
        settings = msgspec.structs.replace(shop.settings, data=shop.settings.data.with_name(f"cut{cut}"))
        busy = True
        while busy:
            learner = Learner(settings, entries=entries)
            for _ in range(restart):
                busy = learner.step(plan, None)
                if not busy:
                    break
            learner.close()
        same(whole, outcome(shop, settings.data))


def test_twenty_kills_change_nothing(shop: Any) -> None:
    draw = random.Random(20)
    plan = filled(shop, draw, 1500)
    shop.learn(plan)
    never = outcome(shop, shop.settings.data)
    forget(shop)

    data = shop.settings.data.with_name("killed")
    total = never[0]["till"].learnt
    for kill in range(KILLS):  # the last batch alone teaches a seventh of all: what is still waiting
        later, during = (draw.uniform(0, 0.02), "batch") if kill % 2 else (draw.uniform(0, 0.002), "publication")
        killed_at(shop, data, 0.8 * total * kill / KILLS, later, during)
    with closing(State(state_path(data, None))) as state:
        assert 0 < state.policies()["till"].learnt < total, "the kills came after the work, not in it"
    shop.learn_in(data, plan)
    again = outcome(shop, data)

    same(never, again)
    for key, one in again[0].items():
        published = current_snapshot(shop.client, key)
        if one.learnt:
            assert published is not None
            np.testing.assert_array_equal(
                load_policy(published.blob).statistics["count"], one.policy.statistics["count"]
            )
    assert {"late", "not finite", "wrong type", "second reward", "duplicate", "unknown decision"} <= never[2].keys()
    logged = never[4]
    assert sum(isinstance(record, RewardRecord) for record in logged) > 1000
    assert sum(isinstance(record, QuarantineRecord) for record in logged) > 100
    assert max(logged.values()) == 1
