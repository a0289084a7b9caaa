"""The lag of the readers of the streams, as the store reports it.

A reader commits the position of the last entry that it has stored. What comes after it is not in the log, or not
learnt.
"""

from typing import NamedTuple

from redis.exceptions import RedisError

from engine import keyspace
from engine.errors import StoreUnavailable
from engine.journal.spool.ship import AsyncStreamClient
from engine.journal.stream import position_key


class StreamLag(NamedTuple):
    """A reader's lag in one partition, which retains `entries`.

    `seconds` is the time between its position and the newest entry, `position` that of its position (s since 1970; 0
    before the first).
    """

    reader: str
    partition: int
    entries: int
    seconds: float
    position: float


async def read_stream_lags(client: AsyncStreamClient) -> list[StreamLag]:
    """The lag of every registered reader in every partition.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    lags: list[StreamLag] = []
    try:
        for partition in sorted(map(int, await client.smembers(keyspace.PARTITIONS))):
            names = keyspace.partition(partition)
            entries = int(await client.xlen(names.stream))
            newest = await client.xrevrange(names.stream, count=1)
            positions = await client.hgetall(names.positions)
            first = await client.xrange(names.stream, count=1)
            for reader, position in positions.items():
                at, _ = position_key(_text(position))
                end = position_key(_text(newest[0][0]))[0] if newest else at
                begin = position_key(_text(first[0][0]))[0] if first else end
                seconds = max(0.0, end - max(at, begin)) / 1000  # one that has not begun waits since the first entry
                lags.append(StreamLag(_text(reader), partition, entries, seconds, at / 1000))
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"reading the streams' lag: {error}") from error
    return lags


def _text(value: bytes | str | None) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or "0-0"
