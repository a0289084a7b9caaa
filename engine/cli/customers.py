"""Verbs for one customer's data (`export`, `erase`), and for the learnt policies (`policy …`)."""

import os
import time
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import cyclopts
from cyclopts import Parameter

from engine.cli.app import (
    CUSTOMERS,
    RUN,
    AsJson,
    Data,
    Folder,
    Redis,
    app,
    format_count,
    new_table,
    open_store,
    out,
    print_json,
    print_line,
)
from engine.errors import BadInput, require_extras
from engine.settings import Settings, from_environment
from engine.vocabulary import CUSTOMER_ERASED, CUSTOMER_EXPORTED

if TYPE_CHECKING:
    from engine.erasure.profiles import Export

STORE_SECONDS = 5.0
"""Seconds that a verb waits for the store; a decision would not."""
Customer = Annotated[str, Parameter(help="Any id of the customer.")]
PolicyKey = Annotated[str, Parameter(help="A placement's policy, home_hero, or a variant's own, experiment.variant.")]

policy = cyclopts.App(
    name="policy", help="List, roll back or warm-start the learnt policies; close a breaker.", group=RUN
)
app.command(policy)


@app.command(group=CUSTOMERS)
def export(customer: Customer, *, data: Data = None, redis: Redis = None, json: AsJson = True) -> int:  # noqa: ARG001 (always JSON)
    """Export everything stored about a customer, found by any of their ids, as one JSON document."""
    import asyncio

    from engine.customers.customer_view import customer_view
    from engine.customers.redis.keys import identifier_spellings
    from engine.journal.log.export import export_rows

    with open_store(data, redis) as settings:
        stored = asyncio.run(_export(settings.redis, customer))
        ids = identifier_spellings(customer)
        if stored:
            ids |= {stored.profile.id, *(value for values in stored.profile.ids.values() for value in values)}
        rows = export_rows(settings.log, ids, settings.redis)
        if stored is None and not any(rows.values()):
            raise BadInput(f"{customer!r}: nothing is stored under this id; give any other id of the customer")
        _record_audit(settings, CUSTOMER_EXPORTED, {})
    profile = customer_view(stored.profile, time.time(), stored.counts) if stored else None
    coupons = stored.coupons if stored else []
    print_json({"customer": customer, "profile": profile, "log": rows, "coupons": coupons})
    return 0


@app.command(group=CUSTOMERS)
def erase(customer: Customer, *, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """Erase a customer everywhere: profile, aliases, caps, records in flight, learner's files and log."""
    import asyncio

    from engine.erasure.learner_files import erase_from_learner_files

    if is_here := from_environment(data=data).log.is_dir():  # another machine's log is its collector's to erase from
        require_extras("counterpoint erase", "analysis")
    with open_store(data, redis) as settings:
        ids = asyncio.run(_erase(settings.redis, customer))
        now = time.time()
        rows = 0
        if is_here:
            from engine.erasure.log import erase_from_log

            rows = erase_from_log(settings.log, ids, now)
        erase_from_learner_files(settings.data, ids, now)
        _record_audit(settings, CUSTOMER_ERASED, {"rows": rows})
    if json:
        print_json({"ids": sorted(ids), "rows": rows})
    else:
        erased = f"{format_count(len(ids), 'id')} and {format_count(rows, 'row')} of the log"
        print_line(f"Erased {erased}. Late events of this customer are rejected.")
    return 0


@policy.command
def rollback(
    key: PolicyKey,
    *,
    version: Annotated[
        int | None, Parameter(help="A stored version; by default one step back, and each time one more.")
    ] = None,
    data: Data = None,
    redis: Redis = None,
) -> int:
    """Roll back to an earlier snapshot: every server has it within a second and the learner continues from it."""
    from engine.learn.rollback import rollback as roll_back

    with open_store(data, redis) as settings:
        print_line(f"{key}@{roll_back(settings, key, version)} is current now.")
    return 0


@policy.command
def versions(key: PolicyKey, *, data: Data = None, redis: Redis = None, json: AsJson = False) -> int:
    """List the stored snapshots of a policy, the current one first."""
    from engine.learn.rollback import versions as stored_versions

    with open_store(data, redis) as settings:
        stored = stored_versions(settings, key)
    if json:
        print_json([{"version": h.version, "time": h.time, "learnt": n, "digest": h.digest} for h, n in stored])
        return 0
    table = new_table("version", "learnt from", "published (UTC)", "digest")
    for header, rewards in stored:
        published = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(header.time))
        learnt = "damaged" if rewards is None else format_count(round(rewards), "reward")
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
    """Teach a policy from an old log, or from a Parquet or CSV table with arm, reward, propensity and the traits."""
    from engine.catalog import load_plan
    from engine.learn.warm_start import warm_start as start_warm

    require_extras("counterpoint policy warm-start", "analysis")
    own = from_environment(experiments=experiments, data=data)
    plan = load_plan(own.experiments, own.plans)
    with open_store(data, redis) as settings:
        started = start_warm(settings, plan, key, source)
    print_line(f"{key}@{started.version} is current now, from {format_count(started.learnt, 'reward')}.")
    for reason, number in started.unused.items():
        print_line(f"{format_count(number, 'row')} not used: {reason}")
    return 0


@policy.command
def close(key: PolicyKey, *, data: Data = None, redis: Redis = None) -> int:
    """Close the circuit breaker of a selection, after its guardrail was looked into; exit 1 if it was not open."""
    from engine.journal import stream
    from engine.snapshots.publish import close_breaker, store_errors

    with (
        open_store(data, redis) as settings,
        stream.connect_stream(settings.redis) as client,
        store_errors("closing a breaker"),
    ):
        closed = close_breaker(client, key)
    print_line(f"{key}: closed; its offers show again within a second." if closed else f"{key}: was not open.")
    return 0 if closed else 1


async def _export(redis: str, customer: str) -> "Export | None":
    from engine.customers.store import ProfileStore
    from engine.erasure.profiles import export_profile

    store = ProfileStore.open(redis, timeout=STORE_SECONDS)
    try:
        return await export_profile(store, customer)
    finally:
        await store.close()


def _record_audit(settings: Settings, event: str, properties: dict[str, object]) -> None:
    """Record that a user of this machine did this at the command line, without the customer's name."""
    from uuid import uuid4

    from engine.journal.audit import append_audit, ship_audit

    try:
        user = getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    by = {"by": f"{user}, command line", **properties}
    append_audit(settings, event, by, message_id=f"audit-{uuid4().hex}", now=time.time())
    ship_audit(settings)


async def _erase(redis: str, customer: str) -> set[str]:
    """Erase the profile, and return every id that belonged to it, in every spelling."""
    from engine.customers.redis.keys import identifier_spellings
    from engine.customers.store import ProfileStore
    from engine.erasure.profiles import erase_profile
    from engine.service.idempotency import delete_answers

    store = ProfileStore.open(redis, timeout=STORE_SECONDS)
    try:
        erased = await erase_profile(store, customer, delete_answers)
    finally:
        await store.close()
    return {*identifier_spellings(customer), *(value for values in erased.values() for value in values)}
