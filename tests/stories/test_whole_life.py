"""A flag's whole life over HTTP: a harm is stopped; what is good is concluded, and a holdout measures it later."""

import io
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
import yaml

from engine.catalog import load_plan
from engine.catalog.check.load import load_specs
from engine.cli import app
from engine.supervise.loop import supervise
from tests.stories.test_held_ramp import KEY, METRICS, RULE, SECRET, WORTH, Receiver, flag

START = datetime(2026, 3, 2, 9, tzinfo=UTC)
STEPS = [0.01, 0.1, 1.0]
BUDGET = 2_000.0
GERMAN = {"country": "DE"}


class Life:
    """A shop with one flag, and its customers: those whom the first step lets in come first, as no one else matters."""

    def __init__(self, shop: Any, conversion: dict[str, float]) -> None:
        self.shop = shop
        self.conversion = conversion
        self.bought = dict.fromkeys(conversion, 0.0)
        self.experiment = load_plan(shop.settings.experiments).experiments[KEY].rules[0].experiment
        self.numbers = itertools.count()

    def customers(self, coverage: float, count: int) -> list[str]:
        """The next customers whom a coverage lets in, of as many as it takes."""
        ranges = self.experiment.held_ranges(coverage)
        names = (f"u{n}" for n in self.numbers)
        let_in = (name for name in names if any(low <= self.experiment.hash_unit(name) < high for low, high in ranges))
        return list(itertools.islice(let_in, count))

    def probes(self, coverage: float) -> list[str]:
        """Some of the next customers whom a coverage lets in and no holdout keeps out."""
        holdouts = self.experiment.holdouts
        return [name for name in self.customers(coverage, 8) if not any(one.holds_out(name) for one in holdouts)]

    def visit(self, names: list[str]) -> dict[str, int]:
        """The number of customers by reason and variant; exactly the planned share of each variant buys."""
        found: dict[str, int] = {}
        orders = []
        for name in names:
            one = self.shop.decide("web", experiments=[KEY], context=GERMAN, user_id=name)["experiments"][KEY]
            kind = f"{one['reason']} {one['variant']}"
            found[kind] = found.get(kind, 0) + 1
            self.bought[one["variant"]] += self.conversion[one["variant"]]
            if self.bought[one["variant"]] >= 1:
                self.bought[one["variant"]] -= 1
                orders.append(
                    {"type": "track", "event": "purchase", "message_id": f"b-{name}", "user_id": name, "channel": "web"}
                )
        for at in range(0, len(orders), 100):
            answer = self.shop.client().post("/v1/events", json={"batch": orders[at : at + 100]})
            assert {one["status"] for one in answer.json()["statuses"]} == {"accepted"}
        return found

    def look(self) -> list[str]:
        """The titles of the ramp's notices at a look of the supervisor."""
        self.shop.collect()
        source = load_plan(self.shop.settings.experiments), load_specs(self.shop.settings.experiments).notify
        notices = supervise(self.shop.settings, lambda: source, threading.Event(), once=True)
        return [one.title for one in notices if one.kind == "ramp"]

    def wait_for(self, reason: str, names: list[str]) -> None:
        """Wait until all servers give these customers this reason; nobody is counted as exposed by it."""
        deadline = time.monotonic() + 60
        reasons = {""}
        while reasons != {reason}:
            assert time.monotonic() < deadline, reasons
            asked = [
                self.shop.decide("web", experiments=[KEY], context=GERMAN, user_id=name, expose=False)
                for name in names
                for _ in self.shop.clients
            ]
            reasons = {one["experiments"][KEY]["reason"] for one in asked}

    def run(self, *words: str) -> str:
        """What a verb prints."""
        where = ["--experiments", str(self.shop.settings.experiments), "--data", str(self.shop.settings.data)]
        printed = io.StringIO()
        with redirect_stdout(printed), redirect_stderr(printed):
            assert app([*words, *where], result_action="return_value", exit_on_error=False) == 0
        return printed.getvalue()

    def report(self, key: str) -> dict[str, Any]:
        lines = self.run("analyze", key, "--json").splitlines()
        found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
        return found


@contextmanager
def living(open_shop: Any, receiver: Receiver, conversion: dict[str, float]) -> Iterator[tuple[Life, Any]]:
    """A flag at its first step on the first day, with a holdout."""
    layers = {"holdouts": [{"key": "q1", "share": 0.2, "metrics": {"primary": "order"}}]}
    told = {"receivers": [{"key": "growth", "webhook": receiver.url, "secret": SECRET, "on": ["ramp", "guardrail"]}]}
    with time_machine.travel(START, tick=True) as clock:
        shop = open_shop(
            {
                "offers": {"a": {}},
                "placements": {},
                "metrics": METRICS,
                "experiments": {"checkout_v2": flag(STEPS, BUDGET)},
                "layers": layers,
            }
        )
        (shop.settings.experiments / "notify.yaml").write_text(yaml.safe_dump(told))
        yield Life(shop, conversion), clock


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv(SECRET, "shared")
    one = Receiver()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_a_harm_of_5_percent_is_stopped_within_its_budget(open_shop: Any, receiver: Receiver) -> None:
    conversion = {"old": 0.4, "new": 0.38}
    with living(open_shop, receiver, conversion) as (life, clock):
        came = life.visit(life.customers(0.01, 280))
        assert came["assigned old"] + came["assigned new"] + came["holdout old"] == 280
        outside = [f"v{n}" for n in range(40)]
        assert life.visit(outside).get("default old", 0) >= 35
        assert life.look() == [f"{RULE}: at 0.01 of its audience"]
        clock.shift(timedelta(days=1, minutes=1))
        assert life.look() == [f"{RULE}: at 0.1 of its audience"]
        probes = life.probes(0.1)
        life.wait_for("assigned", probes)
        new, titles = came["assigned new"], []
        while not titles:
            new += life.visit(life.customers(0.1, 200))["assigned new"]
            titles = life.look()
            assert new < 2_000
        assert titles == [f"{RULE}: everyone is back at control"]
        assert new * (conversion["old"] - conversion["new"]) * WORTH <= BUDGET
        life.wait_for("default", probes)
        life.shop.collect()
        report = life.report(RULE)
        shown = " ".join(life.run("analyze", RULE).split())
    why = json.loads(receiver.got[-1][1])
    assert why["title"] == f"{RULE}: everyone is back at control"
    assert "the loss until now may be" in why["text"]
    assert report["ramp_stop"].endswith(f": {why['text'].removesuffix('.')}")
    assert report["ramp_stop"] in shown
    assert report["quality"]["srm"]["ok"]


def test_a_good_flag_ends_as_the_cumulated_effect_of_a_holdout(open_shop: Any, receiver: Receiver) -> None:
    conversion = {"old": 0.3, "new": 0.7}
    with living(open_shop, receiver, conversion) as (life, clock):
        life.visit(life.customers(0.01, 280))
        titles = life.look()
        for _ in STEPS:
            clock.shift(timedelta(days=1, minutes=1))
            titles += life.look()
        assert titles == [
            *(f"{RULE}: at {step:g} of its audience" for step in STEPS),
            f"{RULE}: its ramp is over",
        ]
        life.wait_for("assigned", life.probes(1.0))
        first = life.report(RULE)
        answer = life.run("conclude", RULE, "--ship", "new", "--why", "More people order", "--yes")
        assert "ship new" in answer
        life.wait_for("shipped", life.probes(1.0))
        clock.shift(timedelta(days=90))
        after = life.visit(life.customers(1.0, 400))
        assert set(after) == {"shipped new", "holdout old"}
        life.shop.collect()
        kept, total = life.report(RULE), life.report("q1")
        assert kept["units"] == first["units"]
        assert kept["conclusion"].startswith("new was shipped on ")
        everyone = life.run("status", "--json")
    assert "leave the variant new alone" in everyone
    held_out, let_in = total["units"]["held out"], total["units"]["let in"]
    assert total["quality"]["srm"]["ok"]
    assert held_out >= after["holdout old"]
    [order] = total["metrics"]
    # Half of those of the experiment had the new one, all of those since.
    had_new = (first["units"]["new"] + after["shipped new"]) / let_in
    true_effect = had_new * (conversion["new"] - conversion["old"])
    assert order["absolute"]["low"] <= true_effect <= order["absolute"]["high"]
    assert order["absolute"]["low"] > 0
    assert total["cumulated"].startswith("It alone: order +")
    assert receiver.titles("ramp")[-1] == f"{RULE}: its ramp is over"
