"""Leases on partitions in the store: one learner teaches a partition, on whichever machine it runs.

A learner holds the lease of each of its partitions, or of none. A thread renews them while it works (`renewing`), so
that a long batch does not lose them. A process that was stopped finds out before it publishes, since `hold` asks the
store once the last renewal is old. A lease that another learner got is lost for good: this one must start over.

    free --hold--> held --hold within SECONDS--> held --no renewal for SECONDS, or release--> free

The holder is named by its file, so one that is killed and started again on its file goes on at once. A learner with
another file waits until the lease ends, and continues from the published snapshots and positions.

The sets of partitions that learners were started with are registered. A set of which no partition is leased has lost
its learner; the others find it here (`lost_sets`) and one of them takes its place.
"""

import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from redis.exceptions import RedisError

from engine import keyspace
from engine.journal.stream import StreamClient

SECONDS = 10.0
"""After the last renewal, when a lease ends."""
_RENEW_SECONDS = 2.0
_HOLD = Path(__file__).with_name("lease.lua").read_text(encoding="utf-8")
_RELEASE = Path(__file__).with_name("release.lua").read_text(encoding="utf-8")


class PartitionLeases:
    """The leases of one learner, named `holder`, on its partitions."""

    def __init__(
        self, client: StreamClient, holder: str, partitions: Collection[int], *, seconds: float = SECONDS
    ) -> None:
        self._client = client
        self._holder = holder
        self._partitions = sorted(partitions)
        self._seconds = seconds
        self._renewed = float("-inf")
        self._lock = threading.Lock()  # the learner and the thread of `renewing` both renew
        self._every = min(_RENEW_SECONDS, self._seconds / 5)
        self.is_held = False
        self.is_lost = False
        """Whether another learner got one of the leases after this one had all."""

    def hold(self) -> bool:
        """Take or renew the leases; False if another learner has one of them, and then this one has none.

        Raises:
            redis.RedisError: if the store does not answer.
        """
        with self._lock:
            return self._hold()

    @contextmanager
    def renewing(self, client: StreamClient) -> Iterator[None]:
        """Renew held leases in a thread during the block, through a client of the thread's own."""
        ended = threading.Event()

        def renew() -> None:
            while not ended.wait(self._every):
                with self._lock, suppress(RedisError):  # the learner's loop reports the outage
                    if self.is_held:
                        self._hold(client)

        thread = threading.Thread(target=renew, name="leases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def release(self) -> None:
        """Release the leases, so that another learner need not wait until they expire."""
        with self._lock:
            self._release(self._client)

    def _hold(self, client: StreamClient | None = None) -> bool:
        client, now = client or self._client, time.monotonic()
        if self.is_lost:
            return False
        if self.is_held and now - self._renewed < self._every:
            return True
        self.is_held = True  # before: a lease whose reply was lost is given back as well
        for partition in self._partitions:
            lease = keyspace.partition_lease(partition)
            if _text(client.eval(_HOLD, 1, lease, self._holder, int(self._seconds * 1000))) != self._holder:
                self.is_lost = self._renewed > float("-inf")
                self._release(client)
                return False
        self._renewed = now
        return True

    def _release(self, client: StreamClient) -> None:
        if self.is_held:
            self.is_held = False
            for partition in self._partitions:
                client.eval(_RELEASE, 1, keyspace.partition_lease(partition), self._holder)


def register_set(client: StreamClient, partitions: Collection[int] | None) -> None:
    """Register the partitions of a learner that starts, in place of sets that share one with it; None is all."""
    for other in registered_sets(client):
        if partitions is None or set(other) & set(partitions):
            client.hdel(keyspace.LEARNER_SETS, _name(other))
    if partitions is not None:
        client.hset(keyspace.LEARNER_SETS, _name(partitions), str(int(time.time())))


def registered_sets(client: StreamClient) -> list[list[int]]:
    """The sets of partitions that learners were started with."""
    names = [_text(name).split("-") for name in client.hkeys(keyspace.LEARNER_SETS)]
    return sorted([int(one) for one in name] for name in names if all(one.isdigit() for one in name))


def lost_sets(client: StreamClient) -> list[list[int]]:
    """The registered sets of partitions that no learner has a lease on."""
    return [one for one in registered_sets(client) if not any(map(client.exists, map(keyspace.partition_lease, one)))]


def _name(partitions: Iterable[int]) -> str:
    return "-".join(map(str, sorted(partitions)))


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
