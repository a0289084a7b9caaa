"""Lessons that wait for the next snapshot neither undo what others publish, nor are they forgotten."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.learn.learner import Learner
from engine.learn.rollback import rollback
from engine.learn.warm_start import warm_start

FIRST = 300
PLAIN, PARTS = None, (0, 1)


@pytest.fixture(autouse=True)
def no_snapshot_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.learn.learner._SNAPSHOT_SECONDS", 3600.0)


@pytest.fixture(params=[PLAIN, PARTS], ids=["one learner", "a part"])
def learner(shop: Any, request: pytest.FixtureRequest) -> Iterator[Learner]:
    made = Learner(shop.settings, request.param)
    yield made
    made.close()


def click(shop: Any, n: int, arm: str) -> list[Any]:
    at = n * 0.01
    return [*shop.shown(f"d{n}", at, f"u{n}", arm=arm), shop.event("click", at + 5, f"u{n}", f"d{n}")]


def teach_first(shop: Any, learner: Learner) -> int:
    """Published lessons of arm a, of which a few more are less than a hundredth; the version."""
    shop.send(*(record for n in range(FIRST) for record in click(shop, n, "a")))
    while learner.step(shop.plan, None):
        pass
    return int(shop.version())


def teach_waiting(shop: Any, learner: Learner, batches: int) -> None:
    """Lessons of arm b that the learner commits and does not publish."""
    published = shop.version()
    for n in range(FIRST, FIRST + batches):
        shop.send(*click(shop, n, "b"))
        for _ in range(3):
            learner.step(shop.plan, shop.t0)
    assert shop.version() == published


def end(shop: Any, learner: Learner) -> dict[str, float]:
    """The counts by arm of what is published in the end."""
    while learner.step(shop.plan, None):
        pass
    policy = shop.learnt()
    return dict(zip(policy.arms, policy.statistics["count"].tolist(), strict=True))


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_rollback_is_adopted_however_many_batches_wait(shop: Any, learner: Learner, batches: int) -> None:
    good = teach_first(shop, learner)
    teach_waiting(shop, learner, batches)
    rollback(shop.settings, "hero", good)
    assert end(shop, learner) == {"a": FIRST, "b": 0, "c": 0}
    shop.send(*click(shop, 999, "c"))
    assert end(shop, learner) == {"a": FIRST, "b": 0, "c": 1}


@pytest.mark.parametrize("batches", [1, 2])
def test_a_rollback_while_the_learner_is_away_is_adopted(shop: Any, batches: int) -> None:
    learner = Learner(shop.settings)
    good = teach_first(shop, learner)
    teach_waiting(shop, learner, batches)
    learner.close()
    rollback(shop.settings, "hero", good)
    learner = Learner(shop.settings)
    assert end(shop, learner) == {"a": FIRST, "b": 0, "c": 0}
    learner.close()


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_warm_start_is_adopted_however_many_batches_wait(
    shop: Any, learner: Learner, tmp_path: Path, batches: int
) -> None:
    teach_first(shop, learner)
    teach_waiting(shop, learner, batches)
    table = tmp_path / "old.csv"
    table.write_text("arm,reward\nc,1\nc,0\n")
    warm_start(shop.settings, shop.plan, "hero", table)
    assert end(shop, learner) == {"a": 0, "b": 0, "c": 2}


def successor(shop: Any, tmp_path: Path, owned: Any) -> Learner:
    """A learner without the file of the one before it, as on another machine."""
    return Learner(msgspec.structs.replace(shop.settings, data=tmp_path / "another machine"), owned)


@pytest.mark.parametrize("batches", [1, 3])
def test_a_learner_on_another_machine_learns_what_a_killed_one_had_not_published(
    shop: Any, learner: Learner, tmp_path: Path, request: pytest.FixtureRequest, batches: int
) -> None:
    teach_first(shop, learner)
    teach_waiting(shop, learner, batches)
    after = successor(shop, tmp_path, request.node.callspec.params["learner"])
    assert end(shop, after) == {"a": FIRST, "b": batches, "c": 0}
    after.close()


def test_a_learner_that_stops_publishes_what_waits(
    shop: Any, learner: Learner, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    published = teach_first(shop, learner)
    teach_waiting(shop, learner, 2)
    learner.publish_last()
    assert shop.version() > published
    after = successor(shop, tmp_path, request.node.callspec.params["learner"])
    assert end(shop, after) == {"a": FIRST, "b": 2, "c": 0}
    after.close()


def test_a_learner_killed_as_it_starts_again_keeps_for_others_what_was_not_published(
    shop: Any, learner: Learner, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = request.node.callspec.params["learner"]
    teach_first(shop, learner)
    teach_waiting(shop, learner, 2)
    learner.close()
    again = Learner(shop.settings, owned)
    monkeypatch.setattr(again, "_publish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        again.step(shop.plan, shop.t0)
    again.close()
    after = successor(shop, tmp_path, owned)
    assert end(shop, after) == {"a": FIRST, "b": 2, "c": 0}
    after.close()


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
