"""Runs a learner until it is stopped: one process per partition and data folder, which survives an outage of the store.

Two learners of a partition would overwrite each other's policies and rewards. So the loop runs under a lock on the data
folder and under leases in the store (`partitions.leases`), and a second process waits to take over.
"""

import fcntl
import gc
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog
from redis.exceptions import RedisError

from engine.catalog.plan.plan import Plan
from engine.errors import BadInput, StoreUnavailable
from engine.journal import stream
from engine.journal.log_once import LogOnce
from engine.journal.spool.drain import Drain
from engine.learn.learner import INTERVAL, Learner
from engine.learn.partitions.leases import SECONDS, PartitionLeases
from engine.settings import Settings
from engine.snapshots.publish import store_errors
from engine.telemetry.tracing import record_batch

LONGEST_WAIT = 5.0
"""Seconds between two attempts to reach a store that is away."""
GARBAGE_THRESHOLDS = (100_000, 20, 50)
"""More objects made than freed, after which cycles are collected: a batch holds many records and no cycle."""
_LOCK_WAIT = 1.0
_log = structlog.get_logger(__name__)


def learn(
    settings: Settings,
    plan_source: Callable[[], Plan],
    stop: threading.Event,
    once: bool = False,  # noqa: FBT001, FBT002 - the last argument of a verb
    *,
    owned: Sequence[int] | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Learn from the streams until `stop` is set. Waits while another process learns one of the partitions.

    Args:
        settings: the store, the data folder and the number of partitions.
        plan_source: returns the current plan, before each batch.
        stop: ends the loop.
        once: end when everything in the streams and in this machine's spools is learnt, published and shipped.
        owned: the partitions to learn, whose policies are published as parts (see `combine`); None for all.
        clock: seconds since 1970, for partitions without new records; with `once` only the records move the time.

    Raises:
        StoreUnavailable: with `once`, if the store does not answer.
        sqlite3.Error: if the state cannot be written. Nothing is lost: what was not committed is read again.
    """
    reported = False
    while not stop.is_set():
        with lock_partitions(settings.data, range(settings.partitions) if owned is None else owned) as is_alone:
            if is_alone and _run(settings, plan_source, stop, None if once else clock, owned):
                return
        if is_alone:
            continue  # the file was deleted: start over
        if not reported:
            _log.warning(
                "another learner uses the data folder; waiting to take over",
                data=str(settings.data),
                partitions=owned or "all",
            )
            reported = True
        stop.wait(_LOCK_WAIT)


@contextmanager
def lock_partitions(data: Path, partitions: Collection[int]) -> Iterator[bool]:
    """Lock these partitions of the data folder for the block; False if another process learns one of them.

    A lock is one byte per partition of one file. The operating system releases it when the process ends, in any way.
    """
    folder = data / "learn"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        try:
            for partition in sorted(partitions):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, partition)
        except (BlockingIOError, PermissionError):
            yield False
            return
        yield True


def _run(
    settings: Settings,
    plan_source: Callable[[], Plan],
    stop: threading.Event,
    clock: Callable[[], float] | None,
    owned: Sequence[int] | None,
) -> bool:
    """Learn until stopped, or without a `clock` until the end of the streams; False if a new learner is needed.

    That is so if the file was lost, or if another learner got the leases while this one did not renew them.
    """
    learner, client = Learner(settings, owned), stream.connect_stream(settings.redis)
    leases = learner.leases(client)
    drain: Drain | None = None
    renewing = ExitStack()
    wait, outage = INTERVAL, LogOnce("learning waits", "learning continues")
    thresholds = gc.get_threshold()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        if not _await_leases(learner, leases, stop, is_patient=clock is not None):
            return True
        renewing.enter_context(leases.renewing(renewing.enter_context(stream.connect_stream(settings.redis))))
        drain = Drain(settings, client, "shipped") if clock is None else None
        while not stop.is_set():
            try:
                # Asked before the batch is read: what arrives in between is then read by the next one.
                all_shipped = drain is not None and _all_shipped(drain)
                if learner.hand_over_if_lost() or not _holds(leases):
                    return False
                began = time.time()
                busy = learner.step(plan_source(), None if clock is None else clock())
                if busy:
                    record_batch("learn.batch", began)
                wait = INTERVAL
                outage.over()
            except StoreUnavailable as error:
                if clock is None:
                    raise
                outage.failed(error)
                busy, wait = False, min(2 * wait, LONGEST_WAIT)
            if all_shipped and not busy:
                return True
            if not busy:
                stop.wait(wait)
        _publish_last(learner)
        return True
    finally:
        gc.set_threshold(*thresholds)
        renewing.close()
        if drain is not None:
            drain.close()
        with suppress(RedisError):  # they end by themselves
            leases.release()
        client.close()
        learner.close()


def _await_leases(learner: Learner, leases: PartitionLeases, stop: threading.Event, *, is_patient: bool) -> bool:
    """Wait until no other learner has a lease on the partitions; False if `stop` was set before.

    Raises:
        BadInput: unless `is_patient`, if the lease is renewed: one that a killed learner left ends within `SECONDS`.
        StoreUnavailable: if the store does not answer, unless `is_patient`.
    """
    deadline = time.monotonic() + SECONDS + _LOCK_WAIT
    reported, outage = False, LogOnce("learning waits", "learning continues")
    while not stop.is_set():
        try:
            if _holds(leases):
                return True
            with store_errors("reading erasures"):
                learner.erase_announced()
            outage.over()
        except StoreUnavailable as error:
            if not is_patient:
                raise
            outage.failed(error)
        else:
            if not is_patient and time.monotonic() > deadline:
                raise BadInput("another learner of this store has the partitions; stop it, or leave the work to it")
            if not reported:
                _log.warning("another learner has a lease on the partitions; waiting to take over")
                reported = True
        stop.wait(_LOCK_WAIT)
    return False


def _holds(leases: PartitionLeases) -> bool:
    with store_errors("renewing the leases on the partitions"):
        return leases.hold()


def _publish_last(learner: Learner) -> None:
    """Publish policies that wait for their second; without the store they stay in the file."""
    try:
        learner.publish_last()
    except StoreUnavailable as error:
        _log.warning("the last lessons are not published; they are in the learner's file", error=str(error))


def _all_shipped(drain: Drain) -> bool:
    """Whether every spool of this machine is in the streams."""
    with store_errors("waiting for the spools"):
        return drain.done()
