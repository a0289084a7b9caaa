"""The customers to examine, and each channel's messages by due time.

| key | has | added to | left |
|---|---|---|---|
| roster, 16 shards | every customer, by key | around each event, if the plan sends | once they are gone |
| looks, by shard | customers to look at for moments, by when | with the roster | at the look, or moved |
| due, by channel | messages that wait or are leased, by when | by the planner | sent, dropped |
| minutes, by channel | messages taken in each minute | by a take | after the capacity's period |

Invariants: an event notes its customer before the profile changes, for a look a minute later, and again afterwards, for
one at once: a crash in between loses no look. A sweep goes over the roster page by page and stores how far it has come
after each page, so that a crash repeats a page and leaves none out.
"""

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine import keyspace
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline, RedisReply, load_script
from engine.due.sends import SendKey
from engine.errors import StoreUnavailable

SHARDS = 16
SAFETY_SECONDS = 60.0
"""After a note whose event may still be on its way to the profile."""
DONE = "done"
MOMENTS = "moments"
MANY = 1000

_TAKE = load_script(Path(__file__).with_name("take.lua"))
_LOOKED = load_script(Path(__file__).with_name("looked.lua"))


class Look(NamedTuple):
    """A customer to examine, and the time (s since 1970)."""

    key: ProfileKey
    at: float


class LeasedPage(NamedTuple):
    """The leased messages, their former times, and the remaining capacity (None: no limit)."""

    places: list[SendKey]
    times: list[float]
    left: int | None


class DueIndex:
    """The indexes in one Redis. Every method raises StoreUnavailable if Redis does not answer in time."""

    def __init__(self, pipeline: RedisPipeline) -> None:
        self._pipeline = pipeline

    async def note(self, keys: Iterable[ProfileKey], at: float) -> None:
        """Put customers on the roster, to be examined at `at` (s since 1970)."""
        by_shard: dict[int, list[ProfileKey]] = {}
        for key in keys:
            by_shard.setdefault(shard_of(key), []).append(key)
        commands = []
        for shard, members in by_shard.items():
            for start in range(0, len(members), MANY):
                part = members[start : start + MANY]
                roster = [item for key in part for item in (0, key)]
                looks = [item for key in part for item in (repr(at), key)]
                commands.append(self._pipeline.send("ZADD", keyspace.roster(shard), *roster))
                commands.append(self._pipeline.send("ZADD", keyspace.roster_looks(shard), *looks))
        await asyncio.gather(*commands)

    async def note_later(self, looks: Iterable[Look]) -> None:
        """Examine customers of the roster at these times; an earlier time stays and then finds the next one."""
        by_shard: dict[int, list[str]] = {}
        for look in looks:
            by_shard.setdefault(shard_of(look.key), []).extend((repr(look.at), look.key))
        await asyncio.gather(
            *(self._pipeline.send("ZADD", keyspace.roster_looks(shard), "LT", *of) for shard, of in by_shard.items())
        )

    async def forget(self, keys: Iterable[ProfileKey]) -> None:
        """Remove erased customers from the roster."""
        places = [(key, roster(shard_of(key))) for key in keys for roster in (keyspace.roster, keyspace.roster_looks)]
        await asyncio.gather(*(self._pipeline.send("ZREM", name, key) for key, name in places))

    async def list_looks(self, now: float, limit: int) -> list[Look]:
        """Up to `limit` customers of each shard who are due to be examined, the earliest first."""
        command = ("-inf", repr(now), "WITHSCORES", "LIMIT", 0, limit)
        replies = await asyncio.gather(
            *(self._pipeline.send("ZRANGEBYSCORE", keyspace.roster_looks(shard), *command) for shard in range(SHARDS))
        )
        return [look for reply in replies for look in _looks(reply)]

    async def end_look(self, look: Look, next_look: float | None, *, is_gone: bool) -> None:
        """Store a customer's next time; one who `is_gone` leaves the roster. A newer note stays."""
        shard = shard_of(look.key)
        later = "" if next_look is None else repr(next_look)
        keys = (keyspace.roster_looks(shard), keyspace.roster(shard))
        await self._pipeline.call(_LOOKED, keys, (look.key, repr(look.at), later, "1" if is_gone else "0"))

    async def read_page(self, shard: int, after: str, limit: int) -> list[ProfileKey]:
        """The customers of a shard after the key `after`, in key order."""
        start = f"({after}" if after else "-"
        reply = await self._pipeline.send("ZRANGEBYLEX", keyspace.roster(shard), start, "+", "LIMIT", 0, limit)
        return [key.decode() for key in _texts(reply)]

    async def read_progress(self, names: Sequence[str]) -> list[str]:
        """The progress of each of these; empty if it has not begun."""
        if not names:
            return []
        reply = await self._pipeline.send("HMGET", keyspace.ROSTER_PROGRESS, *names)
        if not isinstance(reply, list):
            raise TypeError(f"HMGET answered {reply!r}")
        return [value.decode() if isinstance(value, bytes) else "" for value in reply]

    async def store_progress(self, name: str, progress: str) -> None:
        """Store the progress of one campaign's day."""
        await self._pipeline.send("HSET", keyspace.ROSTER_PROGRESS, name, progress)

    async def forget_progress(self, current: Iterable[str]) -> None:
        """Delete the progress of days that are over: all but `current` and `moments`."""
        reply = await self._pipeline.send("HKEYS", keyspace.ROSTER_PROGRESS)
        stale = {name.decode() for name in _texts(reply)} - {MOMENTS, *current}
        if stale:
            await self._pipeline.send("HDEL", keyspace.ROSTER_PROGRESS, *stale)

    async def note_all(self, now: float) -> int:
        """Put every stored customer on the roster after a change of the plan; returns the number of keys."""
        noted = 0
        async for names in self._pipeline.scan(keyspace.profile("[0-9a-f]" * 24)):
            keys = [name[4:-1] for name in names]  # of `cp:{KEY}`
            await self.note(keys, now)
            noted += len(keys)
        return noted

    async def forget_noted(self) -> None:
        """Mark all customers to be put on the roster in the next step."""
        await self._pipeline.send("HDEL", keyspace.ROSTER_PROGRESS, MOMENTS)

    async def add(self, channel: str, place: SendKey, at: float) -> None:
        """Store that a message of a channel is due at `at` (s since 1970), replacing an earlier time."""
        await self._pipeline.send("ZADD", keyspace.due(channel), repr(at), place.member)

    async def remove(self, channel: str, place: SendKey) -> None:
        """Drop a message from the index."""
        await self._pipeline.send("ZREM", keyspace.due(channel), place.member)

    async def take(
        self, channel: str, limit: int, capacity: tuple[int, float] | None, now: float, lease: float
    ) -> LeasedPage:
        """Lease up to `limit` messages for `lease` seconds, within the channel's capacity."""
        count, period = capacity or ("", 0.0)
        keys = (keyspace.due(channel), keyspace.due_capacity(channel))
        reply = await self._pipeline.call(_TAKE, keys, (repr(now), repr(lease), limit, count, repr(period)))
        if not isinstance(reply, list) or not isinstance(reply[0], int):
            raise StoreUnavailable(f"a take of {channel} answered {reply!r}; ask again")
        found = [item for item in reply[1:] if isinstance(item, bytes)]
        places = [SendKey.parse(member) for member in found[::2]]
        return LeasedPage(places, [float(at) for at in found[1::2]], None if capacity is None else reply[0])

    async def read_places(self, channel: str, start: int, count: int) -> list[SendKey]:
        """The messages of a channel's index from a rank on, the latest first."""
        reply = await self._pipeline.send("ZREVRANGE", keyspace.due(channel), start, start + count - 1)
        return [SendKey.parse(member) for member in _texts(reply)]

    async def give_back(self, channel: str, taken: float, count: int = 1) -> None:
        """Return unsent messages to the capacity of the minute in which they were taken."""
        await self._pipeline.send("HINCRBY", keyspace.due_capacity(channel), int(taken // 60), -count)

    async def count_due(self, channel: str, now: float) -> int:
        """The number of messages of a channel that are due."""
        reply = await self._pipeline.send("ZCOUNT", keyspace.due(channel), "-inf", repr(now))
        return reply if isinstance(reply, int) else 0


def shard_of(key: ProfileKey) -> int:
    """The shard of a customer's key."""
    return int(key[0], 16)


def _looks(reply: object) -> list[Look]:
    """The members of a reply with their scores: pairs, or in turn where the store speaks the older protocol."""
    if not isinstance(reply, list):
        raise TypeError(f"the store answered {reply!r} in place of a list")
    pairs = reply if reply and isinstance(reply[0], list | tuple) else zip(reply[::2], reply[1::2], strict=True)
    return [Look(member.decode(), float(score)) for member, score in pairs]


def _texts(reply: RedisReply) -> list[bytes]:
    if not isinstance(reply, list):
        raise TypeError(f"the store answered {reply!r} in place of a list")
    return [item for item in reply if isinstance(item, bytes)]
