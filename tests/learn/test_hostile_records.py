"""A record with which learning fails is quarantined after three tries, and the others are learnt as if it were not."""

import random
from contextlib import closing
from typing import Any

import pytest
from msgspec import DecodeError

from engine.journal.records import QuarantineRecord, decode_for_learner, encode
from engine.learn.state import TRIES, State, find_poisoned
from tests.faults.parsers import mutate_msgpack

POISON = float("nan")
"""The revenue of an event that no request can send, and that the learner's file does not take."""


def test_what_a_record_breaks_is_learnt_without_it(shop: Any) -> None:
    for n in range(12):
        shop.spool(*shop.shown(f"d{n}", n * 5.0, f"u{n}"))
        shop.spool(shop.event("click", n * 5.0 + 1, f"u{n}", f"d{n}", revenue=POISON if n in {3, 8} else None))
    shop.ship()
    shop.learn()
    assert list(shop.learnt().statistics["total"]) == [10, 0, 0]
    failed = [one for one in shop.logged() if isinstance(one, QuarantineRecord)]
    assert [one.reason for one in failed] == ["failed: IntegrityError"] * 2
    assert shop.aside() == {"failed": 2}
    shop.learn()
    assert len(shop.logged()) == 12  # ten rewards and two in quarantine, once
    assert list(shop.learnt().statistics["total"]) == [10, 0, 0]


@pytest.mark.parametrize("seed", [1, 4])
def test_no_record_that_decodes_stops_the_learner(shop: Any, seed: int) -> None:
    rng = random.Random(seed)
    shop.guard()
    shop.selection("till", "{kind: linear_thompson, features: [hour]}", "{metric: spend, window: 1h, settle: 10m}")
    plan = shop.plan
    payloads: list[bytes] = []
    for n in range(160):
        at, who = n * 7.0, f"u{n % 5}"
        shown = shop.shown(f"d{n}", at, who, arm=rng.choice("abcd"), key=rng.choice(["hero", "till"]))
        event = rng.choice(["click", "purchase", "identify", "merged", "refund"])
        named = rng.choice([f"d{n}", f"d{n - 3}", None])
        for record in [*shown, shop.event(event, at + 1, who, named, revenue=rng.choice([None, 3.0]))]:
            data = encode(record)
            payloads.append(mutate_msgpack(rng, data, [data]) if rng.random() < 0.5 else data)
    for start in range(0, len(payloads), 60):
        shop._spool.append_many([(payload, 0) for payload in payloads[start : start + 60]])
        shop.ship()
        shop.learn(plan)
    readable = 0
    for payload in payloads:
        try:
            readable += decode_for_learner(payload) is not None
        except (DecodeError, ValueError):
            continue
    assert readable > 240
    with closing(State(shop.settings.data / "learn" / "all.sqlite")) as state:
        assert state.progress() is not None


def test_the_records_to_blame_are_found_with_few_attempts_each() -> None:
    attempts = 0

    def attempt(records: Any) -> None:
        nonlocal attempts
        attempts += 1
        if {17, 400} & set(records):
            raise ZeroDivisionError

    assert find_poisoned(range(1000), attempt) == {17: "ZeroDivisionError", 400: "ZeroDivisionError"}
    assert attempts < 2 * TRIES * 14


def test_nothing_is_blamed_for_a_failure_of_the_surroundings_or_of_every_batch() -> None:
    def fail_always(_: Any) -> None:
        raise KeyError

    assert find_poisoned(range(10), fail_always) == {}

    def fail_on_the_disk(_: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        find_poisoned(range(10), fail_on_the_disk)

    tries = iter([True, True, False])

    def fail_twice(_: Any) -> None:
        if next(tries, False):
            raise KeyError

    assert find_poisoned(range(10), fail_twice) == {}


def test_no_record_is_blamed_for_what_is_due_when_it_comes(shop: Any) -> None:
    shop.send(*shop.shown("broken", 0.0, "u0"))
    shop.learn()
    with closing(State(shop.settings.data / "learn" / "all.sqlite")) as state:
        state.db.execute("UPDATE pending SET exposed = 'yesterday'")
    for n in range(3):
        shop.spool(*shop.shown(f"d{n}", 2000.0 + n, f"u{n}"))
    shop.ship()
    with pytest.raises(TypeError):
        shop.learn()
    assert shop.aside() == {}
    with closing(State(shop.settings.data / "learn" / "all.sqlite")) as state:
        state.db.execute("UPDATE pending SET exposed = ?", [shop.t0])
    shop.learn()
    assert shop.learnt().statistics["count"].sum() == 1
    assert shop.aside() == {}
