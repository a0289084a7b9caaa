"""A small shop whose log is made by hand: its plan from YAML, its records through a real spool into a real Valkey."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.catalog import Plan, load_plan
from engine.journal import stream
from engine.journal.records import (
    AnyRecord,
    DecisionRecord,
    DecisionRow,
    EventRecord,
    ExposureRecord,
    QuarantineRecord,
    RewardRecord,
    decode,
    encode,
)
from engine.journal.spool import ship, spool
from engine.learn import learn
from engine.learn.state import State, state_path
from engine.settings import Settings
from engine.snapshots.publish import current_headers, current_snapshot
from policies import Bandit, load_policy

T0 = 1_790_000_000.0
HOUR = 3600.0

CHANNELS = """
channels: [{key: web}, {key: store}]
placements: [{key: hero, channels: [web, store]}, {key: till, channels: [store]}, {key: side, channels: [web]}]
"""
METRICS = """
currency: EUR
metrics:
  - {key: click, kind: proportion, event: click}
  - {key: bought, kind: proportion, event: purchase}
  - {key: spend, kind: revenue, event: purchase}
"""
OFFER = "key: {key}\nrenderings: {{web: {{h: x}}, store: {{h: x}}}}\n"
SELECTION = """
key: {key}
placement: {key}
offers: [{arms}]
policy: {policy}
reward: {reward}
fallback: z
"""
GUARDED = """
key: bold
hypothesis: A bolder hero sells more, on every channel that shows it.
owner: growth
unit: customer
placement: hero
variants:
  - {key: calm, weight: 0.5}
  - {key: loud, weight: 0.5, policy: {kind: beta_thompson}}
metrics: {primary: bought, guardrails: [click]}
"""
HERO = "{kind: beta_thompson}"
CLICK = "{metric: click, window: 1h, settle: 10m}"
SPEND = "{metric: spend, window: 1h, settle: 10m}"


class Shop:
    """Its folder of YAML, its data, its stream."""

    def __init__(self, root: Path, url: str) -> None:
        self.folder = root / "experiments"
        (self.folder / "offers").mkdir(parents=True)
        self.settings = Settings(experiments=self.folder, data=root / "data", redis=url, partitions=2)
        (self.folder / "channels.yaml").write_text(CHANNELS)
        (self.folder / "metrics.yaml").write_text(METRICS)
        for offer in "abcdz":
            (self.folder / "offers" / f"{offer}.yaml").write_text(OFFER.format(key=offer))
        self.selection("hero", HERO, CLICK)
        self.selection("till", "{kind: gaussian_thompson}", SPEND)
        self.selection("side", "{kind: uniform}", CLICK)
        self._spool = spool.Spool(self.settings.spool)
        self._shipment = ship.Shipment(self._spool.path)
        self.client = stream.connect_stream(url)
        self._messages = itertools.count()

    def close(self) -> None:
        self._spool.close()
        self.client.close()

    def selection(self, key: str, policy: str, reward: str, arms: str = "a, b, c") -> None:
        text = SELECTION.format(key=key, policy=policy, reward=reward, arms=arms)
        (self.folder / f"{key}.yaml").write_text(text)

    def guard(self) -> None:
        """An experiment on the hero whose second variant has a policy of its own, guarded by the clicks."""
        (self.folder / "bold.yaml").write_text(GUARDED)

    @property
    def plan(self) -> Plan:
        return load_plan(self.folder)

    @property
    def t0(self) -> float:
        return T0

    def send(self, *records: AnyRecord, partition: int | None = None) -> None:
        self.spool(*records, partition=partition)
        self.ship()

    def spool(self, *records: AnyRecord, partition: int | None = None) -> None:
        """Answered, and not in the streams yet."""
        self._spool.append_many([(encode(record), self._partition(record, partition)) for record in records])

    def send_bytes(self, payload: bytes) -> None:
        self._spool.append_many([(payload, 0)])
        self.ship()

    def ship(self) -> None:
        """What is in the spool comes into the streams."""

        async def shipped() -> None:
            async with ship.connect_shipper(self.settings.redis) as client:
                while await self._shipment.step(client):
                    pass

        asyncio.run(shipped())

    def _partition(self, record: AnyRecord, partition: int | None) -> int:
        if partition is not None or isinstance(record, RewardRecord | QuarantineRecord):
            return partition or 0
        return spool.partition_of(record.customer, self.settings.partitions)

    def decided(
        self,
        id_: str,
        at: float,
        customer: str = "u",
        *,
        arm: str = "a",
        key: str = "hero",
        policy: str | None = "",
        **row: Any,
    ) -> DecisionRecord:
        named = f"{key}@0" if policy == "" else policy
        fields = {"propensity": 0.5, "candidates": ["a", "b", "c"], "context": {}} | row
        chosen = DecisionRow("offer", key, arm, "policy" if named else "fallback", policy=named, **fields)
        return DecisionRecord(id_, T0 + at, customer, None, "web", "plan", [chosen])

    def seen(self, id_: str, at: float, customer: str = "u", key: str = "hero") -> ExposureRecord:
        return ExposureRecord(id_, T0 + at, customer, [key])

    def shown(self, id_: str, at: float, customer: str = "u", **row: Any) -> list[AnyRecord]:
        """Decided and seen at once."""
        return [self.decided(id_, at, customer, **row), self.seen(id_, at, customer, row.get("key", "hero"))]

    def pass_time(self, at: float) -> None:
        """A record in every partition moves its clock."""
        for partition in range(self.settings.partitions):
            self.send(self.event("nothing", at), partition=partition)

    def event(self, name: str, at: float, customer: str = "u", decision: str | None = None, **more: Any) -> EventRecord:
        fields = {
            "message_id": f"m{next(self._messages)}",
            "time": T0 + at,
            "received": T0 + at,
            "customer": customer,
            "event": name,
            "decision_id": decision,
            "channel": None,
            "revenue": None,
            "properties": b"{}",
        }
        return EventRecord(**(fields | more))

    def learn(self, plan: Plan | None = None) -> None:
        self.learn_in(self.settings.data, plan or self.plan)

    def learn_in(self, data: Path, plan: Plan) -> None:
        learn(msgspec.structs.replace(self.settings, data=data), lambda: plan, threading.Event(), once=True)

    def learnt(self, key: str = "hero") -> Bandit:
        found = current_snapshot(self.client, key)
        assert found is not None
        return load_policy(found.blob)

    def version(self, key: str = "hero") -> int:
        return current_headers(self.client)[key].version

    def published(self) -> set[str]:
        return set(current_headers(self.client))

    def aside(self) -> dict[str, int]:
        with closing(State(state_path(self.settings.data, None))) as state:
            return state.aside()

    def pending(self) -> int:
        with closing(State(state_path(self.settings.data, None))) as state:
            (count,) = state.db.execute("SELECT count(*) FROM pending").fetchone()
            return int(count)

    def logged(self) -> list[AnyRecord]:
        """What the learner added to the log, in the order of each partition."""
        reader = stream.Reader(self.client, "test", stream.Progress(), partitions=self.settings.partitions)
        found: list[AnyRecord] = []
        while deliveries := reader.read():
            for delivery in deliveries:
                if delivery.spool.startswith("learner"):
                    found += [decode(payload) for _, payload in delivery.frames]
        return found

    def rewards(self) -> list[tuple[str, str, float]]:
        return [(r.decision_id, r.key, r.reward) for r in self.logged() if isinstance(r, RewardRecord)]

    def reasons(self) -> list[str]:
        return [r.reason for r in self.logged() if isinstance(r, QuarantineRecord)]


@pytest.fixture
def shop(tmp_path: Path, redis_url: str) -> Iterator[Shop]:
    made = Shop(tmp_path, redis_url)
    yield made
    made.close()
