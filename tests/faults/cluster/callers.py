"""Customers of a shop on several servers: they look, log in, click, come again, and get letters; a ledger of it all."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.faults.cluster.shop import REGULARS


@dataclass
class ClusterLedger:
    """What was answered: decisions, clicks that were accepted, letters that were confirmed."""

    decisions: dict[str, bool] = field(default_factory=dict)
    """Every answered decision, and whether it was degraded."""
    clicked: set[str] = field(default_factory=set)
    """Decisions of the bandit that a visitor clicked, most of them after a login."""
    logged_in: int = 0
    letters: dict[str, str] = field(default_factory=dict)
    """Messages that were confirmed as sent, by decision, with their customers."""
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0


class Visitors:
    """Callers at all servers in turn, until `stopped`; a server that breaks a connection is asked again."""

    def __init__(self, bases: list[str], seed: int) -> None:
        self.ledger = ClusterLedger()
        self.stopped = False
        self._bases, self._chance = bases, random.Random(seed)
        self._numbers = iter(range(10**9))

    async def run(self, callers: int, letters: int) -> None:
        """Run so many callers at once; half of the `letters` customers, who may be written to, wait for one."""
        async with httpx.AsyncClient(timeout=30) as client:
            await self.send(client, [one for n in range(letters) for one in _reader(f"reader-{n}")])
            await asyncio.gather(*(self._visit(client) for _ in range(callers)), self._post(client))

    async def send(self, client: httpx.AsyncClient, batch: list[dict[str, Any]]) -> None:
        """Send events until each was accepted once."""
        left = batch
        while left:
            statuses: list[str] = []
            with suppress(httpx.TransportError):
                answer = await client.post(f"{self._base()}/v1/events", json={"batch": left[:100]})
                if answer.status_code == 200:
                    statuses = [one["status"] for one in answer.json()["statuses"]]
            done = {at for at, status in enumerate(statuses) if status in ("accepted", "duplicate")}
            left = [one for at, one in enumerate(left) if at not in done]
            if not done:
                await asyncio.sleep(0.2)

    def _base(self) -> str:
        return self._chance.choice(self._bases)

    async def _visit(self, client: httpx.AsyncClient) -> None:
        while not self.stopped:
            number = next(self._numbers)
            if number % 3 == 0:
                await self._decide(client, {"user_id": f"regular-{self._chance.randrange(REGULARS)}"}, ["till", "side"])
            else:
                await self._journey(client, number)
            await asyncio.sleep(0.01)

    async def _journey(self, client: httpx.AsyncClient, number: int) -> None:
        """A visitor who looks, logs in as a customer of another partition at times, and clicks."""
        visitor, user = f"visitor-{number}", f"user-{number}"
        decision = await self._decide(client, {"anonymous_id": visitor}, ["hero"])
        who: dict[str, Any] = {"anonymous_id": visitor}
        if self._chance.random() < 0.7:
            who = {"user_id": user}
            login = {"type": "identify", "message_id": f"login-{number}", "user_id": user, "anonymous_id": visitor}
            await self.send(client, [login])
            self.ledger.logged_in += 1
        if decision is not None and self._chance.random() < 0.6:
            click = {"type": "track", "event": "click", "message_id": f"click-{number}", "channel": "web"}
            named = {"decision_id": decision} if self._chance.random() < 0.5 else {}
            await self.send(client, [click | who | named])
            if not self.ledger.decisions[decision]:
                self.ledger.clicked.add(decision)

    async def _decide(self, client: httpx.AsyncClient, who: dict[str, str], placements: list[str]) -> str | None:
        body = {"customer": who, "channel": "web", "placements": placements, "experiments": []}
        try:
            answer = await client.post(f"{self._base()}/v1/decide", json=body)
        except httpx.TransportError:
            self.ledger.unanswered += 1
            return None
        self.ledger.statuses[answer.status_code] += 1
        if answer.status_code != 200:
            return None
        decided = answer.json()
        decision = str(decided["decision_id"])
        self.ledger.decisions[decision] = bool(decided["degraded"])
        return decision

    async def _post(self, client: httpx.AsyncClient) -> None:
        """Take the letters that are due, and confirm each until that is answered."""
        while not self.stopped:
            await asyncio.sleep(0.2)
            items: list[dict[str, Any]] = []
            with suppress(httpx.TransportError):
                answer = await client.get(f"{self._base()}/v1/due", params={"channel": "email", "limit": 5, "lease": 5})
                items = answer.json()["items"] if answer.status_code == 200 else []
            for item in items:
                decision = item["decision_id"]
                for _ in range(100):
                    with suppress(httpx.TransportError):
                        answer = await client.post(f"{self._base()}/v1/due/confirm", json={"sent": [decision]})
                        if answer.status_code == 200:
                            if answer.json()["results"][decision] == "sent":
                                self.ledger.letters[decision] = item["customer"]
                            break
                    await asyncio.sleep(0.1)


def _reader(user: str) -> list[dict[str, Any]]:
    consent = {"event": "consent", "properties": {"purpose": "marketing", "granted": True}}
    return [
        {"type": "identify", "message_id": f"who-{user}", "user_id": user, "traits": {"email": f"{user}@example.org"}},
        {"type": "track", "message_id": f"may-{user}", "user_id": user, **consent},
    ]
