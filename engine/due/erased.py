"""Deletes the stored messages of erased customers.

A message in the state `drawn` has records with the customer's ids, and may stay in it for its life if its process died.
The others have keyed hashes only. Deleted are messages, their places in the roster and the indexes, and their leases.
The lease of an earlier hand-out stays for its day; it leads to no message.
"""

import asyncio
from collections.abc import Set as AbstractSet

from engine import keyspace
from engine.customers.redis.keys import ProfileKey
from engine.customers.redis.pipeline import RedisPipeline
from engine.due.customers import FoundCustomer, read_customers
from engine.due.index import DueIndex
from engine.due.sends import SendKey, read_sends
from engine.errors import UnreadableValueError

_BEFORE, _BETWEEN, _ = keyspace.due_message("|", "|").split("|")


async def delete_messages_of(pipeline: RedisPipeline, keys: AbstractSet[ProfileKey]) -> None:
    """Delete the messages to erased customers, by the keys of all their identifiers. Scans all messages.

    A device's key that leads to another customer by now is left out. May be repeated.

    Raises:
        StoreUnavailable: if Redis does not answer in time.
    """
    found = await read_customers(pipeline, keys)
    gone = {key for key, customer in found.items() if not isinstance(customer, FoundCustomer)}
    if not gone:
        return
    index = DueIndex(pipeline)
    await index.forget(gone)
    async for names in pipeline.scan(keyspace.due_message("*", "*")):
        places = [place for place in map(_parse, names) if place.key in gone]
        await asyncio.gather(*(_delete(pipeline, index, place) for place in places))


def _parse(name: str) -> SendKey:
    key, _, cause = name.removeprefix(_BEFORE).partition(_BETWEEN)
    return SendKey(key, cause)


async def _delete(pipeline: RedisPipeline, index: DueIndex, place: SendKey) -> None:
    """Delete one message, its own value last, since it points to the rest."""
    try:
        [stored] = await read_sends(pipeline, [place])
    except UnreadableValueError:  # its place in the index goes when it is due
        send = None
    else:
        send = stored.send
    if send is not None and send.channel:
        await index.remove(send.channel, place)
    if send is not None and send.decision_id:
        await pipeline.send("DEL", keyspace.due_lease(send.decision_id))
    await pipeline.send("DEL", keyspace.due_message(*place))
