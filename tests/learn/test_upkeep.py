"""What happens to a learner over its life: plans change, people roll back, files are lost, work is divided."""

import math
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pytest

from engine import keyspace
from engine.erasure.learner_files import erase_from_learner_files
from engine.erasure.listener import LogErasures
from engine.errors import BadInput
from engine.journal import stream
from engine.journal.log.collect import collect
from engine.journal.spool.spool import partition_of
from engine.learn import learn
from engine.learn.rollback import rollback, versions
from engine.learn.state import state_path
from engine.learn.warm_start import _table, warm_start
from engine.snapshots.header import Header
from engine.snapshots.publish import current_headers, publish_snapshot

CLICK = "{metric: click, window: 1h, settle: 10m}"
HOUR = 3600.0
MINUTE = 60.0


def counts(shop: Any, key: str = "hero") -> dict[str, tuple[float, float]]:
    policy = shop.learnt(key)
    rows = zip(policy.statistics["count"].tolist(), policy.statistics["total"].tolist(), strict=True)
    return dict(zip(policy.arms, rows, strict=True))


def clicked(shop: Any, id_: str, at: float, arm: str = "a", who: str = "u") -> list[Any]:
    return [*shop.shown(id_, at, who, arm=arm), shop.event("click", at + 5, who, id_)]


def test_a_version_is_published_for_what_changed_and_only_for_that(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    assert shop.published() == {"hero"}
    first = shop.version()
    shop.learn()
    assert shop.version() == first
    shop.send(*clicked(shop, "d2", 60))
    shop.learn()
    assert shop.version() > first


def test_a_store_that_lost_the_snapshots_gets_them_again(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    before = current_headers(shop.client)["hero"]
    shop.client.delete(keyspace.SNAPSHOT_HEADERS, f"{keyspace.SNAPSHOT_HEADERS}:hero")
    shop.learn()
    after = current_headers(shop.client)["hero"]
    assert (after.version, after.digest) == (before.version, before.digest)
    assert counts(shop)["a"] == (1, 1)


def test_a_learner_that_lost_its_file_continues_from_the_snapshot(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    version = shop.version()
    for file in shop.settings.data.glob("learn/*"):
        file.unlink()
    shop.send(*clicked(shop, "d2", 60, "b"))
    shop.learn()
    assert counts(shop) == {"a": (1, 1), "b": (1, 1), "c": (0, 0)}
    assert shop.version() > version


@pytest.mark.parametrize("file_is_lost", [False, True])
def test_a_snapshot_that_cannot_be_read_is_replaced(shop: Any, file_is_lost: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    good = current_headers(shop.client)["hero"]
    bad = Header.of(good.version + 5, good.time, good.learnt, good.meaning, b"nonsense")
    publish_snapshot(shop.client, "hero", bad, b"nonsense")
    if file_is_lost:
        for file in shop.settings.data.glob("learn/*"):
            file.unlink()
    shop.send(*clicked(shop, "d2", 60, "b"))
    shop.learn()
    assert counts(shop) == {"a": (0, 0) if file_is_lost else (1, 1), "b": (1, 1), "c": (0, 0)}
    assert shop.version() > bad.version


def test_a_policy_of_an_earlier_release_starts_again(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    with closing(sqlite3.connect(state_path(shop.settings.data, None))) as db, db:
        db.execute("UPDATE policies SET policy = ?", [b"old"])
    shop.client.delete(keyspace.SNAPSHOT_HEADERS)
    shop.send(*clicked(shop, "d2", 60, "b"))
    shop.learn()
    assert counts(shop) == {"a": (0, 0), "b": (1, 1), "c": (0, 0)}


def test_new_arms_start_from_the_prior_and_arms_that_return_still_know(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0, "a"), *clicked(shop, "d2", 0, "b"))
    shop.learn()
    shop.selection("hero", "{kind: beta_thompson}", CLICK, arms="d, b")
    shop.send(*clicked(shop, "d3", 60, "d"), *clicked(shop, "d4", 60, "a"))
    shop.learn()
    assert counts(shop) == {"d": (1, 1), "b": (1, 1)}
    shop.selection("hero", "{kind: beta_thompson}", CLICK, arms="a, b")
    shop.learn()
    assert counts(shop) == {"a": (2, 2), "b": (1, 1)}


@pytest.mark.parametrize(
    ("policy", "reward"),
    [
        ("{kind: gaussian_thompson}", CLICK),
        ("{kind: linear_thompson, features: [hour]}", CLICK),
        ("{kind: beta_thompson}", "{metric: bought, window: 1h}"),
    ],
)
def test_another_kind_other_features_or_another_reward_start_again(shop: Any, policy: str, reward: str) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    before = shop.version()
    shop.selection("hero", policy, reward)
    shop.learn()
    assert shop.version() > before
    assert shop.learnt().statistics["count"].tolist() == [0, 0, 0]


def test_rows_of_a_selection_that_left_the_plan_are_removed(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0))
    shop.learn()
    plan = shop.plan
    gone = {key: selection for key, selection in plan.policies.items() if key != "hero"}
    shop.pass_time(20 * MINUTE)
    shop.learn(type(plan)(**{name: getattr(plan, name) for name in plan.__slots__} | {"policies": gone}))
    assert shop.aside() == {"selection that is gone": 1}


def test_a_rollback_is_current_at_once_and_the_learner_continues_from_it(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    good = shop.version()
    shop.send(*clicked(shop, "d2", 60, "b"), *clicked(shop, "d3", 70, "b"))
    shop.learn()
    assert [(one.header.version, one.rewards) for one in versions(shop.settings, "hero")] == [
        (shop.version(), 3),
        (good, 1),
    ]
    bad = shop.version()
    assert rollback(shop.settings, "hero", good) == bad + 1
    assert counts(shop) == {"a": (1, 1), "b": (0, 0), "c": (0, 0)}
    shop.send(*clicked(shop, "d4", 90, "c"))
    shop.learn()
    assert counts(shop) == {"a": (1, 1), "b": (0, 0), "c": (1, 1)}
    assert shop.version() > bad + 1
    assert rollback(shop.settings, "hero", bad) > bad
    assert counts(shop) == {"a": (1, 1), "b": (2, 2), "c": (0, 0)}


def test_each_rollback_goes_one_step_further_back(shop: Any) -> None:
    for i, arm in enumerate("abc"):
        shop.send(*clicked(shop, f"d{i}", i, arm))
        shop.learn()
    for left in (2, 1):
        rollback(shop.settings, "hero")
        shop.learn()  # publishes what it went back to again
        assert versions(shop.settings, "hero")[0].rewards == left
        assert sum(n for n, _ in counts(shop).values()) == left
    with pytest.raises(BadInput, match="there is none to roll back to"):
        rollback(shop.settings, "hero")


def test_a_zero_that_was_rolled_back_is_not_taken_out_again(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    good = shop.version()
    shop.send(*shop.shown("d2", 10, arm="b"))
    shop.pass_time(20 * MINUTE)
    shop.learn()
    assert counts(shop)["b"] == (1, 0)
    rollback(shop.settings, "hero", good)
    shop.send(shop.event("click", 30 * MINUTE, decision="d2"))
    shop.learn()
    assert counts(shop) == {"a": (1, 1), "b": (1, 1), "c": (0, 0)}


def test_a_rollback_needs_a_version_that_is_kept(shop: Any) -> None:
    for ask in (rollback, versions):
        with pytest.raises(BadInput, match="'hero' has no snapshot"):
            ask(shop.settings, "hero")
    shop.send(*clicked(shop, "d1", 0))
    shop.learn()
    with pytest.raises(BadInput, match="is the oldest stored snapshot"):
        rollback(shop.settings, "hero")
    with pytest.raises(BadInput, match="hero@99 is not stored; choose one of"):
        rollback(shop.settings, "hero", 99)


def test_learners_with_partitions_of_their_own_know_together_what_one_would(shop: Any) -> None:
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", CLICK)
    draw = np.random.default_rng(3)
    for i in range(60):
        who, arm, hour = f"u{i}", "abc"[draw.integers(3)], float(draw.uniform(0, 24))
        shop.send(*shop.shown(f"d{i}", i, who, arm=arm, context={"hour": hour}))
        if draw.random() < 0.5:
            shop.send(shop.event("click", i + 1, who, f"d{i}"))
    assert {partition_of(f"u{i}", 2) for i in range(60)} == {0, 1}
    shop.pass_time(HOUR)
    plan = shop.plan
    shop.learn(plan)
    alone = shop.learnt()
    shop.client.delete(keyspace.SNAPSHOT_HEADERS)
    stream.unregister_reader(shop.client, "learner")
    for owned in ([0], [1]):
        learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)
    assert shop.published() == {"hero", "hero/0", "hero/1"}
    together = shop.learnt()
    assert together.seen == alone.seen
    for name, values in alone.statistics.items():
        np.testing.assert_allclose(together.statistics[name], values, rtol=0, atol=1e-9)
    version = shop.version()
    learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=[1])
    assert shop.version() == version


def test_what_was_learnt_survives_every_change_of_who_learns_what(shop: Any) -> None:
    plan, sent = shop.plan, 0
    for owners in ([None], [[0], [1]], [None], [[0], [1]], [[1], [0]], [None], [[0, 1]]):
        for i in range(sent, sent + 12):
            shop.send(*clicked(shop, f"d{i}", i, "abc"[i % 3], who=f"u{i}"))
        sent += 12
        for owned in owners:
            learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)
        assert counts(shop) == dict.fromkeys("abc", (sent / 3, sent / 3)), owners
    assert shop.aside() == {}


def test_a_warm_start_from_the_log_knows_what_the_learner_knew(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0), *clicked(shop, "d2", 60, "b"), *shop.shown("d3", 70, arm="c"))
    shop.send(*shop.shown("d4", 3 * HOUR, arm="c"))
    shop.pass_time(4.5 * HOUR)
    shop.learn()
    collect(shop.settings, LogErasures(), drain=True)
    learnt = counts(shop)
    assert learnt == {"a": (1, 1), "b": (1, 1), "c": (2, 0)}
    shop.client.flushall()
    made = warm_start(shop.settings, shop.plan, "hero", shop.settings.log)
    assert (made.version, made.learnt, made.unused) == (1, 4, {})
    assert [one.rewards for one in versions(shop.settings, "hero")] == [4]
    assert counts(shop) == learnt
    fresh = msgspec.structs.replace(shop.settings, data=shop.settings.data / "fresh")
    plan = shop.plan
    learn(fresh, lambda: plan, threading.Event(), once=True)
    assert counts(shop) == learnt


def test_a_warm_start_takes_the_place_of_what_several_learners_knew(shop: Any, tmp_path: Path) -> None:
    plan = shop.plan

    def learn_in_parts() -> None:
        for owned in ([0], [1]):
            learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)

    for i in range(8):
        shop.send(*clicked(shop, f"d{i}", i, who=f"u{i}"))
    learn_in_parts()
    file = tmp_path / "table.csv"
    file.write_text("arm,reward\nb,1\nb,0\n")
    for _ in range(2):
        made = warm_start(shop.settings, plan, "hero", file)
        assert (shop.version(), counts(shop)["b"]) == (made.version, (2, 1))
        learn_in_parts()
        assert counts(shop) == {"a": (0, 0), "b": (2, 1), "c": (0, 0)}
    for i in range(8, 16):
        shop.send(*clicked(shop, f"d{i}", i, "c", who=f"u{i}"))
    learn_in_parts()
    assert counts(shop) == {"a": (0, 0), "b": (2, 1), "c": (8, 8)}


def test_a_warm_start_waits_for_the_end_of_a_window_whether_it_was_rewarded_or_not(shop: Any) -> None:
    shop.send(*clicked(shop, "d1", 0), *shop.shown("d2", 10, arm="b"))
    shop.send(*clicked(shop, "d3", 2 * HOUR, "c"), *shop.shown("d4", 2 * HOUR + 10, arm="c"))
    shop.pass_time(2 * HOUR + 60)
    shop.learn()
    collect(shop.settings, LogErasures(), drain=True)
    made = warm_start(shop.settings, shop.plan, "hero", shop.settings.log)
    assert (made.learnt, made.unused) == (2, {"reward that may still come": 2})
    assert counts(shop) == {"a": (1, 1), "b": (1, 0), "c": (0, 0)}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_warm_start_from_a_table_counts_what_it_could_not_use(shop: Any, tmp_path: Path, suffix: str) -> None:
    shop.selection("hero", "{kind: linear_thompson, features: [hour]}", CLICK)
    file = tmp_path / f"table.{suffix}"
    rows = "('a', 1.0::DOUBLE, 0.5, 3.5), ('b', 0.0, 0.5, 4.5), ('x', 1, 0.5, 1), ('a', 'nan', 0.5, 1), ('a', 1, 0, 1)"
    duckdb.sql(f"COPY (FROM (VALUES {rows}) t(arm, reward, propensity, hour)) TO '{file}'")
    made = warm_start(shop.settings, shop.plan, "hero", file)
    assert made.learnt == 2
    assert sum(made.unused.values()) == 3
    assert shop.learnt().statistics["count"].tolist() == [1, 1, 0]


def test_the_arms_of_a_csv_are_names(shop: Any, tmp_path: Path) -> None:
    file = tmp_path / "table[1].csv"
    file.write_text("arm,reward\n2024_10,1\n1e5,1\n")
    assert list(_table(shop.plan.policies["hero"], file)) == [[("2024_10", 1.0, 1 / 3, {}), ("1e5", 1.0, 1 / 3, {})]]


def test_a_warm_start_from_a_table_knows_its_channels_apart(shop: Any, tmp_path: Path) -> None:
    shop.selection("hero", "{kind: linear_thompson, pool: [channel]}", CLICK)
    file = tmp_path / "table.parquet"
    rows = "VALUES ('a', 1.0, 'web'), ('a', 0.0, 'store'), ('b', 0.0, 'web'), ('b', 1.0, 'store')"
    duckdb.sql(f"COPY (FROM ({rows}) t(arm, reward, channel), range(200)) TO '{file}'")
    assert warm_start(shop.settings, shop.plan, "hero", file).learnt == 800
    vector = shop.plan.policies["hero"].features.vector
    web, store = (shop.learnt().expected(vector({"channel": name})) for name in ("web", "store"))
    assert web[0] - web[1] > 0.8
    assert store[1] - store[0] > 0.8


def test_a_warm_start_names_what_is_missing(shop: Any, tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("offer,reward\na,1\n")
    with pytest.raises(BadInput, match="has no column 'arm', only offer, reward"):
        warm_start(shop.settings, shop.plan, "hero", file)
    file.write_text("arm,reward\nx,1\n")
    with pytest.raises(BadInput, match=r"no row can teach hero \(unused rows: 1 \(arm that the plan does not have\)\)"):
        warm_start(shop.settings, shop.plan, "hero", file)
    empty, text = tmp_path / "empty", tmp_path / "table.txt"
    (empty / "log").mkdir(parents=True)
    text.write_text("arm,reward\na,1\n")
    expected = r"give a log's folder \(DATA/log\), or a Parquet or CSV file with the columns arm and reward"
    for source, message in (
        (tmp_path, f"has no decisions/.*, so it is not a log; give {file}"),
        (empty, f"has no decisions/.*, so it is not a log; give {empty}/log"),
        (empty / "log", f"has no decisions/.*, so it is not a log; {expected}"),
        (text, f"is neither a folder nor a .parquet or .csv file; {expected}"),
        (tmp_path / "nothing", f"does not exist; {expected}"),
    ):
        with pytest.raises(BadInput, match=message):
            warm_start(shop.settings, shop.plan, "hero", source)
    with pytest.raises(BadInput, match="'nobody': is not a selection"):
        warm_start(shop.settings, shop.plan, "nobody", file)


def test_an_erased_customer_is_in_no_file_of_the_learner_and_does_not_come_back(shop: Any) -> None:
    shop.send(*shop.shown("d1", 0, "secret"), *shop.shown("d2", 0, "other"), shop.event("purchase", 1, "secret"))
    shop.send(*shop.shown("d3", 0, "secret", key="till"), shop.event("purchase", 1, "secret", "d3", revenue=math.nan))
    shop.learn()
    late = [*shop.shown("d4", 10, "secret"), shop.event("click", 12, "secret", "d4")]
    assert erase_from_learner_files(shop.settings.data, {"secret"}, shop.t0 + 20) > 0
    shop.send(*late, *clicked(shop, "d5", 30, who="secret"))
    shop.learn()
    assert counts(shop)["a"] == (1, 1), "what the customer does later counts"
    with closing(sqlite3.connect(state_path(shop.settings.data, None))) as db:
        assert db.execute("SELECT decision_id FROM pending ORDER BY 1").fetchall() == [("d2",), ("d5",)]
        assert db.execute("SELECT count(*) FROM early").fetchone() == (0,)


def test_rewards_are_in_the_parquet_log_once(shop: Any) -> None:
    for i in range(30):
        shop.send(*clicked(shop, f"d{i}", i, who=f"u{i}"))
    shop.learn()
    shop.learn()
    collect(shop.settings, LogErasures(), drain=True)
    rewards = duckdb.read_parquet(str(shop.settings.log / "rewards/*/*.parquet"))
    assert rewards.aggregate("count(*), count(distinct decision_id), sum(reward)").fetchall() == [(30, 30, 30.0)]
