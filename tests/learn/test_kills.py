"""A learner that is killed again and again ends with the same statistics as one that never was."""

import math
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engine.journal import snapshots, stream
from engine.journal.records import AnyRecord, QuarantineRecord, RewardRecord, decode
from engine.learn.state import State, path_of
from policies import load

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
        if draw.random() < 0.02:
            into = f"u{draw.randrange(60)}"
            merged = f'{{"from": "{who}", "into": "{into}"}}'.encode()
            timed.append((at, shop.event("$merge", at, into, properties=merged)))
    timed.sort(key=lambda pair: pair[0])
    return [record for _, record in timed]


def outcome(shop: Any, data: Path) -> tuple[dict[str, Any], list[Any], dict[str, int], Counter[Any]]:
    with closing(State(path_of(data, None))) as state:
        learnt = state.policies()
        pending = state.db.execute("SELECT * FROM pending ORDER BY decision_id, key").fetchall()
        reader = stream.Reader(shop.client, "test", stream.Progress(), partitions=2)
        logged: Counter[Any] = Counter()
        while deliveries := reader.read():
            for delivery in deliveries:
                if delivery.spool == state.id:
                    logged.update(decode(payload) for _, payload in delivery.frames)
        return learnt, pending, state.aside(), logged


def killed_at(shop: Any, data: Path, learnt: float, later: float) -> None:
    """Run a learner and kill it `later` seconds after it has learnt so much."""
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(shop.folder), str(data), shop.settings.redis, str(learnt)],
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            time.sleep(later)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL


def test_twenty_kills_change_nothing(shop: Any) -> None:
    draw = random.Random(20)
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", "{metric: click, window: 1h, settle: 10m}")
    records = journeys(shop, draw, 1500)
    for start in range(0, len(records), 10):
        shop.send(*records[start : start + 10])
    shop.pass_time(40 * 3600)
    plan = shop.plan
    shop.learn(plan)
    never = outcome(shop, shop.settings.data)
    shop.client.delete(snapshots.HEADERS, *shop.client.keys(f"{snapshots.HEADERS}:*".replace("{", "[{]")))
    stream.forget_reader(shop.client, "learner")

    data = shop.settings.data.with_name("killed")
    total = never[0]["till"].learnt
    for kill in range(KILLS):
        killed_at(shop, data, 0.9 * total * kill / KILLS, draw.uniform(0, 0.02))
    with closing(State(path_of(data, None))) as state:
        assert 0 < state.policies()["till"].learnt < total, "the kills came after the work, not in it"
    shop.learn_in(data, plan)
    again = outcome(shop, data)

    assert again[0].keys() == never[0].keys() == {"hero", "till"}
    for key, one in never[0].items():
        other = again[0][key]
        assert (other.learnt, other.policy.seen) == (one.learnt, one.policy.seen)
        for name, values in one.policy.statistics.items():
            np.testing.assert_allclose(other.policy.statistics[name], values, rtol=0, atol=1e-9)
        published = snapshots.current(shop.client, key)
        assert published is not None
        np.testing.assert_array_equal(load(published.blob).statistics["count"], other.policy.statistics["count"])
    assert again[2] == never[2]
    assert {"late", "not finite", "wrong type", "second reward", "duplicate", "unknown decision"} <= never[2].keys()
    assert again[1] == never[1]
    assert sum(isinstance(record, RewardRecord) for record in never[3]) > 1000
    assert sum(isinstance(record, QuarantineRecord) for record in never[3]) > 100
    assert again[3] == never[3]
    assert max(never[3].values()) == 1
