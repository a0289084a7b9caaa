"""Journeys of customers on every channel, against a running `counterpoint up`.

`locust -f loadtests/locustfile.py --headless --host http://127.0.0.1:8080 -u 50 -r 10 -t 1m`. A degraded answer and an
event that is not accepted count as failures. Locust's users wait for answers and its times are whole milliseconds: use
it for mixed load, not for percentiles.
"""

import random
import uuid

from locust import FastHttpUser, between, task

CUSTOMERS = 5000
CATEGORIES = ("coffee", "tea", "cake", "beans", "cups")

Json = dict[str, object]


class Shopper(FastHttpUser):
    """What every channel does: ask for a decision, confirm its exposure, send events."""

    abstract = True
    wait_time = between(0.1, 0.5)
    channel = ""

    def decide(self, customer: Json, body: Json) -> Json | None:
        """The engine's answer; None for an error."""
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
        """One visit."""
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
            known = {"user_id": f"u-{random.randrange(CUSTOMERS)}", **visitor}
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
        customer: Json = {"user_id": f"u-{random.randrange(CUSTOMERS)}"}
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
    def send(self) -> None:
        """Send one letter."""
        customer: Json = {"user_id": f"u-{random.randrange(CUSTOMERS)}"}
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
        """One purchase."""
        customer: Json = {"loyalty_card": f"card-{random.randrange(CUSTOMERS)}"}
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
        """One call."""
        customer: Json = {"phone": f"+49301{random.randrange(CUSTOMERS):06}"}
        decision = self.decide(customer, {"placements": ["till_prompt"], "context": {"intent": "cancel"}})
        if decision is not None:
            score = {"score": random.randint(1, 5)}
            self.send({"type": "track", "event": "csat", "properties": score, **customer})
