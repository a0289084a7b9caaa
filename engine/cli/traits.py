"""Verbs for the traits that the shop defines in traits.yaml."""

import cyclopts

from engine.cli.app import (
    CUSTOMERS,
    AsJson,
    Data,
    Folder,
    LogFolder,
    Redis,
    app,
    format_count,
    open_store,
    print_json,
    print_line,
)
from engine.errors import BadInput, require_extras
from engine.settings import from_environment

STORE_SECONDS = 10.0

traits = cyclopts.App(name="traits", help="Compute the traits of traits.yaml from the log.", group=CUSTOMERS)
app.command(traits)


@traits.command
def backfill(
    *,
    experiments: Folder = None,
    data: Data = None,
    log: LogFolder = None,
    redis: Redis = None,
    json: AsJson = False,
) -> int:
    """Write the traits of traits.yaml to every customer of the log, as if they had been defined from its first day.

    Run it after traits.yaml changed, while the servers run. Exit 1 if customers are left, who were written meanwhile;
    run it again.
    """
    require_extras("counterpoint traits backfill", "analysis")
    import asyncio

    from engine.backfill.logged_events import EventLog
    from engine.backfill.run import Backfilled
    from engine.backfill.run import backfill as run_backfill
    from engine.catalog import load_plan
    from engine.customers.store import ProfileStore

    own = from_environment(experiments=experiments, data=data)
    folder = own.experiments
    plan = load_plan(folder, own.plans)
    if not plan.rules.computed.rules:
        raise BadInput(f"{folder}: traits.yaml defines no trait; add one, such as 'orders_30d: {{count: purchase}}'")

    async def run(address: str, events: EventLog) -> Backfilled:
        store = ProfileStore.open(address, plan.rules, timeout=STORE_SECONDS)
        try:
            return await run_backfill(store, events)
        finally:
            await store.close()

    with open_store(data, redis) as settings:
        done = asyncio.run(run(settings.redis, EventLog(folder=log or settings.log, redis=settings.redis)))
    if json:
        print_json(done)
    else:
        names = format_count(len(done.traits), "trait")
        print_line(f"{names} of {format_count(done.customers, 'customer')} computed from the log.")
        print_line(
            f"{done.written:,} written, {done.unchanged:,} had them already, {done.missing:,} are not in the store."
        )
        if done.behind:
            print_line(f"{format_count(done.behind, 'customer')} left, written meanwhile; run this again.")
    return 1 if done.behind else 0
