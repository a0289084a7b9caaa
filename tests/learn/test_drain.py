"""A learner that ends by itself has learnt all that was answered before it began, wherever that was."""

import threading
from typing import Any

from engine import keyspace
from engine.erasure.listener import LogErasures
from engine.journal import stream
from engine.journal.log.collect import collect
from engine.journal.records import encode
from engine.journal.spool import spool


def test_it_waits_for_what_a_living_worker_has_not_shipped_yet(shop: Any) -> None:
    shop.spool(*shop.shown("d1", 0), shop.event("click", 5, decision="d1"))
    shipping = threading.Timer(0.5, shop.ship)
    shipping.start()
    shop.learn()
    shipping.join()
    assert shop.learnt().statistics["total"].sum() == 1


def test_it_ships_what_a_dead_worker_left(shop: Any) -> None:
    left = spool.Spool(shop.settings.spool)
    records = [*shop.shown("d1", 0), shop.event("click", 5, decision="d1")]
    left.append_many([(encode(record), spool.partition_of("u", shop.settings.partitions)) for record in records])
    left.close()
    shop.learn()
    assert shop.learnt().statistics["total"].sum() == 1
    shop.learn()  # whoever tidies up may have it
    lock = spool.claim_spool(left.path)
    assert lock is not None
    spool.remove_spool(left.path, lock)


def test_a_learner_that_is_expected_and_slow_to_start_misses_nothing(shop: Any) -> None:
    stream.register_reader(shop.client, stream.LEARNER, shop.settings.partitions)
    shop.send(*shop.shown("d1", 0), shop.event("click", 5, decision="d1"))
    collect(shop.settings, LogErasures(), drain=True)
    shop.learn()
    assert shop.learnt().statistics["total"].sum() == 1
    stream.register_reader(shop.client, stream.LEARNER, shop.settings.partitions)  # as when it starts again
    collect(shop.settings, LogErasures(), drain=True)
    assert [shop.client.xlen(keyspace.partition(p).stream) for p in range(shop.settings.partitions)] == [0, 0]
