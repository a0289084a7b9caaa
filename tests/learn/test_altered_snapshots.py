"""A snapshot that was altered in the store ends no learner: it is reported, and replaced by what the learner knows."""

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from engine import keyspace
from engine.keyspace import SNAPSHOT_HEADERS
from engine.learn import learn
from engine.snapshots.header import Header
from policies import BetaThompson, GaussianThompson, dump_policy


def clicked(shop: Any, id_: str, at: float, arm: str, who: str) -> list[Any]:
    return [*shop.shown(id_, at, who, arm=arm), shop.event("click", at + 5, who, id_)]


def put(shop: Any, line: bytes, blob: bytes, key: str = "hero") -> None:
    shop.client.hset(SNAPSHOT_HEADERS, key, line)
    shop.client.set(keyspace.snapshot(key), line + b"\n" + blob)


def header_of(shop: Any, blob: bytes, **changes: Any) -> bytes:
    _, _, _, meaning, _ = shop.client.hget(SNAPSHOT_HEADERS, "hero").split(b" ")
    header = Header.of(9, time.time(), 1.0, meaning.decode(), blob)
    return header._replace(**changes).line()


def policy_of(value: float) -> bytes:
    """A policy all of whose statistics are `value`."""
    policy = BetaThompson(("a", "b", "c"))
    return dump_policy(
        replace(policy, statistics={name: np.full_like(v, value) for name, v in policy.statistics.items()})
    )


def put_policy(shop: Any, blob: bytes) -> None:
    put(shop, header_of(shop, blob), blob)


ALTERED = {
    "a header that is none": lambda shop: put(shop, b"garbage", b""),
    "a header that is not text": lambda shop: put(shop, b"\xff\xfe 1 2 3 4", b""),
    "a header with words for numbers": lambda shop: put(shop, b"12 x y z w", b""),
    "a version beyond all numbers": lambda shop: put(shop, b"9" * 30 + b" 1.0 1.0 m d", b""),
    "a time that is none": lambda shop: put(shop, header_of(shop, b"", time=float("nan")), b""),
    "infinitely much learnt": lambda shop: put(shop, header_of(shop, b"", learnt=float("inf")), b""),
    "another digest": lambda shop: put(shop, header_of(shop, b"x"), b"y"),
    "no policy": lambda shop: put(shop, header_of(shop, b"no policy"), b"no policy"),
    "an empty policy": lambda shop: put(shop, header_of(shop, b""), b""),
    "another kind": lambda shop: put_policy(shop, dump_policy(GaussianThompson(("a",)))),
    "no numbers": lambda shop: put_policy(shop, policy_of(float("nan"))),
    "negative counts": lambda shop: put_policy(shop, policy_of(-5.0)),
}


@pytest.mark.parametrize("owned", [None, [0, 1]])
@pytest.mark.parametrize("how", ALTERED)
def test_a_learner_survives_an_altered_snapshot(shop: Any, how: str, owned: list[int] | None) -> None:
    plan = shop.plan

    def learn_all() -> None:
        learn(shop.settings, lambda: plan, threading.Event(), once=True, owned=owned)

    shop.send(*clicked(shop, "d1", 0, "a", "u1"), *clicked(shop, "d2", 1, "a", "u2"))
    learn_all()
    assert shop.learnt().statistics["count"].tolist() == [2, 0, 0]
    ALTERED[how](shop)
    if owned:
        part = next(
            name for name in shop.client.hgetall(SNAPSHOT_HEADERS) if name.startswith(b"hero") and name != b"hero"
        )
        line, _, blob = shop.client.get(keyspace.snapshot("hero")).partition(b"\n")
        put(shop, line, blob, part.decode())
    shop.send(*clicked(shop, "d3", 60, "b", "u1"), *clicked(shop, "d4", 61, "b", "u2"))
    learn_all()
    shop.send(*clicked(shop, "d5", 120, "c", "u1"))
    learn_all()
    assert shop.learnt().statistics["count"].tolist()[1:] == [2, 1]


def test_broken_entries_of_a_stream_are_read_once(shop: Any) -> None:
    plan = shop.plan
    shop.send(*clicked(shop, "d1", 0, "a", "u1"))
    learn(shop.settings, lambda: plan, threading.Event(), once=True)
    for fields in ({"x": "y"}, {"s": "spool", "p": "9" * 40, "f": ""}, {"s": "spool", "p": "0", "f": "no frame"}):
        shop.client.xadd(keyspace.partition(0).stream, fields)
    shop.send(*clicked(shop, "d2", 60, "b", "u1"))
    for _ in range(2):
        learn(shop.settings, lambda: plan, threading.Event(), once=True)
    assert shop.learnt().statistics["count"].tolist() == [1, 1, 0]
