"""Spools, streams and a reader against a list: whatever dies in between, each answered record is collected once."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from engine import embedded
from engine.journal import stream
from engine.journal.spool import ship, spool
from engine.journal.spool.frames import encode_frame
from engine.journal.spool.spool import Spool

PARTITIONS, WORKERS = 2, 2
WORKER = st.integers(0, WORKERS - 1)
BATCH = st.lists(st.tuples(st.integers(0, PARTITIONS - 1), st.sampled_from([1, 60, 700])), min_size=1, max_size=4)


class SpoolModel(RuleBasedStateMachine):
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.client = stream.connect_stream(self.url)
        self.client.flushall()
        self.root = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.workers: list[tuple[Spool, ship.Shipment]] = []
        for _ in range(WORKERS):
            self.workers.append(self.start())
        self.adopted: list[tuple[ship.Shipment, int]] = []
        self.answered: list[bytes] = []
        self.collected: list[bytes] = []
        self.committed = stream.Progress()
        self.restart_collector()

    def start(self) -> tuple[Spool, ship.Shipment]:
        own = Spool(self.root, segment_bytes=1500)
        return own, ship.Shipment(own.path)

    @rule(worker=WORKER, batch=BATCH)
    def answer(self, worker: int, batch: list[tuple[int, int]]) -> None:
        own, _ = self.workers[worker]
        first = len(self.answered)
        payloads = [b"%08d" % (first + n) + b"x" * size for n, (_, size) in enumerate(batch)]
        own.append_many([(payload, partition) for payload, (partition, _) in zip(payloads, batch, strict=True)])
        self.answered += payloads

    @rule(worker=WORKER, batch=BATCH)
    def answer_and_collect(self, worker: int, batch: list[tuple[int, int]]) -> None:
        """All at once, since rules drawn apart come in this order too rarely for a loss to follow."""
        self.answer(worker, batch)
        self.ship_and_tidy(worker)
        self.read(3)
        self.read(3)
        self.commit()

    @rule(worker=WORKER)
    def roll(self, worker: int) -> None:
        self.workers[worker][0].roll()

    @rule(worker=WORKER, torn=st.integers(0, 40))
    def die_in_an_append(self, worker: int, torn: int) -> None:
        own, _ = self.workers[worker]
        path, seq = own.path, own.seq
        own.close()
        newest = max(path.glob("*.seg"))
        with newest.open("ab") as segment:
            segment.write(encode_frame(seq + 1, 0, b"never answered" * 3)[:torn])
        self.workers[worker] = self.start()

    @rule(worker=WORKER)
    def ship_and_tidy(self, worker: int) -> None:
        async def step() -> None:
            async with ship.connect_shipper(self.url) as client:
                await self.workers[worker][1].step(client)
                await self.workers[worker][1].tidy(client)

        self.loop.run_until_complete(step())

    @rule()
    def adopt(self) -> None:
        async def step() -> None:
            async with ship.connect_shipper(self.url) as client:
                self.adopted += ship.adopt_spools(self.root)
                for shipment, _ in self.adopted:
                    await shipment.step(client)
                self.adopted = await ship.remove_collected(self.adopted, client)

        self.loop.run_until_complete(step())

    @rule()
    def let_the_adopter_die(self) -> None:
        for _, lock in self.adopted:
            os.close(lock)
        self.adopted = []

    @rule(count=st.integers(1, 3))
    def read(self, count: int) -> None:
        for delivery in self.reader.read(count):
            assert not delivery.broken
            self.pending += [payload for _, payload in delivery.frames]

    @rule()
    def commit(self) -> None:
        self.collected += self.pending
        self.pending = []
        self.committed = self.reader.progress

    @rule()
    def release(self) -> None:
        """After the commit, and perhaps never: the collector may die in between."""
        self.reader.commit(self.committed)
        stream.publish_collected(self.client, self.committed)
        stream.trim_streams(self.client, list(self.committed.positions))

    @rule()
    def lose_the_store(self) -> None:
        """Everything in it: what is not collected is in the spools still, and comes again."""
        self.client.flushall()

    @rule()
    def restart_collector(self) -> None:
        self.reader = stream.Reader(self.client, "collector", self.committed, partitions=PARTITIONS)
        self.pending: list[bytes] = []

    def teardown(self) -> None:
        for worker in range(WORKERS):
            self.workers[worker][0].close()
        self.let_the_adopter_die()
        for _ in range(len(self.answered) + 5):
            self.adopt()
            self.read(16)
            self.commit()
            self.release()
        assert sorted(self.collected) == self.answered
        assert spool.list_spools(self.root) == []
        self.loop.close()
        self.client.close()
        shutil.rmtree(self.root)


@pytest.mark.parametrize("seed", [1])
def test_every_answered_record_is_collected_once(tmp_path: Path, seed: int) -> None:
    limits = settings(max_examples=25, stateful_step_count=30, deadline=None, derandomize=bool(seed))
    with embedded.running(tmp_path / "valkey") as store:  # of its own: a collector of another test would read along
        SpoolModel.url = store.url
        run_state_machine_as_test(SpoolModel, settings=limits)
