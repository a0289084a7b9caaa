"""Takes the place of learners that are gone: the partitions that nobody teaches get a learner beside this one.

Watches the leases of all registered sets. A set that was free for `PATIENCE` gets a process of its own here, on the
same data folder: if the lost learner used that folder, the new one has its file and nothing is missing. Otherwise it
continues from the store, without the decisions whose reward was open. Several survivors may start one at once: the
first to get the leases learns, the others wait.

A learner that comes back waits in turn. The processes end with this one.
"""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog
from redis.exceptions import RedisError

from engine.journal import stream
from engine.learn.partitions.leases import lost_sets, register_set
from engine.processes import Child, Supervisor, counterpoint_command
from engine.settings import Settings, settings_environment

PATIENCE = 5.0
"""Seconds for which a set's partitions are free before it counts as lost; a learner that restarts needs fewer."""
_LOOK_SECONDS = 1.0
_log = structlog.get_logger(__name__)


@contextmanager
def taking_over(settings: Settings, owned: Sequence[int] | None, *, is_substitute: bool = False) -> Iterator[None]:
    """Take over from learners that are gone, in a thread, while the block runs.

    A substitute does not, and a learner of all partitions has none to take over.
    """
    ended = threading.Event()
    watch = threading.Thread(target=_watch_sets, args=(settings, owned, ended), name="takeover", daemon=True)
    if not is_substitute:
        watch.start()
    try:
        yield
    finally:
        ended.set()
        if watch.is_alive():
            watch.join()


def _watch_sets(settings: Settings, owned: Sequence[int] | None, ended: threading.Event) -> None:
    """Register this learner's partitions once the store answers, then take over until `ended`."""
    while not ended.is_set():
        try:
            with stream.connect_stream(settings.redis) as client:  # a cluster is asked for its nodes here
                register_set(client, owned)
            break
        except RedisError:  # the learner's loop reports the outage
            ended.wait(_LOOK_SECONDS)
    if owned is not None:
        _take_over_lost(settings, owned, ended)


def _take_over_lost(settings: Settings, owned: Sequence[int], stop: threading.Event) -> None:
    """Start learners for sets of partitions that lost theirs, until `stop`; ends those that it started."""
    supervisor, taken = Supervisor(), set[tuple[int, ...]]()
    free_since: dict[tuple[int, ...], float] = {}
    try:
        while not stop.wait(_LOOK_SECONDS):
            supervisor.tend()
            try:
                with stream.connect_stream(settings.redis) as client:
                    lost = {tuple(one) for one in lost_sets(client)} - taken - {tuple(sorted(owned))}
            except RedisError:  # its loop reports the outage
                free_since.clear()
                continue
            now = time.monotonic()
            free_since = {one: free_since.get(one, now) for one in lost}
            for one, since in free_since.items():
                if now - since >= PATIENCE:
                    _log.warning("a learner is gone; taking over its partitions", partitions=list(one))
                    supervisor.add(_substitute(settings, one))
                    taken.add(one)
    finally:
        supervisor.end(together=True)


def _substitute(settings: Settings, partitions: Sequence[int]) -> Child:
    """The learner of a lost set, which takes over from no other."""
    words = [word for one in partitions for word in ("--partition", str(one))]
    command = counterpoint_command("learn", *words, "--quiet", "--substitute")
    name = f"learner of partition {', '.join(map(str, partitions))}"
    return Child(name, command, {**os.environ, **settings_environment(settings)})
