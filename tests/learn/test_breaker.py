"""The circuit breaker opens on harm, seldom without, and logs the reason."""

import asyncio
import math
from contextlib import closing
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.customer import CustomerIds, Profile
from engine.decision.decision import DecideOptions, DecideRequest, decide
from engine.journal.records import DecisionRecord, DecisionRow, EventRecord
from engine.learn.guarding.sequential_tests import AmountTest, SequentialTest, ShareTest
from engine.learn.state import State, state_path
from engine.snapshots.follow import Follower
from engine.snapshots.publish import close_breaker, open_breakers

RUNS, CUSTOMERS, LOOK = 400, 2000, 20
ALPHA = 0.05


def broken(evidence: SequentialTest, control: np.ndarray, treated: np.ndarray) -> bool:
    """Whether it opens at any of a hundred looks at customers who come in turn."""
    turns = np.column_stack([control, treated]).ravel().tolist()
    for start in range(0, len(turns), LOOK):
        evidence = evidence.add([(i % 2 == 1, turns[i]) for i in range(start, start + LOOK)])
        if evidence.log_evidence() >= -math.log(ALPHA):
            return True
    return False


def opened(evidence: SequentialTest, draw_control: Any, draw_treated: Any) -> float:
    return float(
        np.mean([broken(evidence, draw_control(CUSTOMERS // 2), draw_treated(CUSTOMERS // 2)) for _ in range(RUNS)])
    )


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(("control", "margin"), [(0.3, 0.0), (0.3, 0.2), (0.02, 0.1)])
def test_shares_on_the_margin_open_it_in_fewer_runs_than_alpha(up: Any, control: float, margin: float) -> None:
    rng = np.random.default_rng(5)
    treated = control * (1 - margin if up else 1 + margin)
    rate = opened(
        ShareTest(margin, up),
        lambda n: rng.binomial(1, control, n).astype(float),
        lambda n: rng.binomial(1, treated, n).astype(float),
    )
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.parametrize("up", [True, False])
def test_amounts_on_the_margin_open_it_in_fewer_runs_than_alpha(up: Any) -> None:
    rng = np.random.default_rng(6)
    treated = 10 * (0.9 if up else 1.1)
    rate = opened(AmountTest(0.1, up), lambda n: rng.exponential(10, n), lambda n: rng.exponential(treated, n))
    assert rate <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


def test_harm_opens_it_and_good_does_not() -> None:
    rng = np.random.default_rng(7)
    some, half = rng.binomial(1, 0.3, 1000).astype(float), rng.binomial(1, 0.15, 1000).astype(float)
    assert broken(ShareTest(0.1, up=True), some, half)
    assert not broken(ShareTest(0.1, up=True), half, some)
    assert broken(ShareTest(0.1, up=False), half, some)
    assert not broken(ShareTest(0.1, up=False), some, half)
    much, less = rng.exponential(10, 1000), rng.exponential(6, 1000)
    assert broken(AmountTest(0.1, up=True), much, less)
    assert not broken(AmountTest(0.1, up=True), less, much)


@pytest.mark.parametrize("kind", [ShareTest, AmountTest])
def test_evidence_does_not_depend_on_how_it_is_cut(kind: Any) -> None:
    rng = np.random.default_rng(8)
    outcomes = [(bool(rng.integers(2)), float(rng.random())) for _ in range(500)]
    whole, piecewise = kind(0.1, True).add(outcomes), kind(0.1, True)
    for start in range(0, 500, 7):
        piecewise = msgspec.json.decode(msgspec.json.encode(piecewise), type=kind).add(outcomes[start : start + 7])
    assert piecewise.log_evidence() == pytest.approx(whole.log_evidence(), abs=1e-9)


def visit(shop: Any, i: int, variant: str, *, click: bool) -> list[Any]:
    row = DecisionRow("experiment", "bold", variant, "assigned", 0.5)
    at = float(i)
    records: list[Any] = [DecisionRecord(f"e{i}", shop.t0 + at, f"u{i}", None, "web", "plan", [row])]
    return [*records, shop.event("click", at + 1, f"u{i}")] if click else records


def test_a_broken_guardrail_sends_the_variants_placement_to_its_fallback(shop: Any) -> None:
    shop.guard()
    rng = np.random.default_rng(9)
    for i in range(400):
        variant = "loud" if i % 2 else "calm"
        shop.send(*visit(shop, i, variant, click=bool(rng.random() < (0.05 if i % 2 else 0.5))))
    shop.learn()
    assert open_breakers(shop.client) == {}, "their hour is not over"
    shop.pass_time(3 * 3600)
    shop.learn()
    marks = open_breakers(shop.client)
    assert set(marks) == {"bold.loud"}
    assert marks["bold.loud"].startswith("click of bold.loud is worse than calm's by more than its margin of 0")
    events = [record for record in shop.logged() if isinstance(record, EventRecord)]
    assert [record.event for record in events] == ["$breaker"]
    assert msgspec.json.decode(events[0].properties)["selection"] == "bold.loud"

    async def followed() -> Any:
        follower = Follower(shop.settings, lambda: shop.plan)
        await follower.poll()
        await follower._client.aclose()
        return follower.tripped

    tripped = asyncio.run(followed())
    reasons = set()
    for i in range(40):
        request = DecideRequest(customer=CustomerIds(user_id=f"v{i}"), channel="web", placements=["hero"])
        profile = Profile(id=f"v{i}", unit=f"v{i}")
        options = DecideOptions(tripped=tripped)
        made = decide(shop.plan, {}, profile, request, shop.t0, decision_id=f"x{i}", options=options)
        reasons.add((made.answer.experiments["bold"].variant, made.answer.offers["hero"].offer == "z"))
    assert reasons == {("calm", False), ("loud", True)}

    assert close_breaker(shop.client, "bold.loud")
    shop.learn()
    assert open_breakers(shop.client) == {}, "it stays closed when a person closed it"


def test_a_message_that_comes_again_counts_once_for_a_guardrail(shop: Any) -> None:
    shop.guard()
    decided, clicked = visit(shop, 0, "loud", click=True)
    merged = shop.event("$merge", 2, "k0", properties=b'{"from": "u0", "into": "k0"}')
    shop.send(decided, clicked, clicked, merged, msgspec.structs.replace(clicked, customer="k0"))
    shop.send(shop.event("click", 3, "k0"))
    shop.learn()
    with closing(State(state_path(shop.settings.data, None))) as state:
        assert state.db.execute("SELECT customer, value FROM under_guard").fetchall() == [("k0", 2.0)]
    shop.pass_time(3 * 3600)
    shop.learn()
    with closing(State(state_path(shop.settings.data, None))) as state:
        assert state.db.execute("SELECT count(*) FROM guard_messages").fetchone() == (0,)


def test_a_guardrail_that_holds_trips_nothing(shop: Any) -> None:
    shop.guard()
    rng = np.random.default_rng(10)
    for i in range(300):
        shop.send(*visit(shop, i, "loud" if i % 2 else "calm", click=bool(rng.random() < 0.3)))
    shop.pass_time(3 * 3600)
    shop.learn()
    assert open_breakers(shop.client) == {}


@pytest.mark.parametrize("guarded", ["in_order", "twice", "hours"])
def test_a_guardrail_of_several_events_opens_it(shop: Any, guarded: str) -> None:
    shop.guard()
    metrics = (shop.folder / "metrics.yaml").read_text() + (
        "  - {key: in_order, kind: funnel, window: 1h, steps: [view, {event: cart, filter: {size: {$gte: 2}}}]}\n"
        "  - {key: twice, kind: threshold, event: purchase, value: revenue, at_least: 20, window: 1h}\n"
        "  - {key: hours, kind: active_days, event: cart, window: 1h}\n"
    )
    (shop.folder / "metrics.yaml").write_text(metrics)
    (shop.folder / "bold.yaml").write_text((shop.folder / "bold.yaml").read_text().replace("[click]", f"[{guarded}]"))
    records: list[Any] = []
    for i in range(240):
        records += visit(shop, i, "loud" if i % 2 else "calm", click=False)
        steps = [("view", 1), ("cart", 2)] if i % 2 == 0 else [("cart", 1), ("view", 2)] if i % 3 else []
        records += [shop.event(name, i + at, f"u{i}", properties=b'{"size": 2}') for name, at in steps]
        earned = [12.0, 12.0] if i % 2 == 0 else [12.0]
        records += [shop.event("purchase", i + 3 + at, f"u{i}", revenue=revenue) for at, revenue in enumerate(earned)]
    shop.send(*records)
    shop.learn()
    shop.pass_time(3 * 3600)
    shop.learn()
    (reason,) = open_breakers(shop.client).values()
    assert reason.startswith(f"{guarded} of bold.loud is worse than calm's")
