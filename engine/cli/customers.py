"""A person's data, handed out or deleted everywhere; the learnt policies, kept and set back."""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import AsJson, Data, Folder, Redis, app, at_store, count, grid, out, print_json, say
from engine.errors import BadInput
from engine.settings import from_environment

if TYPE_CHECKING:
    from engine.erasure.profiles import Export

SECONDS = 5.0
Customer = Annotated[str, Parameter(help="Any id the customer is known by.")]
PolicyKey = Annotated[str, Parameter(help="A placement's policy, home_hero, or a variant's own, experiment.variant.")]

policy = cyclopts.App(name="policy", help="The learnt policies: what is kept of them, and the way back.")
app.command(policy)


@app.command
def export(customer: Customer, *, data: Data = None, redis: Redis = None, json: AsJson = True) -> int:  # noqa: ARG001 (it always is)
    """Hand out all that is kept of a customer, found by any of their ids, as one JSON document."""
    from engine.customers.customer_view import customer_view
    from engine.customers.redis.keys import identifier_spellings
    from engine.journal.log.export import export_rows

    with at_store(data, redis) as settings:
        found = asyncio.run(_export(settings.redis, customer))
        ids = identifier_spellings(customer)
        if found:
            ids |= {found.profile.id, *(value for values in found.profile.ids.values() for value in values)}
        rows = export_rows(settings.log, ids, settings.redis)
    if found is None and not any(rows.values()):
        raise BadInput(f"{customer!r}: nothing is kept under this id; give any id the customer was known by")
    profile = customer_view(found.profile, time.time(), found.counts) if found else None
    print_json({"customer": customer, "profile": profile, "log": rows})
    return 0


@app.command
def erase(customer: Customer, *, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """Delete a person everywhere: profile, aliases, caps, what is on its way, and the log."""
    from engine.erasure.learner_files import erase_from_learner_files
    from engine.erasure.log import erase_from_log

    with at_store(data, redis) as settings:
        ids = asyncio.run(_erase(settings.redis, customer))
    now = time.time()
    rows = erase_from_log(settings.log, ids, now) if settings.log.is_dir() else 0
    erase_from_learner_files(settings.data, ids, now)
    if json:
        print_json({"ids": sorted(ids), "rows": rows})
    else:
        say(f"Erased {count(len(ids), 'id')} and {count(rows, 'row')} of the log. Late events create nothing.")
    return 0


@policy.command
def rollback(
    key: PolicyKey,
    *,
    version: Annotated[
        int | None, Parameter(help="A kept version; by default one step back, and each time one more.")
    ] = None,
    data: Data = None,
    redis: Redis = None,
) -> int:
    """Go back to an earlier snapshot; every server has it within a second and the learner goes on from there."""
    from engine.learn.rollback import rollback as back

    with at_store(data, redis) as settings:
        say(f"{key}@{back(settings, key, version)} is current now.")
    return 0


@policy.command
def versions(key: PolicyKey, *, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """List the snapshots of a policy that are kept, the current one first."""
    from engine.learn.rollback import versions as kept

    with at_store(data, redis) as settings:
        found = kept(settings, key)
    if json:
        print_json([{"version": h.version, "time": h.time, "learnt": n, "digest": h.digest} for h, n in found])
        return 0
    table = grid("version", "learnt from", "published (UTC)", "digest")
    for header, rewards in found:
        published = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(header.time))
        learnt = "damaged" if rewards is None else count(round(rewards), "reward")
        table.add_row(f"{key}@{header.version}", learnt, published, header.digest[:12])
    out.print(table)
    return 0


@policy.command(name="warm-start")
def warm_start(
    key: PolicyKey,
    source: Annotated[Path, Parameter(help="The log's folder or the table.")],
    *,
    experiments: Folder = None,
    data: Data = None,
    redis: Redis = None,
) -> int:
    """Learn from an old log folder, or from a Parquet or CSV table with arm, reward, propensity and the traits."""
    from engine.catalog import load_plan
    from engine.learn.warm_start import warm_start as warm

    plan = load_plan(from_environment(experiments=experiments).experiments)
    with at_store(data, redis) as settings:
        done = warm(settings, plan, key, source)
    say(f"{key}@{done.version} is current now, from {count(done.learnt, 'reward')}.")
    for reason, number in done.unused.items():
        say(f"{count(number, 'row')} left aside: {reason}")
    return 0


@policy.command
def close(key: PolicyKey, *, data: Data = None, redis: Redis = None) -> int:
    """Close the circuit breaker of a selection again, after its guardrail was looked into."""
    from engine.journal import stream
    from engine.snapshots.publish import close_breaker, store_errors

    with (
        at_store(data, redis) as settings,
        stream.connect_stream(settings.redis) as client,
        store_errors("closing a breaker"),
    ):
        closed = close_breaker(client, key)
    say(f"{key}: closed; its offers show again within a second." if closed else f"{key}: was not open.")
    return 0 if closed else 1


async def _export(redis: str, customer: str) -> "Export | None":
    from engine.customers.store import ProfileStore
    from engine.erasure.profiles import export_profile

    store = ProfileStore.open(redis, timeout=SECONDS)
    try:
        return await export_profile(store, customer)
    finally:
        await store.close()


async def _erase(redis: str, customer: str) -> set[str]:
    from engine.customers.redis.keys import identifier_spellings
    from engine.customers.store import ProfileStore
    from engine.erasure.profiles import erase_profile
    from engine.service.idempotency import delete_answers

    store = ProfileStore.open(redis, timeout=SECONDS)
    try:
        gone = await erase_profile(store, customer, delete_answers)
    finally:
        await store.close()
    return {*identifier_spellings(customer), *(value for values in gone.values() for value in values)}
