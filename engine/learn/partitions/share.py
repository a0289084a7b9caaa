"""The share of one learner in the work of several.

Every learner reads and joins the records of all partitions, in one order. So all of them know the same decisions,
merges and rewards: a visitor who logs in may be of any partition then. Invariants:

- A lesson and a record for the log belong to one partition, and the learner that owns it teaches or logs them.
- What no partition has (guardrails, changes of reward rates, prices, numbers of records set aside) is counted by the
  owner of partition `FIRST`, over all records.
- A stream is trimmed once its owner and every other learner have read it: the owner commits as `learner`, the others
  as `learner/PARTITIONS`.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from engine import keyspace
from engine.journal import stream
from engine.learn.reward_rules import Lesson

MARK = "/"
"""Separates a part's name from its selection's key, which cannot contain it."""
FIRST = 0
"""The partition whose owner counts what is counted once; trips and changes are logged in it."""
T = TypeVar("T")


class PartitionShare:
    """The partitions that a learner owns: some, or all of them (`owned` is None)."""

    def __init__(self, owned: Sequence[int] | None, partitions: int) -> None:
        self.is_all = owned is None
        self.partitions: Collection[int] = frozenset(range(partitions) if owned is None else owned)
        self.suffix = "" if owned is None else MARK + "-".join(map(str, sorted(set(owned))))
        """What its parts and its positions are named after."""
        self.leads = FIRST in self.partitions

    def owns(self, partition: int) -> bool:
        """Whether this learner teaches decisions of a partition, which may have appeared since the start."""
        return self.is_all or partition in self.partitions

    def lessons(self, lessons: Sequence[Lesson]) -> Sequence[Lesson]:
        """The lessons that this learner teaches."""
        return lessons if self.is_all else [lesson for lesson in lessons if self.owns(lesson.row.partition)]

    def logged(self, records: Iterable[tuple[int, T]]) -> Iterable[tuple[int, T]]:
        """The records, each with its partition, that this learner adds to the log."""
        return records if self.is_all else [one for one in records if self.owns(one[0])]

    def commit(self, client: stream.StreamClient, progress: stream.Progress) -> None:
        """Release the records up to `progress` on behalf of this learner."""
        pipeline = client.pipeline(transaction=False)
        for partition, position in progress.positions.items():
            pipeline.hset(keyspace.partition(partition).positions, self._reader(partition), position)
        pipeline.execute()

    def committed(self, client: stream.StreamClient, stored: stream.Progress | None, partitions: int) -> dict[int, str]:
        """The positions up to which records are released to this learner, of the partitions that have one.

        In a partition of another learner that is what this one committed. Where it never did, a new file begins with
        all that the stream has, and an older one (`stored`), for which nothing was retained, where the owner is.
        """
        found: dict[int, str] = {}
        for partition in range(partitions):
            names = [self._reader(partition)]
            if stored is not None and partition in stored.positions:
                names.append(stream.LEARNER)
            known = client.hmget(keyspace.partition(partition).positions, names)
            position = next((one for one in known if one), None)
            if position is not None:
                found[partition] = position.decode() if isinstance(position, bytes) else str(position)
        return found

    def is_registered(self, client: stream.StreamClient, partitions: int) -> bool:
        """Whether the streams retain everything that this learner has not read, in every partition."""
        return all(client.hexists(keyspace.partition(p).positions, self._reader(p)) for p in range(partitions))

    def drop_former(self, client: stream.StreamClient, partitions: int) -> None:
        """Release what the streams retain for former learners of partitions that this learner owns now."""
        for partition in range(partitions):
            names = keyspace.partition(partition).positions
            for field in client.hkeys(names):
                reader = field.decode() if isinstance(field, bytes) else str(field)
                if reader.startswith(stream.LEARNER + MARK) and reader != stream.LEARNER + self.suffix:
                    others = frozenset(int(one) for one in reader.partition(MARK)[2].split("-") if one.isdigit())
                    if self.is_all or others & frozenset(self.partitions):
                        client.hdel(names, reader)

    def _reader(self, partition: int) -> str:
        """The name under which this learner commits its position in a partition."""
        return stream.LEARNER if self.owns(partition) else stream.LEARNER + self.suffix
