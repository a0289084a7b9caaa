"""Journeys of customers on every channel, against a running `counterpoint up`.

`locust -f loadtests/locustfile.py --headless --host http://127.0.0.1:8080 -u 50 -r 10 -t 1m --html report.html`; with
`--processes 2` (or `--master` and `--worker`) from several processes. A degraded answer and an event that is not
accepted count as failures. The run fails, with exit code 1, if a line of `budgets.toml` is exceeded. Locust's users
wait for answers and its times are whole milliseconds: use it for mixed load; `openloop` measures percentiles.

A few customers come often: half of the visits are of an eighth of the customers.
"""

import logging
import random
import tomllib
import uuid
from pathlib import Path

from locust import FastHttpUser, between, events, task
from locust.env import Environment
from locust.runners import WorkerRunner

CUSTOMERS = 5000
CATEGORIES = ("coffee", "tea", "cake", "beans", "cups")

log = logging.getLogger(__name__)
BUDGETS = tomllib.loads(Path(__file__).with_name("budgets.toml").read_text(encoding="utf-8"))

Json = dict[str, object]


def a_customer() -> int:
    """The number of a customer; small numbers come more often."""
    return int(CUSTOMERS * random.random() ** 3)


@events.quitting.add_listener
def judge(environment: Environment, **_: object) -> None:
    """Fail the run if it missed a budget; with several processes the one that sums their figures decides."""
    if isinstance(environment.runner, WorkerRunner):
        return
    stats = environment.stats
    found = {name: entry for (name, _), entry in stats.entries.items()}
    missed = [f"{name}: not asked once" for name in BUDGETS["p99_ms"] if name not in found]
    for name, allowed in BUDGETS["p99_ms"].items():
        if name in found and (p99 := found[name].get_response_time_percentile(0.99)) > allowed:
            missed.append(f"{name}: p99 {p99} ms, budget {allowed} ms")
    if stats.total.fail_ratio > BUDGETS["failed_share"]:
        missed.append(f"{stats.total.fail_ratio:.2%} failed or degraded, budget {BUDGETS['failed_share']:.2%}")
    for line in missed:
        log.error("budget missed: %s", line)
    environment.process_exit_code = 1 if missed else 0


class Shopper(FastHttpUser):
    """The behaviour on every channel: ask for a decision, confirm its exposure, send events."""

    abstract = True
    wait_time = between(0.1, 0.5)
    channel = ""

    def decide(self, customer: Json, body: Json) -> Json | None:
        """Request a decision; returns the engine's answer, None for an error."""
        asked = {"customer": customer, "channel": self.channel, **body}
        with self.client.post("/v1/decide", json=asked, name=f"decide {self.channel}", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text}")
                return None
            decided = answer.json()
            if decided["degraded"]:
                answer.failure("degraded")
            return dict(decided)

    def see(self, decision: Json) -> None:
        """Confirm the exposure of a prefetched decision."""
        self.client.post("/v1/exposures", json={"decision_id": decision["decision_id"]}, name="exposure")

    def send(self, *events: Json) -> None:
        """Send events."""
        batch = [{"message_id": str(uuid.uuid4()), "channel": self.channel, **event} for event in events]
        with self.client.post("/v1/events", json={"batch": batch}, name="events", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.text}")
            elif any(status["status"] != "accepted" for status in answer.json()["statuses"]):
                answer.failure(answer.text)

    def click(self, customer: Json, decision: Json) -> None:
        """Click the offer."""
        self.send({"type": "track", "event": "click", "decision_id": decision["decision_id"], **customer})

    def buy(self, customer: Json, decision: Json) -> None:
        """Order something."""
        bought = {"revenue": round(random.lognormvariate(2.6, 0.5), 2), "order_id": str(uuid.uuid4())}
        event = {"type": "track", "event": "purchase", "properties": bought, **customer}
        self.send({**event, "decision_id": decision["decision_id"]})


class Web(Shopper):
    """A visitor looks around; some log in, and some of those buy."""

    weight = 5
    channel = "web"

    @task
    def visit(self) -> None:
        """Make one visit."""
        for file in ("/shop", "/client.js"):
            self.client.get(file)
        visitor: Json = {"anonymous_id": str(uuid.uuid4())}
        page: Json = {"placements": ["home_hero"], "experiments": "*", "expose": False}
        decision = self.decide(visitor, page)
        if decision is None:
            return
        self.see(decision)
        views = random.sample(CATEGORIES, random.randint(1, 3))
        self.send(*({"type": "track", "event": "view", "properties": {"category": c}, **visitor} for c in views))
        if random.random() < 0.15:
            self.click(visitor, decision)
        if random.random() < 0.3:
            known = {"user_id": f"u-{a_customer()}", **visitor}
            self.send({"type": "identify", "traits": {"loyalty.tier": random.randrange(4)}, **known})
            again = self.decide(known, page)
            if again is not None and random.random() < 0.3:
                self.see(again)
                self.buy(known, again)


class App(Shopper):
    """A known customer; decisions are exposed at once."""

    weight = 3
    channel = "app"

    @task
    def open(self) -> None:
        """Open the app."""
        customer: Json = {"user_id": f"u-{a_customer()}"}
        decision = self.decide(customer, {"placements": ["home_hero"], "experiments": "*"})
        if decision is None:
            return
        if random.random() < 0.2:
            self.click(customer, decision)
        if random.random() < 0.1:
            self.buy(customer, decision)


class Email(Shopper):
    """A newsletter: decided when it is sent, exposed when it is opened."""

    weight = 1
    channel = "email"

    @task
    def write(self) -> None:
        """Send one letter."""
        customer: Json = {"user_id": f"u-{a_customer()}"}
        decision = self.decide(customer, {"placements": ["home_hero"], "expose": False})
        if decision is not None and random.random() < 0.4:
            self.see(decision)
            if random.random() < 0.1:
                self.click(customer, decision)


class Till(Shopper):
    """A customer pays in a coffee bar with their loyalty card."""

    weight = 2
    channel = "store"

    @task
    def pay(self) -> None:
        """Make one purchase."""
        customer: Json = {"loyalty_card": f"card-{a_customer()}"}
        body: Json = {"placements": ["till_prompt"], "context": {"store": f"S{random.randrange(40)}"}}
        decision = self.decide(customer, body)
        if decision is not None:
            if random.random() < 0.2:
                self.click(customer, decision)
            self.buy(customer, decision)


class CallCentre(Shopper):
    """A customer calls to cancel; the agent gets an offer to make, and asks for a satisfaction score."""

    weight = 1
    channel = "call_centre"

    @task
    def call(self) -> None:
        """Make one call."""
        customer: Json = {"phone": f"+49301{a_customer():06}"}
        decision = self.decide(customer, {"placements": ["till_prompt"], "context": {"intent": "cancel"}})
        if decision is not None:
            score = {"score": random.randint(1, 5)}
            self.send({"type": "track", "event": "csat", "properties": score, **customer})
