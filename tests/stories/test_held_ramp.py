"""A ramp that holds itself, over HTTP: it advances while the guardrails hold, and stops a harm within its budget."""

import hashlib
import hmac
import itertools
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import time_machine
import yaml

from engine.analysis import analyze_experiment
from engine.analysis.design.question_from_plan import build_question
from engine.catalog import load_plan
from engine.catalog.check.load import load_specs
from engine.cli import app
from engine.keyspace import PAUSED_EXPERIMENTS
from engine.supervise.loop import supervise
from tests.store import open_store

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
WORTH = 50.0
KEY = "checkout.v2"
RULE = f"{KEY}#de"
METRICS = [
    {"key": "click", "event": "click"},
    {"key": "order", "event": "purchase", "money": WORTH},
    {"key": "trouble", "event": "help_opened", "direction": "down", "margin": 0.5},
]
SECRET = "NOTIFY_SECRET"  # noqa: S105 (a variable's name)


def flag(steps: list[float], budget: float) -> dict[str, Any]:
    rule = {
        "key": "de",
        "audience": {"country": "DE"},
        "ramp": {"steps": steps, "every": "1d", "advance": "guardrails_hold", "loss_budget": budget},
        "variants": [{"key": "old", "weight": 0.5}, {"key": "new", "weight": 0.5}],
        "metrics": {"primary": "order", "guardrails": ["trouble"]},
        "analysis": {"min_days": 1, "planned": 400},
    }
    values = [{"key": "old", "value": False}, {"key": "new", "value": True}]
    return {"key": KEY, "kind": "flag", "type": "boolean", "variants": values, "rules": [rule], "default": "old"}


class Receiver:
    """A real HTTP receiver; the first `refusals` requests are answered 503."""

    def __init__(self, refusals: int = 0) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        outer, left = self, itertools.count(refusals, -1)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused = next(left) > 0
                if not refused:
                    outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(503 if refused else 204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def titles(self, kind: str) -> list[str]:
        return [one["title"] for _, body in self.got if (one := json.loads(body))["kind"] == kind]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver(refusals=1)
    yield one
    one.server.shutdown()
    one.server.server_close()


def open_with(open_shop: Any, receiver: Receiver, steps: list[float], budget: float) -> Any:
    shop = open_shop(
        {"offers": {"a": {}}, "placements": {}, "metrics": METRICS, "experiments": {"checkout_v2": flag(steps, budget)}}
    )
    told = {"receivers": [{"key": "growth", "webhook": receiver.url, "secret": SECRET, "on": ["ramp", "guardrail"]}]}
    (shop.settings.experiments / "notify.yaml").write_text(yaml.safe_dump(told))
    return shop


def look(shop: Any) -> list[Any]:
    shop.collect()
    source = load_plan(shop.settings.experiments), load_specs(shop.settings.experiments).notify
    return supervise(shop.settings, lambda: source, threading.Event(), once=True)


def visit(shop: Any, numbers: range, orders: dict[str, float]) -> dict[str, int]:
    """Customers come, and a share of each variant's buys; the number that had each variant by the rule."""
    had = {"old": 0, "new": 0}
    bought = []
    for n in numbers:
        answer = shop.decide("web", experiments=[KEY], context={"country": "DE"}, user_id=f"u{n}")["experiments"][KEY]
        if answer["reason"] == "assigned":
            had[answer["variant"]] += 1
        if n % 100 < 100 * orders[answer["variant"]]:
            bought.append(
                {"type": "track", "event": "purchase", "message_id": f"b{n}", "user_id": f"u{n}", "channel": "web"}
            )
    if bought:
        answer = shop.client().post("/v1/events", json={"batch": bought})
        assert {one["status"] for one in answer.json()["statuses"]} == {"accepted"}
    return had


def wait_for_coverage(shop: Any, at_least: float) -> float:
    """The share of new customers that the rule lets in, once all servers know of the last move."""
    while True:
        let_in = [
            shop.decide("web", experiments=[KEY], context={"country": "DE"}, user_id=f"probe{n}", expose=False)
            for n in range(30)
        ]
        share = sum(one["experiments"][KEY]["reason"] == "assigned" for one in let_in) / len(let_in)
        if share >= at_least:
            return share


def test_a_harm_is_stopped_within_its_budget_and_people_are_told(
    open_shop: Any, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET, "shared")
    budget = 4_000.0
    with time_machine.travel(START, tick=True):
        shop = open_with(open_shop, receiver, [0.5, 1.0], budget)
        new, stopped = 0, []
        for wave in range(12):
            new += visit(shop, range(150 * wave, 150 * (wave + 1)), {"old": 0.6, "new": 0.1})["new"]
            stopped = [one for one in look(shop) if one.kind == "ramp" and "control" in one.title]
            if stopped:
                break
        assert stopped
        assert new * 0.5 * WORTH <= budget
        with open_store(shop.settings.redis) as client:
            assert json.loads(client.hget(PAUSED_EXPERIMENTS, RULE))["by"] == "ramp"
        answers = {"assigned"}
        while answers != {"default"}:  # until both servers have read it
            answers = {
                shop.decide("web", experiments=[KEY], context={"country": "DE"}, user_id=f"late{n}")["experiments"][
                    KEY
                ]["reason"]
                for n in range(20)
            }
        assert look(shop) == []  # stopped stays stopped
        with open_store(shop.settings.redis) as client:
            client.hdel(PAUSED_EXPERIMENTS, RULE)  # a person resumes it
        assert [one.title for one in look(shop)] == [f"{RULE}: at 0.5 of its audience"]
        assert look(shop) == []  # the harm of before does not count again
    assert receiver.titles("ramp") == [f"{RULE}: at 0.5 of its audience", f"{RULE}: everyone is back at control"]
    headers, body = receiver.got[-1]
    signed = hmac.new(b"shared", headers["x-counterpoint-timestamp"].encode() + b"." + body, hashlib.sha256)
    assert headers["x-counterpoint-signature"] == f"sha256={signed.hexdigest()}"
    assert len({headers["idempotency-key"] for headers, _ in receiver.got}) == len(receiver.got)


def expect_money_of_both_steps(shop: Any) -> None:
    """The month is extrapolated by the coverage that each unit met, not by that which the ramp has at the end."""
    question, metrics = build_question(load_plan(shop.settings.experiments), RULE)
    report = analyze_experiment(question, metrics, shop.settings.log)
    [first, last] = report.ramp
    assert (first.coverage, last.coverage) == (0.8, 1.0)
    assert first.units + last.units == sum(report.units.values())
    assert last.units == 60
    money, [order] = report.recommendation.money_per_month, [row for row in report.metrics if row.metric == "order"]
    everyone = first.units / 0.8 + last.units
    assert money.estimate == pytest.approx(order.absolute.estimate * everyone / (report.days or 1.0) * 30 * WORTH)


def expect_assertions_at_the_step(shop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """An assertion is judged at the step of the data, else at the first one, and the output says which."""
    folder = shop.settings.experiments
    (folder / "tests").mkdir()
    tests = [{"given": {"country": "DE"}, "expect": {KEY: {"rule": "de", "reason": "assigned"}}}]
    (folder / "tests" / "shop.yaml").write_text(yaml.safe_dump({"tests": tests}), encoding="utf-8")
    elsewhere = shop.settings.data / "nowhere"
    steps = {
        shop.settings.data: "1 of its audience, its current step",
        elsewhere: "0.8 of its audience, its first step",
    }
    for data, step in steps.items():
        assert app(["test", str(folder), "--data", str(data)], result_action="return_value") == (data == elsewhere)
        assert f"Judged with {RULE} at {step}" in " ".join(capsys.readouterr().out.split())


def test_a_good_change_reaches_everyone_by_itself(
    open_shop: Any,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(SECRET, "shared")
    with time_machine.travel(START, tick=True) as clock:
        shop = open_with(open_shop, receiver, [0.8, 1.0], 20_000.0)
        visit(shop, range(300), {"old": 0.3, "new": 0.45})
        look(shop)
        assert 0.5 < wait_for_coverage(shop, 0.5) < 1.0
        clock.shift(timedelta(days=1, minutes=1))
        assert [one.title for one in look(shop) if one.kind == "ramp"] == [f"{RULE}: at 1 of its audience"]
        assert wait_for_coverage(shop, 1.0) == 1.0
        shop.collect()  # without a store at hand, rehearsals take the step of the log
        where = ("--experiments", str(shop.settings.experiments), "--data", str(shop.settings.data))
        german = shop.settings.data / "germans.json"
        german.write_text(json.dumps([{"user_id": f"x{n}", "traits": {"country": "DE"}} for n in range(40)]))
        capsys.readouterr()
        assert not app(["preview", KEY, "--customers", str(german), "--json", *where], result_action="return_value")
        rehearsed = capsys.readouterr()
        assert {row["reason"] for row in json.loads(rehearsed.out)} == {"assigned"}
        assert rehearsed.err == ""
        nowhere = ["--data", str(shop.settings.data / "nowhere"), *where[:2]]
        assert not app(["preview", KEY, "--customers", str(german), "--json", *nowhere], result_action="return_value")
        rehearsed = capsys.readouterr()
        assert {row["reason"] for row in json.loads(rehearsed.out)} == {"assigned", "default"}
        assert f"{RULE}: no store or log is at hand, so its first one is assumed, 0.8 of" in rehearsed.err
        for folder, is_assumed in ((where, False), (nowhere, True)):
            assert not app(["coverage", "--json", *folder], result_action="return_value")
            assert ("so its first one is assumed" in capsys.readouterr().err) == is_assumed
        expect_assertions_at_the_step(shop, capsys)
        clock.shift(timedelta(hours=23))
        visit(shop, range(300, 360), {"old": 0.3, "new": 0.45})
        clock.shift(timedelta(hours=1, minutes=1))
        assert [one.title for one in look(shop) if one.kind == "ramp"] == [f"{RULE}: its ramp is over"]
        expect_money_of_both_steps(shop)
    assert receiver.titles("ramp") == [f"{RULE}: at 1 of its audience", f"{RULE}: its ramp is over"]
