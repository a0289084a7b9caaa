"""The backfill: computes the traits of every customer of the log, and writes them to their profiles.

Live events go on meanwhile. A profile is written only over what was read of it, with the events that it has counted by
then: its digests of messages say which. A customer who has counted a message that is neither in the log nor in a stream
is read again after `PAUSE`; a message that is still nowhere then never comes, and they are written without it.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import msgspec

from engine.backfill.logged_events import EventLog, LoggedEvent
from engine.backfill.replay import counted_events, replay_events, with_traits
from engine.catalog.spec.profile_rules import ProfileRules
from engine.customer import Profile
from engine.customers.redis.counted import message_digest
from engine.customers.rewrite import RewriteOutcome, rewrite_customer
from engine.customers.store import ProfileStore

PAUSE = 2.0
ROUNDS = 5
TOGETHER = 64
"""Customers that are written at once."""

_Customer = tuple[str, list[LoggedEvent]]


class Backfilled(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of customers: in the log, written, unchanged, not in the store, and left undone."""

    traits: list[str]
    customers: int = 0
    written: int = 0
    unchanged: int = 0
    missing: int = 0
    behind: int = 0


async def backfill(store: ProfileStore, log: EventLog) -> Backfilled:
    """Write the traits defined by the store's rules to every customer of the log.

    Raises:
        StoreUnavailable: if the store does not answer.
    """
    rules = store.rules
    events = sorted(rules.computed.by_event)
    counts: dict[RewriteOutcome, int] = dict.fromkeys(("written", "unchanged", "missing", "behind"), 0)
    unlogged: dict[str, set[bytes]] = {}
    behind: Sequence[str] = ()
    seen = 0
    for number in range(ROUNDS):
        if number and not behind:
            break
        if number:
            await asyncio.sleep(PAUSE)
        left: list[str] = []
        for batch in _batches(log.by_customer(events, behind)):
            outcomes = await asyncio.gather(*(_write(store, rules, one, unlogged) for one in batch))
            seen += len(batch) if not number else 0
            for (customer, _), outcome in zip(batch, outcomes, strict=True):
                if outcome == "behind":
                    left.append(customer)
                else:
                    counts[outcome] += 1
        behind = left
    counts["behind"] = len(behind)
    return Backfilled(traits=sorted(rules.computed.names), customers=seen, **counts)


async def _write(
    store: ProfileStore, rules: ProfileRules, one: _Customer, unlogged: dict[str, set[bytes]]
) -> RewriteOutcome:
    customer, events = one
    now = time.time()

    def change(profile: Profile, marks: set[bytes]) -> Profile | None:
        nowhere = marks - {message_digest(event.message_id) for event in events}
        if nowhere - unlogged.get(customer, set()):
            unlogged[customer] = nowhere
            return None
        return with_traits(profile, replay_events(counted_events(events, marks, now), rules), rules)

    return await rewrite_customer(store, customer, change, now)


def _batches(customers: Iterable[_Customer]) -> Iterator[list[_Customer]]:
    found = iter(customers)
    while batch := list(islice(found, TOGETHER)):
        yield batch
