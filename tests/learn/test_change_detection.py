"""A change in what an offer earns is detected, logged and counted; seldom where nothing changed."""

from typing import Any

import msgspec
import numpy as np
import pytest

from engine import keyspace
from engine.journal.records import EventRecord
from engine.learn.guarding.change_detection import MOST_SPANS, RewardHistory

MINUTE, DAY = 60.0, 86_400.0


def shown(shop: Any, random: np.random.Generator, start: float, count: int, chance: float) -> None:
    records: list[Any] = []
    for i in range(count):
        id_, at = f"d{start:.0f}-{i}", start + i * 20.0
        records += shop.shown(id_, at, f"u{i}")
        if random.random() < chance:
            records.append(shop.event("click", at + 5, f"u{i}", id_))
    shop.send(*records)


def test_a_fall_is_logged_and_counted_once(shop: Any) -> None:
    random = np.random.default_rng(1)
    shown(shop, random, 0, 400, 0.5)
    shop.learn()
    assert [record for record in shop.logged() if isinstance(record, EventRecord)] == []
    shown(shop, random, 8000, 400, 0.1)
    shop.pass_time(8000 + 400 * 20 + 15 * MINUTE)
    shop.learn()
    shop.learn()
    (event,) = [record for record in shop.logged() if isinstance(record, EventRecord)]
    assert event.event == "$change"
    change = msgspec.json.decode(event.properties)
    assert (change["selection"], change["arm"], change["same_hours"]) == ("hero", "a", False)
    assert change["before"] == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 400))
    assert change["after"] < 0.3
    assert abs(change["since"] - (shop.t0 + 8000)) <= 10 * MINUTE
    figures = published_figures(shop)
    assert figures["changes|hero/a|"] == 1
    assert figures["learnt|hero|"] == 800


def published_figures(shop: Any) -> dict[str, float]:
    found = shop.client.hgetall(keyspace.LEARNER_FIGURES)
    return {name.decode(): float(value) for name, value in found.items()}


@pytest.mark.parametrize("span", [30.0, 86_400.0])
def test_false_alarms_are_rare_at_any_number_of_looks(span: float) -> None:
    """At most 1% of arms ever, by the theorem; of 200 none to 4 standard errors above."""
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(200):
        history = RewardHistory("m")
        for at in range(60):
            history = history.add([(at * span, float(random.random() < 0.2)) for _ in range(10)])
            history, change = history.test((at + 1) * span)
            alarms += change is not None
    assert alarms <= 2 + 4 * np.sqrt(200 * 0.01 * 0.99)


def test_a_history_does_not_depend_on_the_order_or_the_pieces_it_came_in() -> None:
    random = np.random.default_rng(3)
    outcomes = [(float(at), float(random.random() < 0.3)) for at in random.uniform(0, 400_000, 2000)]
    whole = RewardHistory("m").add(outcomes)
    pieces = RewardHistory("m")
    for start in range(0, 2000, 13):
        pieces = pieces.add(list(reversed(outcomes[start : start + 13])))
    assert len(whole.counts) <= MOST_SPANS
    assert (whole.width, whole.first) == (pieces.width, pieces.first)
    assert whole.counts == pytest.approx(pieces.counts)
    assert whole.totals == pytest.approx(pieces.totals)
    assert sum(whole.counts) == 2000


def test_an_arm_is_judged_only_by_spans_that_are_over() -> None:
    history = RewardHistory("m").add([(30.0, 1.0)] * 500 + [(90.0, 0.0)] * 500)
    assert history.test(100.0)[1] is None
    after, change = history.test(121.0)
    assert change == (60.0, 1.0, 0.0, False)
    assert after.counts == (500.0,)
    assert after.test(121.0) == (after, None)


def rhythm(seed: int, days: int, fall: float = 1.0) -> list[tuple[float, float, float, bool]]:
    """The changes found in an arm that earns 5% at night and 35% by day, `fall` of it from noon of day 6 on."""
    random = np.random.default_rng(seed)
    history, changes = RewardHistory("m"), []
    for step in range(24 * days):
        at = step * 3600.0 + random.random(60) * 3600.0
        chance = (0.2 - 0.15 * np.cos(2 * np.pi * at / DAY)) * np.where(at >= 6.5 * DAY, fall, 1.0)
        history = history.add(zip(at.tolist(), (random.random(60) < chance).astype(float).tolist(), strict=True))
        history, change = history.test((step + 1) * 3600.0)
        changes += [change] if change else []
    return changes


def test_a_daily_rhythm_is_no_change_once_there_is_a_day_to_compare_with() -> None:
    """At most 1% of arms ever by the theorem, of 20 none to 4 standard errors above; each may be on day one."""
    changes = [change for seed in range(20) for change in rhythm(seed, 8)]
    assert sum(same_hours for *_, same_hours in changes) <= 0.2 + 4 * np.sqrt(20 * 0.01 * 0.99)
    assert 0 < sum(not same_hours for *_, same_hours in changes) <= 20
    assert all(since < DAY for since, _, _, same_hours in changes if not same_hours)


def test_a_fall_is_found_within_a_rhythm() -> None:
    for seed in range(5):
        since, before, after, same_hours = rhythm(seed, 9, fall=0.4)[-1]
        assert same_hours
        assert abs(since - 6.5 * DAY) < 0.25 * DAY
        assert after < 0.6 * before
