"""State *announced*: the stream of erasures from which servers, collectors and learners read what to delete.

An entry of `keyspace.ERASURES` has two fields:

    at     float as text: records made until then belong to the erasure (s since 1970)
    who    digests of the customer's identifiers (`identifier_digest`), separated by spaces

Entries older than `ERASURES_LIFE` are trimmed. `customers.erased_cache` reads the same stream on each server.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from engine.customers.redis.pipeline import RedisPipeline
from engine.journal.stream import Position, StreamClient
from engine.keyspace import ERASURES, ERASURES_LIFE

_ENTRIES_PER_READ = 1000


async def announce_erasure(wire: RedisPipeline, digests: Iterable[str], now: float, until: float) -> None:
    """Announce the erasure of the customer with these digests; it covers records made until `until` (s since 1970)."""
    oldest = int((now - ERASURES_LIFE) * 1000)
    await wire.send("XADD", ERASURES, "MINID", "~", oldest, "*", "at", repr(until), "who", " ".join(digests))
    await wire.send("PEXPIRE", ERASURES, int(ERASURES_LIFE * 1000))


def read_announcements(client: StreamClient, since: Position) -> tuple[Mapping[str, float], Position]:
    """The erasures announced after `since`, as digest -> `at`, and the position to read from next time."""
    announced: dict[str, float] = {}
    while True:
        pipeline = client.pipeline(transaction=False)
        pipeline.xread({ERASURES: since}, count=_ENTRIES_PER_READ)
        (reply,) = pipeline.execute()
        if not reply:
            return announced, since
        for entry, fields in reply[0][1]:
            since = entry.decode()
            with suppress(KeyError, ValueError):  # an entry of another program
                announced |= dict.fromkeys(fields[b"who"].decode().split(), float(fields[b"at"]))
