"""A learner whose file is deleted while it runs logs it and continues from the store."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from engine.learn import learn
from engine.learn.state import state_path

PATIENCE = 30.0


@contextmanager
def learning(shop: Any, owned: list[int] | None) -> Iterator[None]:
    plan, stop = shop.plan, threading.Event()
    clock = {"clock": lambda: shop.t0 + 600.0}
    thread = threading.Thread(
        target=learn, args=(shop.settings, lambda: plan, stop), kwargs={"owned": owned, **clock}, daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def clicked(shop: Any, id_: str, at: float, arm: str, who: str) -> list[Any]:
    return [*shop.shown(id_, at, who, arm=arm), shop.event("click", at + 5, who, id_)]


def counts(shop: Any) -> list[float]:
    found: list[float] = shop.learnt().statistics["count"].tolist() if "hero" in shop.published() else []
    return found


@pytest.mark.parametrize("owned", [None, [0, 1]])
def test_a_learner_whose_folder_is_deleted_starts_over_from_the_store(shop: Any, owned: list[int] | None) -> None:
    file = state_path(shop.settings.data, owned)
    with capture_logs() as lines, learning(shop, owned):
        shop.send(*clicked(shop, "d1", 0, "a", "u1"), *clicked(shop, "d2", 1, "a", "u2"))
        until(lambda: counts(shop) == [2, 0, 0])
        shutil.rmtree(file.parent.rename(file.parent.with_name("deleted")))
        until(file.exists)
        shop.send(*clicked(shop, "d3", 60, "b", "u1"), *clicked(shop, "d4", 61, "b", "u2"))
        until(lambda: counts(shop) == [2, 2, 0])
    reported = [line for line in lines if "file was deleted" in line["event"]]
    assert [line["file"] for line in reported] == [str(file)]
    plan = shop.plan
    shop.send(*clicked(shop, "d5", 120, "c", "u1"))
    learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)
    assert counts(shop) == [2, 2, 1], "a restart goes on from the new file"
